"""Hindsight commands against arrays written by hand and against sums of single episodes."""

import numpy as np
import pytest

from flowshield.data import compute_hindsight_commands, sample_future_commands
from flowshield.errors import DataError, ShapeError

REWARDS = [1.0, 2.0, 3.0, 10.0, -5.0, 7.0]
DONES = [False, False, True, False, True, True]


def naive_commands(rewards, dones):
    commands, start = [], 0
    for end in np.flatnonzero(dones):
        for t in range(start, end + 1):
            commands.append((end - t + 1, np.sum(rewards[t : end + 1], dtype=np.longdouble)))
        start = end + 1
    return np.array(commands, dtype=np.float64)


def test_known_answer():
    commands = compute_hindsight_commands(REWARDS, DONES)
    assert commands.dtype == np.float32
    expected = [[3, 6], [2, 5], [1, 3], [2, 5], [1, -5], [1, 7]]
    np.testing.assert_array_equal(commands, expected)


def test_one_step_episodes():
    commands = compute_hindsight_commands([1.0, 2.0], [1, 1])
    np.testing.assert_array_equal(commands, [[1, 1], [1, 2]])


def test_unfinished_tail_ends_where_the_array_ends():
    commands = compute_hindsight_commands([1.0, 2.0, 4.0], [True, False, False])
    np.testing.assert_array_equal(commands, [[1, 1], [2, 6], [1, 4]])


def test_agrees_with_summing_each_episode_alone():
    rng = np.random.default_rng(0)
    dones = rng.random(3000) < 0.02
    dones[-1] = True
    rewards = rng.normal(size=3000)
    np.testing.assert_allclose(
        compute_hindsight_commands(rewards, dones),
        naive_commands(rewards, dones),
        rtol=1e-6,
        atol=1e-6,
    )


def test_horizon_and_return_recur_backwards():
    rng = np.random.default_rng(1)
    dones = rng.random(500) < 0.1
    rewards = rng.integers(-9, 9, size=500).astype(float)
    horizon, total = compute_hindsight_commands(rewards, dones).T
    inside = ~dones[:-1]
    np.testing.assert_array_equal(horizon[:-1][inside], horizon[1:][inside] + 1)
    np.testing.assert_array_equal(total[:-1][inside], total[1:][inside] + rewards[:-1][inside])


def test_small_rewards_survive_huge_ones_in_earlier_episodes():
    # One running sum over everything would lose the last episode's 0.001 in the rounding of 1e13.
    rewards = np.concatenate([np.full(1000, 1e10), np.full(1000, 1e-3)])
    dones = np.zeros(2000, bool)
    dones[[999, 1999]] = True
    commands = compute_hindsight_commands(rewards, dones)
    np.testing.assert_allclose(commands[1000:, 1], 1e-3 * np.arange(1000, 0, -1), rtol=1e-6)


def test_a_million_steps_are_exact_to_a_ten_thousandth():
    rng = np.random.default_rng(2)
    rewards = 100 + rng.normal(size=1_000_000)
    dones = np.arange(1_000_000) % 10 == 9
    returns = compute_hindsight_commands(rewards, dones)[::10, 1]
    exact = rewards.reshape(-1, 10).sum(axis=1)
    assert np.abs(returns - exact).max() < 1e-4


@pytest.mark.parametrize(
    ("rewards", "dones", "error", "message"),
    [
        ([], [], DataError, "at least one step"),
        ([1.0, 2.0], [True], ShapeError, "one length"),
        ([[1.0]], [[True]], ShapeError, r"\[1, 1\]"),
        ([1.0, np.nan], [False, True], DataError, "reward 1 of 2 is nan"),
        ([np.inf], [True], DataError, "inf"),
        ([1.0], [2], DataError, "0 or 1"),
        ([1.0], [0.5], DataError, "0 or 1"),
    ],
)
def test_bad_input(rewards, dones, error, message):
    with pytest.raises(error, match=message):
        compute_hindsight_commands(rewards, dones)


STATES = np.zeros((6, 3))


def test_future_commands_of_last_steps_are_their_own_rewards():
    commands = sample_future_commands(STATES, REWARDS, DONES, np.array([2, 4, 5]))
    assert commands.dtype == np.float32
    np.testing.assert_array_equal(commands, [[1, 3], [1, -5], [1, 7]])


def test_future_commands_are_uniform_over_the_rest_of_the_episode():
    draws = sample_future_commands(
        STATES, REWARDS, DONES, np.zeros(30_000, int), rng=np.random.default_rng(0)
    )
    rows, counts = np.unique(draws, axis=0, return_counts=True)
    np.testing.assert_array_equal(rows, [[1, 1], [2, 3], [3, 6]])
    np.testing.assert_allclose(counts / 30_000, 1 / 3, atol=0.012)  # four standard deviations


def test_future_commands_repeat_with_a_generator():
    draws = [
        sample_future_commands(STATES, REWARDS, DONES, np.arange(6), rng=np.random.default_rng(7))
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*draws)


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([6], DataError, r"0\.\.5"),
        ([-1], DataError, r"0\.\.5"),
        ([0.5], DataError, "whole numbers"),
        ([[0]], ShapeError, "batch_indices"),
    ],
)
def test_bad_batch_indices(indices, error, message):
    with pytest.raises(error, match=message):
        sample_future_commands(STATES, REWARDS, DONES, np.array(indices))


def test_number_of_states_is_checked():
    with pytest.raises(ShapeError, match="expected 6 states"):
        sample_future_commands(STATES[:5], REWARDS, DONES, np.array([0]))
