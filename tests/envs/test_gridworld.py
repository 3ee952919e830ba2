"""The backward induction against simulation, brute force and a world worked out by hand."""

import itertools

import numpy as np
import pytest
from scipy import stats

from flowshield.data import DataCollector
from flowshield.envs import make_env
from flowshield.errors import ConfigError, DataError

SMALL = {"layout": ["+-G", "P#."], "slip": 0.2, "goal_reward": 3, "pit_reward": -2}
CORNER = [-1.0, -1.0]  # the "+" of SMALL


@pytest.fixture(scope="module")
def default():
    return make_env("gridworld")


@pytest.fixture(scope="module")
def small():
    return make_env("gridworld", **SMALL)


@pytest.fixture(scope="module")
def collected(small):
    return DataCollector(small).collect(4000, seed=11)


def from_corner(dataset):
    """Commands fulfilled by the episodes that start in the corner, independent of each other."""
    first = dataset.episode_starts
    return dataset.commands[first][(dataset.states[first] == CORNER).all(axis=1)]


def brute_force(env, state, n_steps):
    """{(h, r): probability} for h <= n_steps by walking every path."""
    grid = env.unwrapped
    cells = {tuple(grid.state_of(cell).tolist()): cell for cell in grid.cells}
    paths, result = {(cells[tuple(state)], 0): 1.0}, {}
    ways = dict(zip(grid.cells, grid.transitions(), strict=True))
    for h in range(1, n_steps + 1):
        longer = {}
        for ((cell, total), weight), way in itertools.product(paths.items(), range(5)):
            target, probability = ways[cell][way]
            total_now = total + grid.reward_of(target)
            end = grid.is_end(target)
            key = (h, total_now) if end else (target, total_now)
            bag = result if end else longer
            bag[key] = bag.get(key, 0.0) + weight * probability
        paths = longer
    return result


def test_random_actions_go_each_way_equally_often(small):
    env, counts = make_env("gridworld", layout=["...", "...", "..G"], slip=0.0), np.zeros(4)
    rng, n = np.random.default_rng(0), 4000
    places = [[0, 0.5], [0, -0.5], [0.5, 0], [-0.5, 0]]
    grid = env.unwrapped
    for action in rng.uniform(-1, 1, (n, 2)).astype(np.float32):
        grid._cell = (1, 1)
        state = grid.step(action)[0]
        counts[places.index([state[0] / 2, state[1] / 2])] += 1
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("state", [CORNER, [0.0, -1.0], [1.0, 1.0]])
def test_the_induction_equals_a_walk_over_every_path(small, state):
    expected = brute_force(small, state, 7)
    answer = small.known_answer
    for h in range(1, 8):
        returns, probabilities = answer.pmf(state, h)
        for r, p in zip(returns.tolist(), probabilities.tolist(), strict=True):
            assert p == pytest.approx(expected.get((h, r), 0.0), abs=1e-15)
    reachable = {(h, r) for h, r in answer.reachable(state).tolist() if h <= 7}
    assert reachable == expected.keys()


def test_the_first_step_worked_out_by_hand(small):
    returns, probabilities = small.known_answer.pmf(CORNER, 1)
    assert dict(zip(returns.tolist(), probabilities.tolist(), strict=True))[-2] == 0.2
    assert probabilities.sum() == 0.2  # down into the pit; the goal is two steps away


def test_horizons_and_returns_of_collected_episodes_follow_the_induction(small, collected):
    commands, answer = from_corner(collected), small.known_answer
    kinds, weights = [], []
    for h in range(1, 40):
        returns, probabilities = answer.pmf(CORNER, h)
        kinds += [(h, r) for r in returns.tolist()]
        weights += probabilities.tolist()
    expected = np.array(weights) * len(commands)
    frequent = np.flatnonzero(expected >= 5)
    seen = [tuple(command) for command in commands.astype(int).tolist()]
    counts = np.array([seen.count(kinds[i]) for i in frequent])
    rest = len(commands) - counts.sum(), len(commands) - expected[frequent].sum()
    test = stats.chisquare(np.append(counts, rest[0]), np.append(expected[frequent], rest[1]))
    assert len(frequent) > 15
    assert test.pvalue > 1e-3


def test_every_collected_command_is_reachable(small, collected):
    for state in np.unique(collected.states, axis=0):
        rows = (collected.states == state).all(axis=1)
        reachable = {tuple(pair) for pair in small.known_answer.reachable(state).tolist()}
        assert {tuple(pair) for pair in collected.commands[rows].astype(int).tolist()} <= reachable


def test_no_episode_is_truncated(small, default, collected):
    assert not collected.truncated.any()
    for env in (small, default):
        states = np.stack([env.unwrapped.state_of(cell) for cell in env.unwrapped.cells])
        anything = np.tile([np.inf, -np.inf], (len(states), 1))
        total = env.known_answer.achievability(states, anything)
        assert (1.0 - 1e-9 <= total).all() and (total < 1.0 + 1e-12).all()


