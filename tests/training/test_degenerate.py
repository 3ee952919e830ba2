"""Datasets in which there is next to nothing to learn, or far too much of one thing."""

import numpy as np
import pytest
import torch

from flowshield.config import compose
from flowshield.data import TrajectoryDataset
from flowshield.errors import DataError
from flowshield.models import BaseShield
from flowshield.training import Trainer

SHIELDS = ("quantile", "mixture", "diffusion", "flow_matching")
SETTINGS = [
    "shield=all",
    "n_epochs=1",
    "shield_epochs=1",
    "batch_size=128",
    "calibration.alpha=0.2",
    "model.hidden_dim=16",
    "data.split={train:0.25,validation:0.25,calibration:0.25,test:0.25}",
    "device=cpu",
]


def episodes(lengths, reward=None, *, truncated=False, states=None):
    """Noise, where nothing else is said."""
    draw, n = np.random.default_rng(0), sum(lengths)
    ends = np.zeros(n, bool)
    ends[np.cumsum(lengths) - 1] = True
    return TrajectoryDataset.from_arrays(
        draw.normal(size=(n, 3)) if states is None else np.full((n, 3), states),
        draw.normal(size=(n, 1)),
        draw.normal(size=n) if reward is None else np.full(n, reward),
        ends & (not truncated),
        ends & truncated,
    )


DATASETS = {
    "constant reward": lambda: episodes([10] * 40, 1.0),
    "no reward": lambda: episodes([10] * 40, 0.0),
    "one-step episodes": lambda: episodes([1] * 60),
    "one-step episodes of one reward": lambda: episodes([1] * 60, 1.0),
    "one state": lambda: episodes([10] * 40, states=0.0),
    "all truncated": lambda: episodes([10] * 40, truncated=True),
    "huge rewards": lambda: episodes([10] * 40, 1e30),
}


@pytest.fixture
def trainer(tmp_path):
    return Trainer(compose("run", [*SETTINGS, f"log_dir={tmp_path}"]))


def check(shield, dataset):
    """Numbers, or not supported: never an answer out of nothing."""
    some = np.linspace(0, len(dataset) - 1, 50).astype(int)
    state, command = torch.tensor(dataset.states[some]), torch.tensor(dataset.commands[some])
    scores = shield.score(state, command)
    assert not scores.isnan().any() and (scores < torch.inf).all()
    assert not shield.is_ood(state, command).all()
    far = command + 1e6 * (1 + command.abs())
    assert shield.is_ood(state, far).all()
    projection = shield.project_in_detail(state, far)
    assert projection.command.isfinite().all() and (projection.command[:, 0] >= 1).all()
    supported = ~shield.is_ood(state, projection.command)
    assert torch.equal(projection.supported, supported)
    assert not shield.achievable(state[:3]).returns.isposinf().any()


@pytest.mark.parametrize("shield_type", SHIELDS)
@pytest.mark.parametrize("name", DATASETS)
def test_shields_of_degenerate_data_answer_with_numbers_or_not_supported(
    trainer, name, shield_type
):
    dataset = DATASETS[name]()
    check(trainer.train_shield(dataset, shield_type), dataset)


@pytest.mark.parametrize("name", DATASETS)
def test_agents_of_degenerate_data_act(trainer, name):
    dataset = DATASETS[name]()
    agent = trainer.train_udrl(dataset)
    states, commands = torch.tensor(dataset.states[:9]), torch.tensor(dataset.commands[:9])
    assert agent.sample(states, commands).isfinite().all()


def test_a_single_episode_is_refused_in_one_line(trainer):
    for train in (trainer.train_udrl, trainer.train_shield):
        with pytest.raises(DataError, match="1 episode is too few for the shares"):
            train(episodes([100]))


@pytest.mark.parametrize("shield_type", SHIELDS)
def test_a_shield_of_a_single_episode_cannot_be_calibrated(shield_type):
    shield, one = BaseShield.of_type(shield_type)(3), episodes([100])
    shield.fit_standardizers(torch.tensor(one.states), torch.tensor(one.commands))
    with pytest.raises(DataError, match="needs at least 4 calibration episodes, got 1"):
        shield.calibrate(one, alpha=0.2)


def test_an_episode_of_a_million_steps_is_trained_on_and_calibrated_with(tmp_path):
    settings = [*SETTINGS, f"log_dir={tmp_path}", "batch_size=65536"]
    settings += ["shield.mixture.hidden_dim=16", "shield.mixture.n_components=2"]
    trainer = Trainer(compose("run", settings))
    lengths = [4] * 40
    parts = trainer.split(episodes(lengths))  # which depends on their number alone
    for part in ("train", "calibration"):
        lengths[parts[part].episode_indices[0]] = 1_000_000
    dataset = episodes(lengths)
    check(trainer.train_shield(dataset, "mixture"), dataset)
