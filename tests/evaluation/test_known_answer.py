import math

import numpy as np
import pytest
import torch

from flowshield.data import DataCollector
from flowshield.envs import make_env
from flowshield.errors import ConfigError, DataError
from flowshield.evaluation import contrast_commands, evaluate_known_answer
from flowshield.models import BaseShield


class ExactShield(BaseShield):
    """Says what the answer says, off by a constant number of nats; samples from it too."""

    def __init__(self, answer, off=0.0, **noise):
        super().__init__(2, **noise)
        self.answer, self.off = answer, off

    def compute_loss(self, state, command):
        return -self.log_prob(state, command).mean()

    def log_prob(self, state, command, n_steps=None):
        exact = self.answer.log_prob(state.numpy(), command.numpy())
        return torch.from_numpy(exact - self.off)

    def sample_with_log_prob(self, state, n_samples, generator=None):
        rows, rng = np.repeat(state.numpy(), n_samples, axis=0), np.random.default_rng(0)
        drawn = self.answer.dequantize(self.answer.sample(rows, rng), rng)
        log_prob = torch.from_numpy(self.answer.log_prob(rows, drawn))
        shape = (len(state), n_samples)
        return torch.from_numpy(drawn).float().view(*shape, 2), log_prob.view(shape)


class ExactFrontierShield(ExactShield):
    """Knows the achievability exactly too."""

    def log_achievabilities(self, state, commands):
        m = commands.shape[1]
        rows = np.repeat(state.numpy(), m, axis=0)
        exact = self.answer.achievability(rows, commands.reshape(-1, 2).numpy())
        return torch.from_numpy(exact).log().view(len(state), m)


@pytest.fixture(scope="module", params=["geometric_chain", "gridworld"])
def world(request):
    env = make_env(request.param)
    return env.known_answer, DataCollector(env).collect(200, seed=4)


def test_the_truth_has_no_excess_and_bayes_own_auroc(world):
    answer, dataset = world
    result = evaluate_known_answer(ExactShield(answer), dataset, n_states=500)
    assert result["excess_nll"] == pytest.approx(0.0, abs=1e-6)
    assert result["auroc"] == result["auroc_bayes"]
    assert 0.6 < result["auroc_bayes"] < 0.95
    assert all(type(value) is float for value in result.values())


def test_the_excess_counts_the_nats_by_which_a_model_is_off(world):
    answer, dataset = world
    result = evaluate_known_answer(ExactShield(answer, off=0.25), dataset, n_states=500)
    assert result["excess_nll"] == pytest.approx(0.25, abs=1e-6)
    assert result["excess_nll_error"] == pytest.approx(0.0, abs=1e-6)


def test_what_cannot_be_computed_is_an_infinite_excess(world):
    answer, dataset = world
    result = evaluate_known_answer(ExactShield(answer, off=math.inf), dataset, n_states=50)
    assert result["excess_nll"] == result["excess_nll_error"] == math.inf


def test_a_shield_that_scores_by_achievability_meets_the_exact_achievability(world):
    answer, dataset = world
    shield = ExactFrontierShield(answer)
    shield.score_type = "achievability"
    result = evaluate_known_answer(shield, dataset, n_states=500)
    assert result["auroc"] == pytest.approx(result["auroc_bayes"], abs=1e-3)


def test_only_the_gridworld_has_a_frontier_to_miss(world):
    answer, dataset = world
    result = evaluate_known_answer(ExactFrontierShield(answer), dataset, n_states=50)
    if hasattr(answer, "frontier"):
        assert result["frontier_error_worst"] <= 0.1  # how exact `achievable` promises to be
        assert result["frontier_within_step"] == 1.0
    else:
        assert math.isnan(result["frontier_error"]) and math.isnan(
            result["frontier_perfect_within_step"]
        )


def test_a_model_of_the_dequantised_law_is_held_to_that_law():
    """Perfect at what it learns, it meets that law's frontier, and misses the other as foretold."""
    env = make_env("gridworld")
    dataset = DataCollector(env).collect(200, seed=4)

    class Learnt(ExactFrontierShield):
        def log_achievabilities(self, state, commands):
            flat = commands.flatten(0, 1).double().numpy()
            states = state.repeat_interleave(commands.shape[1], dim=0).numpy()
            exact = self.answer.achievability(states, flat, noisy=True)
            return torch.from_numpy(exact).log().view(commands.shape[:2])

    found = evaluate_known_answer(Learnt(env.known_answer), dataset, n_states=50)
    assert found["frontier_dequantized_error_worst"] <= 0.1
    assert found["frontier_dequantized_within_step"] == 1.0
    assert found["frontier_error"] == pytest.approx(found["frontier_perfect_error"], abs=0.05)
    assert found["frontier_error_worst"] > 1.0 > found["frontier_within_step"] > 0.5


