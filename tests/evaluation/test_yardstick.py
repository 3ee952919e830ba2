"""Returns of 0 or 1, and the same in units of a millionth or a million."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from rich.console import Console

from flowshield.config import compose
from flowshield.data import DataCollector, TrajectoryDataset
from flowshield.envs import ContinuousEnvWrapper, make_env, register_env
from flowshield.evaluation import (
    Evaluator,
    Subjects,
    dataset_record,
    evaluate_shield,
    followed_lines,
    markdown_table,
    results_table,
)
from flowshield.evaluation.explorer_grid import explored_moment
from flowshield.evaluation.yardstick import Yardstick, margin_text, tolerance_text
from flowshield.models import BaseShield, UDRLAgent

UNITS = [1e-6, 1e-3, 1e3, 1e6]
LEFT_TO_THE_DATA = {"bound_margin": None, "followed": {"return_tolerance": None}}
COMMANDS = [(2.0, 1.0), (2.0, 0.0), (2.0, 0.5)]  # in units


class Coin(gym.Env):
    """Two steps; the first action's sign decides whether the return is 1 or 0, in 4 of 5 cases."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, unit):
        self.unit = unit

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.over = False
        return np.zeros(1, np.float32), {}

    def step(self, action):
        if not self.over:
            self.heads = (action[0] > 0) == (self.np_random.random() < 0.8)
            self.over = True
            return np.ones(1, np.float32), 0.0, False, False, {}
        return np.ones(1, np.float32), self.unit * float(self.heads), True, False, {}


class CoinWrapper(ContinuousEnvWrapper):
    def __init__(self, unit=1.0):
        super().__init__(gym.wrappers.TimeLimit(Coin(unit), 5))
        self.unit, self.make_kwargs = unit, {"unit": unit}

    def return_bound(self, states):
        return np.full(len(np.atleast_2d(states)), self.unit)


register_env("coin", CoinWrapper)


class CoinShield(BaseShield):
    """Knows that either return follows as likely, after two steps or after the one that is left."""

    shield_type = ""

    def __init__(self, unit):
        super().__init__(1, return_noise=0.01 * unit)
        self.unit = unit

    def compute_loss(self, state, command):
        raise NotImplementedError

    def log_prob(self, state, command, n_steps=None):
        law = torch.distributions.Normal(torch.tensor([0.0, 1.0]), 0.01)
        at_either = law.log_prob(command[:, 1:] / self.unit)
        timely = (command[:, 0] - 2.0 + state[:, 0]).abs() <= 0.5
        return at_either.logsumexp(dim=1) - 100.0 * ~timely

    def sample_with_log_prob(self, state, n_samples, generator=None):
        uniform = torch.rand(len(state), n_samples, generator=generator)
        noise = torch.randn(len(state), n_samples, generator=generator)
        returns = self.unit * ((uniform < 0.5) + 0.01 * noise)
        commands = torch.stack([2.0 - state.expand_as(returns), returns], dim=2)
        flat = self.log_prob(state.repeat_interleave(n_samples, 0), commands.flatten(0, 1))
        return commands, flat.view(len(state), n_samples)


class Follower(UDRLAgent):
    def __init__(self, unit):
        super().__init__(1, 1, hidden_dim=4, n_layers=1)
        self.unit = unit

    def sample(self, state, command, deterministic=False):
        return (command[:, 1:] / self.unit - 0.5).sign()


def collected(unit):
    return DataCollector(make_env("coin", unit=unit)).collect(60, seed=3)


def measured(unit):
    """What an evaluation of the coin says, as results.json holds it."""
    data = collected(unit)
    yardstick = Yardstick.of(data, LEFT_TO_THE_DATA)
    shield = CoinShield(unit)
    shield.eval().calibrate(data, alpha=0.1)
    evaluator = Evaluator(
        Subjects(
            agent=Follower(unit),
            shields={"coin": shield},
            make_env=lambda: make_env("coin", unit=unit),
            test=data,
            commands=[(h, r * unit) for h, r in COMMANDS],
            seed=0,
            n_episodes=40,
            n_states=100,
            bound_margin=yardstick.bound_margin,
            n_starts=8,
            n_commands=5,
            return_tolerance=yardstick.return_tolerance,
            return_grid=yardstick.return_grid,
        )
    )
    return {
        "cells": [evaluator.cell("none", (h, r * unit), None) for h, r in COMMANDS],
        "shields": {"coin": evaluator.shield("coin")},
        "followed": {"coin": evaluator.followed("coin")},
        "dataset": dataset_record(data, {}),
        "yardstick": yardstick.record(),
    }


@pytest.fixture(scope="module")
def plain():
    return measured(1.0)


@pytest.fixture(scope="module", params=UNITS)
def scaled(request):
    return request.param, measured(request.param)


def terminal(results):
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(results_table(results))
    return console.export_text()


# ------------------------------------------------------------------ returns of 0 or 1


def test_a_return_of_one_half_is_no_success_and_no_failure(plain):
    record = plain["followed"]["coin"]
    assert record["return_tolerance"] == 0.2
    assert 0.6 < record["coverage"]["mean"] < 0.95  # 4 in 5 obey; within 20 all would be met
    (line,) = followed_lines(plain)
    assert "within ±0.2 of what was asked" in line and "100%" not in line