@pytest.mark.parametrize("return_noise", [0.3, 1.0])
def test_the_density_integrates_to_one(return_noise):
    answer = make_env("gridworld", **SMALL, return_noise=return_noise).known_answer
    horizon, ret = np.meshgrid(np.arange(1, 90), np.linspace(-90, 90, 3601), indexing="ij")
    commands = np.stack([horizon.ravel(), ret.ravel()], axis=1)
    density = np.exp(answer.log_prob(np.tile(CORNER, (len(commands), 1)), commands))
    assert density.sum() * (ret[0, 1] - ret[0, 0]) == pytest.approx(1.0, abs=1e-6)


def test_the_density_is_that_of_the_dequantised_command(small):
    answer = small.known_answer
    returns, probabilities = answer.pmf(CORNER, 3)
    expected = (probabilities * stats.norm.pdf(0.4, returns, 1.0)).sum()
    log_prob = answer.log_prob([CORNER] * 3, [[2.51, 0.4], [3.0, 0.4], [3.49, 0.4]])
    np.testing.assert_allclose(np.exp(log_prob), expected, rtol=1e-12)
    assert answer.log_prob([CORNER], [[0.4, 0.0]])[0] == -np.inf


def test_samples_follow_the_induction(small):
    rng, n = np.random.default_rng(3), 40_000
    sample = small.known_answer.sample(np.tile(CORNER, (n, 1)), rng)
    for h, r in ((1, -2), (2, 2), (3, 3), (5, 0)):
        returns, probabilities = small.known_answer.pmf(CORNER, h)
        p = probabilities[returns == r][0]
        share = (sample == (h, r)).all(axis=1).mean()
        assert share == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / n) + 1e-12)


def test_achievability_equals_the_sum_over_everything_as_good(small):
    expected, answer = brute_force(small, CORNER, 6), small.known_answer
    for request in ((1, -2), (4, 0.5), (6.9, 2), (6, -100), (0.5, -9)):
        total = sum(p for (h, r), p in expected.items() if h <= request[0] and r >= request[1])
        assert answer.achievability([CORNER], [request])[0] == pytest.approx(total, abs=1e-14)
        noisy = sum(
            p * stats.norm.sf(request[1] - r) for (h, r), p in expected.items() if h <= request[0]
        )
        with_noise = answer.achievability([CORNER], [request], noisy=True)[0]
        assert with_noise == pytest.approx(noisy, abs=1e-14)


@pytest.mark.parametrize("noisy", [False, True])
def test_achievability_falls_with_the_return_and_rises_with_the_horizon(default, noisy):
    horizon, ret = np.meshgrid(np.arange(0, 600, 20), np.arange(-20, 21), indexing="ij")
    commands = np.stack([horizon.ravel(), ret.ravel()], axis=1)
    states = np.tile(default.unwrapped.state_of((1, 1)), (len(commands), 1))
    grid = default.known_answer.achievability(states, commands, noisy=noisy)
    grid = grid.reshape(horizon.shape)
    assert (np.diff(grid, axis=0) >= 0).all() and (np.diff(grid, axis=1) <= 1e-15).all()


@pytest.mark.parametrize("level", [0.02, 0.3])
def test_the_frontier_is_the_highest_return_by_brute_force(default, level):
    answer, state = default.known_answer, default.unwrapped.state_of((2, 1))
    horizons = [1, 2, 5, 10, 30, 200]
    frontier = answer.frontier(state, level, horizons)
    for h, best in zip(horizons, frontier.returns.tolist(), strict=True):
        returns = np.arange(-h - 6, h + 7)
        commands = np.stack([np.full_like(returns, h), returns], axis=1)
        enough = answer.achievability(np.tile(state, (len(returns), 1)), commands) >= level
        assert best == (returns[enough].max() if enough.any() else -np.inf)
    assert frontier.returns[0] == -np.inf  # no cell next to it ends the episode
    assert frontier.returns.tolist() == sorted(frontier.returns.tolist())


def test_falling_into_the_pit_is_the_crash(small, collected):
    last = np.flatnonzero(collected.dones)
    crashed = [small.crashed(True, reward) for reward in collected.rewards[last].tolist()]
    at_pit = (collected.final_states == [-1.0, 1.0]).all(axis=1)
    assert crashed == at_pit.tolist() and 0 < at_pit.mean() < 1
    assert not small.crashed(False, -2.0)


def test_states_that_are_none_are_refused(small):
    with pytest.raises(DataError, match="no state of this gridworld"):
        small.known_answer.log_prob([[1.0, -1.0]], [[1, 0]])  # the goal


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"layout": ["..", "."]}, "rows of one length"),
        ({"layout": ["..", "xG"]}, "rows of one length"),
        ({"layout": [".#G"]}, "lead to no goal or pit"),
        ({"layout": ["..."]}, "lead to no goal or pit"),
        ({"slip": 1.0}, "slip"),
        ({"goal_reward": 0.5}, "whole rewards"),
        ({"max_episode_steps": 50}, "at least"),
    ],
)
def test_what_cannot_be_a_gridworld_is_refused(kwargs, words):
    with pytest.raises(ConfigError, match=words):
        make_env("gridworld", **kwargs)


def test_the_name_and_its_arguments_build_the_same_answer_again(small):
    again = make_env(small.name, **small.make_kwargs)
    command = [[4.0, 1.0]]
    expected = small.known_answer.log_prob([CORNER], command)
    assert again.known_answer.log_prob([CORNER], command) == expected