def test_a_frontier_from_samples_of_the_truth_is_within_a_step_of_the_grid():
    env = make_env("gridworld")
    dataset = DataCollector(env).collect(200, seed=4)
    result = evaluate_known_answer(ExactShield(env.known_answer), dataset, n_states=50)
    assert result["frontier_error"] < 1.0


def test_a_frontier_that_is_never_found_is_an_error_as_large_as_the_world():
    env = make_env("gridworld")
    dataset = DataCollector(env).collect(200, seed=4)

    class Pessimist(ExactShield):
        def log_achievabilities(self, state, commands):
            return torch.full(commands.shape[:2], -math.inf)

    result = evaluate_known_answer(Pessimist(env.known_answer), dataset, n_states=50)
    assert 4.0 < result["frontier_error"] < result["frontier_error_worst"] < math.inf


@pytest.mark.parametrize("noise", [0.01, 0.5, 3.0])
def test_a_shield_is_held_against_the_truth_under_its_own_noise_on_returns(world, noise):
    answer, dataset = world
    shield = ExactShield(answer.with_noise(noise), return_noise=noise)
    result = evaluate_known_answer(shield, dataset, n_states=300)
    assert result["excess_nll"] == pytest.approx(0.0, abs=1e-4)
    assert result["auroc"] == result["auroc_bayes"]
    assert answer.return_noise == 1.0  # what was asked is a copy


def test_a_density_under_other_noise_on_horizons_is_refused(world):
    answer, dataset = world
    words = "shield models commands with horizon_noise=2 and the known answer with horizon_noise=1"
    with pytest.raises(ConfigError, match=words):
        evaluate_known_answer(ExactShield(answer, horizon_noise=2.0), dataset)


def test_a_shield_without_noise_on_returns_has_no_truth(world):
    answer, dataset = world
    with pytest.raises(DataError, match="return_noise > 0"):
        evaluate_known_answer(ExactShield(answer, return_noise=0.0), dataset)


def test_contrast_commands_are_of_three_kinds_and_repeatable():
    rng = np.random.default_rng(0)
    commands = np.stack([rng.integers(1, 40, 900), rng.integers(-9, 9, 900)], 1).astype(np.float32)
    contrast = contrast_commands(commands, np.random.default_rng(1))
    np.testing.assert_array_equal(contrast, contrast_commands(commands, np.random.default_rng(1)))
    difference = contrast - commands
    spread = commands[:, 1].std()
    shifted = (difference[:, 0] == 0) & (abs(difference[:, 1]) == np.rint(2 * spread))
    halved = (contrast[:, 0] == np.ceil(commands[:, 0] / 2)) & (difference[:, 1] == np.rint(spread))
    assert 0.25 < shifted.mean() < 0.42 and 0.25 < halved.mean() < 0.42
    assert (contrast[:, 0] >= 1).all() and (contrast == np.rint(contrast)).all()
    rest = {tuple(pair) for pair in contrast[~(shifted | halved)].tolist()}
    assert rest <= {tuple(pair) for pair in commands.tolist()}


@pytest.mark.parametrize("unit", [1e-6, 0.25, 1e6])
def test_contrast_commands_are_those_of_another_unit(unit):
    rng = np.random.default_rng(0)
    whole = np.stack([rng.integers(1, 40, 900), rng.integers(-9, 9, 900)], 1).astype(np.float32)
    smooth = whole + np.stack([np.zeros(900), rng.normal(size=900)], 1).astype(np.float32)
    for commands in (whole, smooth):
        scaled = commands * np.float32([1, unit])
        one, other = (contrast_commands(c, np.random.default_rng(1)) for c in (commands, scaled))
        np.testing.assert_allclose(other, one * [1, unit], rtol=1e-4, atol=1e-4 * unit)


def test_other_behaviours_and_other_environments_are_refused(world):
    answer, _ = world
    slow = {"components": [{"kind": "controller", "weight": 1.0}]}
    lander = make_env("lunarlander", max_episode_steps=5)
    dataset = DataCollector(lander, behaviour=slow).collect(2)
    with pytest.raises(DataError, match="'lunarlander' has no known answer"):
        evaluate_known_answer(ExactShield(answer), dataset)
    with pytest.raises(DataError, match="episodes of controller"):
        evaluate_known_answer(ExactShield(answer), dataset, answer)
