"""A trial of a sweep in this process, without Ray."""

import warnings

import pytest
import torch

from flowshield.config import compose
from flowshield.data import DataCollector
from flowshield.distributed.sweep_trial import run_trial
from flowshield.envs import make_env
from flowshield.errors import DataError
from flowshield.evaluation.sweep_score import WORST_SCORE
from flowshield.models import BaseShield
from flowshield.search_space import trial_config
from flowshield.training import Trainer

OVERRIDES = [
    "env=gridworld",
    "behaviour=random",
    "shield.mixture.hidden_dim=16",
    "shield_epochs=4",
    "batch_size=64",
    "checkpoint_every=2",
    "evaluation.n_states=100",
    "calibration.alpha=0.1",
    "device=cpu",
]


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def dataset():
    env = make_env("gridworld")
    data = DataCollector(env, behaviour={"components": [{"kind": "random", "weight": 1.0}]})
    episodes = data.collect(100, seed=0)
    for array in (episodes.states, episodes.actions, episodes.rewards):
        array.flags.writeable = False  # as they come out of Ray's object store
    return episodes


def settings(tmp_path, rate=1e-2):
    config = trial_config(
        compose("tune", OVERRIDES), {"shield": "mixture", "shield.learning_rate": rate}
    )
    config.log_dir = str(tmp_path / "tensorboard")
    return config


def run(config, dataset, folder, until=99):
    told = []

    def report(figures, files):
        told.append((figures, None if files is None else sorted(f.name for f in files.iterdir())))
        if figures["epoch"] == until:
            raise Killed

    run_trial(config, dataset, folder, report)
    return told


def test_a_trial_reports_its_epochs_and_then_its_calibrated_shield(dataset, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not writable.*")
        told = run(settings(tmp_path), dataset, tmp_path)
    assert [figures["epoch"] for figures, _ in told] == [1, 2, 3, 4, 4]
    assert [figures["finished"] for figures, _ in told] == [False] * 4 + [True]
    files = ["best.pt", "last.pt"]
    assert [f for _, f in told] == [None, files, None, files, [*files, "shield.pt"]]
    for n, (figures, _) in enumerate(told[:4], start=1):
        assert len(figures["scores"]) == n and figures["score"] == figures["scores"][-1]
        assert figures["scores"] == told[4][0]["scores"][:n]
        assert 1 <= figures["best_epoch"] <= n
    shield = BaseShield.load(tmp_path / "mixture" / "shield.pt")
    assert shield.calibration.alpha == 0.1


def test_a_trial_that_was_killed_goes_on_and_ends_as_an_unbroken_one(dataset, tmp_path):
    config = settings(tmp_path)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = run(config, dataset, whole)
    with pytest.raises(Killed):
        run(config, dataset, broken, until=3)
    found = run(config, dataset, broken)
    assert [figures["epoch"] for figures, _ in found] == [3, 4, 4]
    assert found[-1] == expected[-1]
    ours, theirs = (
        BaseShield.load(f / "mixture" / "shield.pt").state_dict() for f in (broken, whole)
    )
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_loss_that_breaks_is_an_error_of_the_trial(dataset, tmp_path):
    ((figures, files),) = run(settings(tmp_path, rate=1e30), dataset, tmp_path)
    assert "no longer finite in epoch 1" in figures["error"]
    assert (figures["epoch"], figures["score"], files) == (0, WORST_SCORE, None)


def test_what_was_scored_before_an_error_is_told_with_it(dataset, tmp_path, monkeypatch):
    calibrate, calls = Trainer.calibrate, []

    def refuse_the_last(*arguments):
        calls.append(1)
        if len(calls) == 5:  # four epochs were judged by then
            raise DataError("no threshold")
        return calibrate(*arguments)

    monkeypatch.setattr(Trainer, "calibrate", refuse_the_last)
    told = [figures for figures, _ in run(settings(tmp_path), dataset, tmp_path)]
    assert [figures["epoch"] for figures in told] == [1, 2, 3, 4, 4]
    assert (told[-1]["error"], told[-1]["score"]) == ("no threshold", WORST_SCORE)
    assert told[-1]["scores"] == told[-2]["scores"] and not told[-1]["finished"]
