import numpy as np
import pytest
import torch

from flowshield.data import TrajectoryDataset
from flowshield.evaluation.plane import extent, moment_planes, plane_at, typical_episode
from flowshield.models import BaseShield
from flowshield.models.shields import MixtureShield


@pytest.fixture(scope="module")
def episodes():
    rng = np.random.default_rng(0)
    lengths = (8, 12, 5)
    ends = np.cumsum(lengths) - 1
    terminated = np.zeros(sum(lengths), bool)
    terminated[ends] = True
    rewards = rng.normal(1.0, 0.5, sum(lengths))
    states = rng.normal(size=(sum(lengths), 3))
    return TrajectoryDataset.from_arrays(states, np.zeros((25, 2)), rewards, terminated)


@pytest.fixture(scope="module")
def shield(episodes):
    torch.manual_seed(0)
    shield = MixtureShield(3, hidden_dim=8, n_layers=1, n_components=2)
    states, commands = map(torch.as_tensor, (episodes.states, episodes.commands))
    shield.fit_standardizers(states, commands)
    shield.eval().calibrate(episodes, alpha=0.3)
    return shield


def test_a_plane_holds_what_the_shield_says(shield, episodes):
    plane = plane_at(shield, episodes, [(10, 5.0), (40, -30.0)], episode=1, step=4)
    state = torch.as_tensor(episodes.states[[8 + 4]])
    for i, j in ((0, 0), (40, 13), (79, 79)):
        command = torch.tensor([[plane.horizons[j], plane.returns[i]]], dtype=torch.float32)
        assert plane.log_prob[i, j] == pytest.approx(shield.score(state, command).item(), abs=1e-4)
    assert plane.threshold == shield.threshold.item()
    projected = shield.project(state.expand(2, -1), torch.as_tensor(plane.requests))
    np.testing.assert_allclose(plane.projections, projected, rtol=1e-5)


def test_a_request_stands_at_what_is_left_of_it(shield, episodes):
    gained = episodes.rewards[8:12].sum()
    plane = plane_at(shield, episodes, [(10, 5.0), (3, 2.0)], episode=1, step=4)
    expected = [[6.0, 5.0 - gained], [1.0, 2.0 - gained]]  # a horizon never falls below one
    np.testing.assert_allclose(plane.requests, expected, rtol=1e-5)
    np.testing.assert_array_equal(plane.fulfilled, episodes.commands[[12]])
    # the data: of all episodes that last longer than four steps, from their fifth on
    np.testing.assert_array_equal(plane.data_commands, episodes.commands[[4, 12, 24]])


def test_moments_are_spread_over_the_episode(shield, episodes):
    assert list(moment_planes(shield, episodes, [], 0)) == [
        f"step {step} of 8" for step in (0, 2, 4, 6)
    ]
    assert typical_episode(episodes) == np.argsort(episodes.episode_returns)[1]


def test_a_far_request_does_not_set_the_extent_and_a_near_one_does():
    data = np.array([[100.0, 0.0], [200.0, 10.0]])
    inside = np.array([[150.0, 5.0]])
    horizons, returns = extent(data, np.array([[1000.0, 5.0], [250.0, 90.0]]), inside, 30, 1.0)
    assert 250 < horizons[-1] < 300 and 90 < returns[-1] < 110 and len(horizons) == 30
    assert extent(data, np.empty((0, 2)), np.array([[900.0, 0.0]]), 5, 1.0)[0][-1] > 900


class Anywhere(BaseShield):
    """Supports every command alike."""

    shield_type = ""

    def compute_loss(self, state, command):
        raise NotImplementedError

    def log_prob(self, state, command, n_steps=None):
        return torch.zeros(len(command))

    def sample_with_log_prob(self, state, n_samples, generator=None):
        shape = (len(state), n_samples)
        return torch.zeros(*shape, 2), torch.zeros(shape)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_the_returns_of_a_plane_are_those_of_the_data_whatever_their_unit(unit):
    rng = np.random.default_rng(0)
    ends = np.tile([False, True], 60)
    rewards = unit * np.where(ends, rng.integers(0, 2, 120), 0)
    states = np.zeros((120, 1))
    episodes = TrajectoryDataset.from_arrays(states, np.zeros((120, 1)), rewards, ends)
    shield = Anywhere(1)
    shield.eval().calibrate(episodes, alpha=0.1)
    plane = plane_at(shield, episodes, [(2, 0.5 * unit)])
    low, high = plane.returns[[0, -1]] / unit
    assert -0.2 < low < 0.0 and 1.0 < high < 1.2
