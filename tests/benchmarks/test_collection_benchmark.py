"""The collection benchmark in a tiny form: it runs, and its numbers fit together."""

import importlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def collection():
    sys.path.insert(0, str(BENCHMARKS))
    threads, environ = torch.get_num_threads(), dict(os.environ)
    yield importlib.import_module("collection")
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(environ)
    sys.path.remove(str(BENCHMARKS))


def module(name):
    return importlib.import_module(f"collecting.{name}")


def test_prints_every_contender_and_writes_json(collection, tmp_path, capsys):
    found = tmp_path / "found.json"
    collection.main(["--quick", "--kinds", "bare", "sync", "--json", str(found)])
    printed = capsys.readouterr().out
    names = ["bare loop", "2 bare processes", "SyncVectorEnv"]
    for words in (*names, "random policy", "network policy", "start-up"):
        assert words in printed
    records = json.loads(found.read_text())
    assert [(r["policy"], r["contender"]) for r in records] == [
        (policy, name) for policy in ("random", "network") for name in names
    ]
    assert all(len(r["steps_per_second"]) == 1 and r["steps_per_second"][0] > 0 for r in records)


def test_what_is_not_installed_is_left_out_and_named(collection, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    kinds = ["bare", "sb3", "rllib", "ours"]
    collection.main(["--quick", "--kinds", *kinds, "--policies", "random"])
    printed = capsys.readouterr().out
    for words in ("left out: sb3, for want of stable_baselines3", "left out: rllib", "out: ours"):
        assert words in printed
    assert "bare loop" in printed and "actors" not in printed


@pytest.mark.slow
@pytest.mark.ray
def test_rollout_actors_beside_a_bare_loop_and_the_drivers_memory(collection, capsys, monkeypatch):
    for name in ("ours", "memory"):
        monkeypatch.setattr(module(name), "ENVS_PER_WORKER", 4)
    monkeypatch.setattr(module("ours"), "_CHUNK", 8)  # episodes: a task is short
    collection.main(["--quick", "--kinds", "bare", "ours", "--policies", "network"])
    printed = capsys.readouterr().out
    assert "ours, 2 actors / 2 bare processes" in printed and "Ray's start" in printed
    collection.main(["--quick", "--memory"])
    assert "meanwhile the driver grew by" in capsys.readouterr().out


def test_ratios_are_taken_within_each_round_and_only_of_what_was_measured(collection):
    Measurement = module("contender").Measurement
    found = [
        Measurement("2 bare processes", "random", 0.0, [10.0, 20.0, 40.0]),
        Measurement("ours, 2 actors", "random", 0.0, [9.0, 19.0, 20.0]),
        Measurement("SubprocVecEnv", "random", 0.0, [3.0, 4.0, 4.0]),
    ]
    assert collection.ratios(found, [1, 2]) == [
        "ours, 2 actors / 2 bare processes: 0.90 (target 0.9)",
        "ours, 2 actors / SubprocVecEnv: 4.75 (target 4)",
    ]


class Clockwork:
    """Notes when it is started, asked and ended."""

    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def __enter__(self):
        self.calls.append(("start", self.name))
        return self

    def __exit__(self, *_):
        self.calls.append(("end", self.name))

    def speed(self, seconds):
        self.calls.append(self.name)
        return float(len(self.calls))


def test_contenders_take_turns_after_a_round_that_does_not_count(collection):
    calls = []
    named = [(name, lambda name=name: Clockwork(name, calls)) for name in "ab"]
    a, b = module("contender").interleave(named, "random", 1.0, rounds=2)
    assert calls == [("start", "a"), ("start", "b"), *"ababab", ("end", "b"), ("end", "a")]
    assert (a.steps_per_second, b.steps_per_second) == ([5.0, 7.0], [6.0, 8.0])


def test_a_bare_loop_counts_its_steps(collection, monkeypatch):
    loop = module("bare").BareLoop("random", n_envs=3)
    with loop:
        n_steps = []
        for env in loop._envs:
            step = env.step
            monkeypatch.setattr(
                env, "step", lambda action, step=step: n_steps.append(1) or step(action)
            )
        start = time.perf_counter()
        speed = loop.speed(0.2)
        seconds = time.perf_counter() - start
    assert len(n_steps) / seconds <= speed <= len(n_steps) / 0.2


def test_everyone_is_played_by_the_same_policies(collection):
    policies = module("policies")
    states = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    behaviour = policies.behaviour("network")
    group = behaviour.draw_group([None] * 5, [np.random.default_rng(0)] * 5, range(5))
    group.policy.begin(states)
    group.policy.observe(np.full(5, 100.0), np.arange(5))  # no command changes what it does
    ours = group.policy.act(states, np.arange(5))
    np.testing.assert_allclose(policies.batch_policy("network")(states), ours, atol=1e-5)
    assert np.abs(policies.batch_policy("random")(states)).max() <= 1


@pytest.mark.parametrize("option", ["--workers", "--rounds", "--vector-envs", "--transitions"])
def test_numbers_below_one_are_refused(collection, option, capsys):
    with pytest.raises(SystemExit):
        collection.main([option, "0"])
    assert "at least 1" in capsys.readouterr().err