def test_the_mean_of_zeros_and_ones_has_the_digits_that_it_is_worth(plain):
    table = markdown_table(plain)
    means = [cell["return_mean"] for cell in plain["cells"]]
    for mean in means:
        assert f"| {mean:.2f} ±0." in table
    assert f"{means[0]:.2f} ±0." in terminal(plain)


def test_what_was_derived_is_said(plain):
    assert tolerance_text(plain["yardstick"]) == (
        "a return counts as met within 0.2 (derived: a fifth of the returns' spread of 1.05)"
    )
    assert margin_text(plain["yardstick"]) == (
        "impossible commands ask for 0.2 more than the provable bound, where there is one "
        "(derived: a fifth of the returns' spread of 1.05)"
    )


def test_an_impossible_command_is_told_from_a_success(plain):
    assert plain["shields"]["coin"]["detection"]["detection_rate"] == 1.0


# ------------------------------------------------------------------ in another unit


def test_what_counts_and_what_is_counted_keep_with_the_unit(plain, scaled):
    unit, other = scaled
    for name in ("return_tolerance", "bound_margin"):
        assert other["yardstick"][name] == pytest.approx(unit * plain["yardstick"][name])
    for one, two in zip(plain["cells"], other["cells"], strict=True):
        for name in ("return_mean", "return_low", "return_high", "return_std"):
            assert two[name] == pytest.approx(unit * one[name], rel=1e-5, abs=1e-5 * unit), name
    one, two = plain["followed"]["coin"], other["followed"]["coin"]
    assert two["coverage"] == pytest.approx(one["coverage"])
    one, two = plain["shields"]["coin"], other["shields"]["coin"]
    for name in ("detection_rate", "false_positive_rate", "auc_roc"):
        assert two["detection"][name] == pytest.approx(one["detection"][name]), name
    assert two["flagged_at_start"][2]["rate"] == one["flagged_at_start"][2]["rate"] == 1.0


def test_what_is_printed_keeps_its_digits_and_stays_short(plain, scaled):
    unit, other = scaled
    one, two = (markdown_table(r).splitlines()[-1].split("|")[2:-1] for r in (plain, other))
    for text, scaled_text in zip(one, two, strict=True):
        values, others = map(_numbers, (text, scaled_text))
        assert others == pytest.approx(
            [unit * value for value in values], rel=0.02, abs=0.006 * unit
        )
        assert len(scaled_text.strip()) <= 20, scaled_text
    for text in (terminal(other), tolerance_text(other["yardstick"]), *followed_lines(other)):
        assert "0.0000" not in text and "00000000" not in text


def _numbers(text):
    return [float(part.strip(" ±").replace("−", "-")) for part in text.split("±")]


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_the_explorers_requests_are_those_of_the_unit(unit):
    data, shield = collected(unit), CoinShield(unit)
    shield.eval().calibrate(data, alpha=0.1)
    moment = explored_moment({"coin": shield}, data, [(2.0, unit)], 0, 0, 5)
    low, high = moment.returns[[0, -1]] / unit
    assert -0.5 < low <= 0.0 and 1.0 <= high < 2.0


# ------------------------------------------------------------------ what the config says


def test_the_config_goes_before_the_data():
    stated = compose("run").evaluation
    yardstick = Yardstick.of(collected(1.0), stated)
    assert (yardstick.return_tolerance, yardstick.bound_margin) == (20.0, 20.0)
    assert tolerance_text(yardstick.record()) == (
        "a return counts as met within 20 (set by the config)"
    )
    both = Yardstick.of(collected(1.0), {**LEFT_TO_THE_DATA, "bound_margin": 7.0})
    assert (both.return_tolerance, both.bound_margin) == (0.2, 7.0)
    assert list(both.derived) == ["return_tolerance"]
    assert tolerance_text(None) == margin_text({}) == ""  # of an older release


def test_whole_returns_that_differ_by_little_are_met_exactly_or_to_the_next():
    rng = np.random.default_rng(0)
    rewards = rng.integers(0, 15, 400).astype(float)
    ends = np.ones(400, bool)
    data = TrajectoryDataset.from_arrays(np.zeros((400, 1)), np.zeros((400, 1)), rewards, ends)
    yardstick = Yardstick.of(data, LEFT_TO_THE_DATA)
    assert (yardstick.return_tolerance, yardstick.bound_margin) == (1.0, 4.0)
    assert "the step between the data's returns, whose spread is" in yardstick.derived[
        "return_tolerance"
    ]  # fmt: skip
    assert "4 times the noise of 1" in yardstick.derived["bound_margin"]


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_from_python_the_margin_of_impossible_commands_is_the_datas(unit):
    data, shield = collected(unit), CoinShield(unit)
    shield.eval().calibrate(data, alpha=0.1)
    derived = evaluate_shield(shield, data, n_states=100)
    assert derived == evaluate_shield(shield, data, n_states=100, margin=0.2 * unit)
    assert derived["detection_rate"] == 1.0
