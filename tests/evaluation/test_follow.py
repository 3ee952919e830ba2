import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from flowshield.envs import ContinuousEnvWrapper
from flowshield.errors import ConfigError, NotCalibratedError
from flowshield.evaluation import (
    evaluate_agent,
    evaluate_followed,
    followed_record,
    supported_commands,
)
from flowshield.evaluation.agent import start_seeds
from flowshield.evaluation.records import cell_record
from flowshield.models import BaseShield, UDRLAgent
from flowshield.models.shields import ExchangeablePairs

N_STARTS, N_COMMANDS = 12, 5


class Ask(gym.Env):
    """Two steps; the reward of each is half the first action's. Starts differ in their state."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (1,), np.float32)
    action_space = gym.spaces.Box(-100.0, 100.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-5, 5, 1).astype(np.float32)
        self.steps = 0
        return self.state, {}

    def step(self, action):
        self.steps += 1
        return self.state, float(action[0]) / 2, self.steps == 2, False, {}


class Returns(BaseShield):
    """Two steps and a return about the state; what lies above the state is not supported."""

    shield_type = ""

    def compute_loss(self, state, command):
        raise NotImplementedError

    def log_prob(self, state, command, n_steps=None):
        return -(command[:, 1] - state[:, 0]).clamp(min=0.0)

    def sample_with_log_prob(self, state, n_samples, generator=None):
        noise = 2 * torch.randn(len(state), n_samples, generator=generator)
        returns = state[:, :1] + noise
        commands = torch.stack([torch.full_like(returns, 2.3), returns], dim=2)
        return commands, -noise.clamp(min=0.0)


class Follower(UDRLAgent):
    """Does what is asked: of the return that remains its part in the steps that remain."""

    def __init__(self):
        super().__init__(1, 1, hidden_dim=4, n_layers=1)

    def sample(self, state, command, deterministic=False):
        return 2 * command[:, 1:] / command[:, :1]


class Ignorant(Follower):
    """Does the same at a state, whatever is asked."""

    def sample(self, state, command, deterministic=False):
        return state


class Contrary(Follower):
    def sample(self, state, command, deterministic=False):
        return -super().sample(state, command)


@pytest.fixture
def shield():
    made = Returns(1)
    states = np.zeros((99, 1), np.float32)
    commands = np.stack([np.full(99, 2.0), np.linspace(-1, 0, 99)], axis=1).astype(np.float32)
    made.calibrate(ExchangeablePairs(states, commands), alpha=0.1)
    return made


def envs(n=N_STARTS * N_COMMANDS):
    return [ContinuousEnvWrapper(gym.wrappers.TimeLimit(Ask(), 5)) for _ in range(n)]


def record_of(agent, shield, tolerance=0.5):
    followed = evaluate_followed(
        agent, envs(), shield, n_starts=N_STARTS, n_commands=N_COMMANDS, seed=3
    )
    return followed_record(followed, tolerance)


def test_commands_are_supported_whole_and_spread_over_the_returns(shield):
    states = np.linspace(-5, 5, 7, dtype=np.float32)[:, None]
    quantiles, commands = supported_commands(shield, states, N_COMMANDS)
    assert quantiles == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    flat = torch.tensor(commands.reshape(-1, 2), dtype=torch.float32)
    assert not shield.is_ood(torch.tensor(states).repeat_interleave(N_COMMANDS, 0), flat).any()
    assert (commands[..., 0] == 2).all() and (np.diff(commands[..., 1]) > 0).all()
    # the lower half of a normal: its quantiles
    below = torch.distributions.Normal(0, 2).icdf(torch.tensor(quantiles / 2)).numpy()
    np.testing.assert_allclose(commands[..., 1] - states, np.tile(below, (7, 1)), atol=0.5)


def test_what_a_shield_cannot_compute_during_episodes_is_counted(shield):
    def record(command=(2.0, -1.0)):
        cell = evaluate_agent(Follower(), envs(4), command, shield, n_episodes=4)
        return cell_record(cell, None)["n_uncomputed"]

    assert record() == 0 and record_of(Follower(), shield)["n_uncomputed"] == 0
    unshielded = evaluate_agent(Follower(), envs(4), (2.0, -1.0), n_episodes=4)
    assert cell_record(unshielded, None)["n_uncomputed"] is None
    log_prob = shield.log_prob
    shield.log_prob = lambda state, command: torch.where(
        command[:, 1] == -1.0, math.nan, log_prob(state, command)
    )
    shield.n_uncomputed = 1000  # of before
    assert record() == shield.n_uncomputed - 1000 >= 4  # the request itself, in each episode
    shield.log_prob = lambda state, command: torch.full_like(command[:, 1], math.nan)
    followed = record_of(Follower(), shield)
    assert followed["n_starts_left_out"] == N_STARTS
    assert followed["n_uncomputed"] == N_STARTS * 256  # samples a start


def test_a_perfect_follower_gets_correlation_and_coverage_1(shield):
    record = record_of(Follower(), shield)
    assert record["return_rank"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert record["return_rank_pooled"]["low"] == pytest.approx(1.0)
    assert record["coverage"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert record["n_episodes"] == 60 and record["n_starts"] == 12
    assert record["horizon_rank"]["mean"] is None  # every command asks for two steps
    for level in record["levels"]:
        assert level["achieved_return"]["mean"] == pytest.approx(level["commanded_return"])
        assert level["achieved_horizon"]["mean"] == level["commanded_horizon"] == 2
        assert level["coverage"]["mean"] == 1.0 and level["coverage"]["low"] > 0.7
    asked = [level["commanded_return"] for level in record["levels"]]
    assert asked == sorted(asked)


def test_an_agent_that_ignores_commands_gets_0(shield):
    record = record_of(Ignorant(), shield)
    assert record["return_rank"]["mean"] == record["return_rank"]["high"] == 0.0
    assert record["return_rank_pooled"]["mean"] > 0.5  # the starts' doing
    assert 0 < record["coverage"]["mean"] < 0.6  # only where the state itself is asked for


def test_an_agent_that_does_the_opposite_gets_minus_1(shield):
    assert record_of(Contrary(), shield)["return_rank"]["mean"] == -1.0


def test_the_tolerance_is_the_band(shield):
    coverage = [record_of(Ignorant(), shield, t)["coverage"]["mean"] for t in (0.1, 1.0, 100.0)]
    assert coverage == sorted(coverage) and coverage[0] < coverage[-1] == 1.0


def test_the_starts_are_those_of_the_grid_and_stay_alone(shield):
    agent = Ignorant()
    followed = evaluate_followed(agent, envs(), shield, n_starts=12, n_commands=5, seed=3)
    grid = evaluate_agent(agent, envs(12), (2, 0.0), n_episodes=12, seed=3)
    starts = [e.episode.states[0, 0] for e in followed.episodes]
    assert starts == [e.episode.states[0, 0] for e in grid.episodes for _ in range(5)]
    assert all(e.flagged_steps == 0 for e in followed.episodes)
    assert start_seeds(3, 5) == start_seeds(3, 12)[:5]


def test_starts_where_nothing_is_supported_are_left_out_and_counted(shield):
    agent = Ignorant()
    shield.return_bound = lambda states: torch.where(states[:, 0] > 0, torch.inf, -torch.inf)
    some = evaluate_followed(agent, envs(), shield, n_starts=12, n_commands=5, seed=3)
    assert 0 < some.n_starts < 12 and some.n_starts + some.n_starts_left_out == 12
    assert all(e.episode.states[0, 0] > 0 for e in some.episodes)
    shield.return_bound = lambda states: torch.full((len(states),), -torch.inf)
    none = evaluate_followed(agent, envs(), shield, n_starts=12, n_commands=5, seed=3)
    record = followed_record(none, 1.0)
    assert (record["n_episodes"], record["n_starts_left_out"]) == (0, 12)


def test_bad_numbers_say_what_to_do(shield):
    with pytest.raises(ConfigError, match="n_starts >= 1"):
        evaluate_followed(Ignorant(), envs(), shield, n_starts=0)
    with pytest.raises(ConfigError, match="60 environments, got 59"):
        evaluate_followed(Ignorant(), envs(59), shield, n_starts=12, n_commands=5)
    with pytest.raises(ConfigError, match="n_commands from 1 to 256, got 300"):
        supported_commands(shield, np.zeros((1, 1), np.float32), 300)
    with pytest.raises(NotCalibratedError):
        supported_commands(Returns(1), np.zeros((1, 1), np.float32), 2)
