"""The chain's formulas against its own simulation, through the collector."""

import numpy as np
import pytest
from scipy import stats

from flowshield.data import DataCollector
from flowshield.envs import make_env
from flowshield.errors import ConfigError, DataError, ShapeError

SHORT = {"mean_horizons": (2.0, 8.0)}


@pytest.fixture(scope="module")
def short():
    env = make_env("geometric_chain", **SHORT)
    return env, DataCollector(env).collect(3000, seed=5)


def starts(dataset):
    """States and commands at the starts of the episodes, which are independent of each other."""
    return dataset.states[dataset.episode_starts], dataset.commands[dataset.episode_starts]


def test_the_contexts_are_uniform_and_constant(short):
    _, dataset = short
    states, _ = starts(dataset)
    assert stats.kstest(states.ravel(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    same = (np.diff(dataset.states, axis=0) == 0).all(axis=1)
    assert same[~dataset.dones[:-1]].all()


def test_no_episode_is_truncated(short):
    env, dataset = short
    assert not dataset.truncated.any()
    slowest = env.known_answer.achievability([[1.0, 0.0]], [[np.inf, -np.inf]])
    assert 1.0 - 1e-9 <= slowest[0] < 1.0


def test_transformed_by_the_exact_distribution_the_data_are_uniform(short):
    env, dataset = short
    states, commands = starts(dataset)
    answer, rng = env.known_answer, np.random.default_rng(0)
    horizon = commands[:, 0]
    everything = np.full(len(horizon), -np.inf)
    below, upto = (
        answer.achievability(states, np.stack([h, everything], axis=1))
        for h in (horizon - 1, horizon)
    )
    u_horizon = below + rng.random(len(below)) * (upto - below)
    assert stats.kstest(u_horizon, "uniform").pvalue > 1e-3
    mean, deviation = 0.2 * states[:, 1] * horizon, 0.7 * np.sqrt(horizon)
    u_return = stats.norm.cdf((commands[:, 1] - mean) / deviation)
    assert stats.kstest(u_return, "uniform").pvalue > 1e-3


def test_the_mean_of_what_the_data_achieve_is_the_achievability(short):
    env, dataset = short
    states, commands = starts(dataset)
    for request in ((1, 0.0), (3, 1.0), (6, -2.0), (30, 3.0)):
        hits = (commands[:, 0] <= request[0]) & (commands[:, 1] >= request[1])
        exact = env.known_answer.achievability(states, np.tile(request, (len(states), 1)))
        error = np.sqrt((exact * (1 - exact)).sum()) / len(states)
        assert abs(hits.mean() - exact.mean()) < 4 * error


def test_nothing_is_remembered(short):
    """What remains after three steps is distributed as at the start, given the state."""
    env, dataset = short
    later = dataset.episode_starts[dataset.episode_lengths > 3] + 3
    states, commands = dataset.states[later], dataset.commands[later]
    log_prob = env.known_answer.log_prob(states, commands)
    again = env.known_answer.sample(states, np.random.default_rng(1))
    expected = env.known_answer.log_prob(states, again)
    error = np.hypot(log_prob.std(), expected.std()) / np.sqrt(len(later))
    assert abs(log_prob.mean() - expected.mean()) < 4 * error


@pytest.mark.parametrize("state", [[-1.0, 1.0], [0.3, -0.7]])
def test_the_density_integrates_to_one(state):
    answer = make_env("geometric_chain", **SHORT, return_noise=0.7).known_answer
    horizon, ret = np.meshgrid(np.arange(1, 200), np.linspace(-120, 120, 4801), indexing="ij")
    commands = np.stack([horizon.ravel(), ret.ravel()], axis=1)
    density = np.exp(answer.log_prob(np.tile(state, (len(commands), 1)), commands))
    assert density.sum() * (ret[0, 1] - ret[0, 0]) == pytest.approx(1.0, abs=1e-8)


def test_the_density_is_flat_in_each_unit_of_the_horizon_and_zero_below_one_step():
    answer = make_env("geometric_chain").known_answer
    horizons = np.array([0.49, 0.51, 1.0, 1.49, 1.51])
    commands = np.stack([horizons, np.full(5, 0.2)], axis=1)
    log_prob = answer.log_prob(np.zeros((5, 2)), commands)
    assert log_prob[0] == -np.inf
    assert np.ptp(log_prob[1:4]) == 0.0
    assert log_prob[4] < log_prob[3]


def test_achievability_against_a_million_samples():
    answer = make_env("geometric_chain").known_answer
    rng, n = np.random.default_rng(2), 200_000
    states = np.tile([0.4, 0.5], (n, 1))
    sample = answer.sample(states, rng)
    noisy = answer.dequantize(sample, rng)[:, 1]
    for request in ((5, 0.0), (20.7, 5.0), (60, -5.0)):
        for returns, with_noise in ((sample[:, 1], False), (noisy, True)):
            share = ((sample[:, 0] <= request[0]) & (returns >= request[1])).mean()
            exact = answer.achievability(states[:1], [request], noisy=with_noise)[0]
            assert share == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / n))


def test_achievability_falls_with_the_return_and_rises_with_the_horizon():
    answer = make_env("geometric_chain").known_answer
    horizon, ret = np.meshgrid(np.linspace(0, 80, 41), np.linspace(-30, 30, 31), indexing="ij")
    commands = np.stack([horizon.ravel(), ret.ravel()], axis=1)
    grid = answer.achievability(np.tile([0.5, -0.2], (len(commands), 1)), commands)
    grid = grid.reshape(horizon.shape)
    assert (np.diff(grid, axis=0) >= 0).all() and (np.diff(grid, axis=1) <= 0).all()
    assert (grid[0] == 0).all()


def test_the_action_decides_its_share_of_the_reward():
    env = make_env("geometric_chain", control=1.0, drift=0.0)
    env.reset(seed=0)
    for action, reward in ((0.0, 0.0), (0.5, 0.7 * stats.norm.ppf(0.75)), (-1.0, -3.64)):
        assert env.step(np.array([action], np.float32))[1] == pytest.approx(reward, abs=5e-3)


def test_what_would_spoil_the_answer_is_refused():
    with pytest.raises(ConfigError, match="at least 363"):
        make_env("geometric_chain", max_episode_steps=100)
    with pytest.raises(ConfigError, match="mean_horizons"):
        make_env("geometric_chain", mean_horizons=(0.5, 3.0))
    with pytest.raises(DataError, match="return_noise"):
        make_env("geometric_chain", return_noise=0.0)


def test_wrong_shapes_and_nan_are_refused():
    answer = make_env("geometric_chain").known_answer
    with pytest.raises(ShapeError, match=r"states \[n, 2\]"):
        answer.log_prob(np.zeros(2), np.zeros((1, 2)))
    with pytest.raises(ShapeError, match="a state for each"):
        answer.achievability(np.zeros((2, 2)), np.zeros((1, 2)))
    with pytest.raises(DataError, match="1 NaN"):
        answer.log_prob(np.zeros((1, 2)), [[1.0, np.nan]])


def test_the_name_and_its_arguments_build_the_same_answer_again():
    env = make_env("geometric_chain", drift=0.1, return_noise=0.5)
    again = make_env(env.name, **env.make_kwargs)
    state, command = [[0.1, 0.9]], [[7.0, 1.0]]
    expected = env.known_answer.log_prob(state, command)
    assert again.known_answer.log_prob(state, command) == expected
