import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from flowshield.data import DataCollector, TrajectoryDataset
from flowshield.envs import make_env
from flowshield.errors import ConfigError, DataError, NotCalibratedError
from flowshield.evaluation import (
    evaluate_agent,
    evaluate_projection,
    evaluate_shield,
    false_alarms,
    lend_return_bound,
    run_episode,
)
from flowshield.evaluation.contrast import impossible_commands
from flowshield.models import BaseShield, UDRLAgent
from flowshield.models.shields import ExchangeablePairs


class KnownShield(BaseShield):
    """H uniform on [1, 5], R ~ N(0, 1), whatever the state."""

    def compute_loss(self, state, command):
        return -self.log_prob(state, command).mean()

    def log_prob(self, state, command, n_steps=None):
        inside = (command[:, 0] >= 0.5) & (command[:, 0] <= 5.5)
        normal = -0.5 * command[:, 1] ** 2 - 0.5 * math.log(2 * math.pi)
        return torch.where(inside, normal - math.log(5), -torch.inf)

    def sample_with_log_prob(self, state, n_samples, generator=None):
        uniform = torch.rand(len(state), n_samples, generator=generator)
        normal = torch.randn(len(state), n_samples, generator=generator)
        commands = torch.stack([0.5 + 5 * uniform, normal], dim=2)
        flat = self.log_prob(state.repeat_interleave(n_samples, 0), commands.reshape(-1, 2))
        return commands, flat.view(len(state), n_samples)


def one_step_episodes(n, seed):
    """Episodes of one step: every command is (1, reward), and rows are independent."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(n, 2)).astype(np.float32)
    ends = np.ones(n, bool)
    return TrajectoryDataset.from_arrays(states, states[:, :1], rng.normal(size=n), ends)


@pytest.fixture
def shield():
    known = KnownShield(2)
    data = one_step_episodes(1999, seed=0)
    known.calibrate(data, alpha=0.05)
    return known


def test_a_shield_that_knows_the_truth_detects_everything_and_keeps_its_rate(shield):
    result = evaluate_shield(shield, one_step_episodes(4000, seed=1), n_states=4000)
    # the impossible ask for the whole range of returns more, about 7 standard deviations
    assert result["detection_rate"] > 0.99 and result["auc_roc"] > 0.99
    assert result["false_positive_rate"] == pytest.approx(0.05, abs=0.015)
    assert result["calibration_error"] < 0.02
    assert result["f1_score"] == pytest.approx(2 * 1 / (2 * 1 + 0.05), abs=0.02)
    assert all(type(value) is float for value in result.values())


def test_a_given_threshold_moves_both_rates(shield):
    data = one_step_episodes(500, seed=2)
    everything = evaluate_shield(shield, data, threshold=1e9)
    nothing = evaluate_shield(shield, data, threshold=-1e9)
    assert everything["detection_rate"] == everything["false_positive_rate"] == 1.0
    assert nothing["detection_rate"] == nothing["false_positive_rate"] == 0.0
    assert evaluate_shield(shield, data, threshold=math.nan)["detection_rate"] == 1.0


def test_an_uncalibrated_shield_is_refused():
    with pytest.raises(NotCalibratedError, match="calibrate"):
        evaluate_shield(KnownShield(2), one_step_episodes(50, seed=3))


def test_false_alarms_count_strictly_below():
    alarms = false_alarms(np.array([0.0, 1.0, 2.0, 3.0]), 2.0)
    assert (alarms.count, alarms.n, alarms.rate) == (2, 4, 0.5)
    assert alarms.low < 0.5 < alarms.high


def test_projections_are_measured_by_a_fresh_check(shield):
    requests = torch.tensor([[3.0, 9.0], [50.0, 0.0], [2.0, 0.5]])
    result = evaluate_projection(shield, requests, torch.zeros(3, 2))
    assert result["projection_success"] == 1.0
    assert result["mean_log_prob"] >= float(shield.threshold)
    with pytest.raises(DataError, match="at least one command"):
        evaluate_projection(shield, requests[:0], torch.zeros(0, 2))


def test_an_environment_lends_its_bound_where_it_knows_one():
    env = make_env("lunarlander")
    known = KnownShield(8)
    known.calibrate(ExchangeablePairs(np.zeros((99, 8)), np.ones((99, 2))), alpha=0.05)
    lend_return_bound(known, env)
    states = np.stack([env.reset(seed=seed)[0] for seed in range(3)])
    bound = env.return_bound(states)
    above, below = (np.stack([np.full(3, 2.0), bound + d], axis=1) for d in (1.0, -1.0))
    scores = [known.scores(torch.tensor(states), torch.tensor(r[:, None])) for r in (above, below)]
    assert bool((scores[0] == -torch.inf).all()) and bool(scores[1].isfinite().all())
    assert known.n_uncomputed == 0
    with pytest.raises(ConfigError, match="knows no bound.*use_return_bound=false"):
        lend_return_bound(known, make_env("lunarlander", enable_wind=True))


def test_impossible_commands_lie_above_the_bound_with_the_true_horizons():
    env = make_env("lunarlander")
    data = DataCollector(env).collect(3, seed=0)
    steps = np.array([0, 5, len(data) - 1])
    commands = impossible_commands(data, steps, margin=20.0)
    np.testing.assert_array_equal(commands[:, 0], data.commands[steps, 0])
    np.testing.assert_allclose(commands[:, 1], env.return_bound(data.states[steps]) + 20, rtol=1e-5)


@pytest.fixture(scope="module")
def agent():
    torch.manual_seed(0)
    return UDRLAgent(3, 1, hidden_dim=8, n_layers=1, action_low=-2.0, action_high=2.0).eval()


def test_a_cell_depends_on_its_seed_alone(agent):
    first = evaluate_agent(agent, "Pendulum-v1", (200, -500), n_episodes=3, seed=1)
    again = evaluate_agent(agent, "Pendulum-v1", (200, -500), n_episodes=3, seed=1)
    other = evaluate_agent(agent, "Pendulum-v1", (100, -500), n_episodes=3, seed=1)
    assert first.returns == again.returns
    assert first.crashed is None  # the pendulum cannot crash
    for a, b in zip(first.episodes, other.episodes, strict=True):
        np.testing.assert_array_equal(a.episode.states[0], b.episode.states[0])


def test_one_episode_takes_a_name_or_any_gymnasium_environment(agent):
    by_name = run_episode("Pendulum-v1", agent, (200, -500), seed=5)
    by_env = run_episode(gym.make("Pendulum-v1"), agent, (200, -500), seed=5)
    assert by_name.episode.total_return == by_env.episode.total_return
    assert by_name.first_command == (200.0, -500.0) and by_name.flagged_steps == 0


def test_bad_cells_say_what_to_do(agent):
    with pytest.raises(ConfigError, match="n_episodes >= 1"):
        evaluate_agent(agent, "Pendulum-v1", (200, -500), n_episodes=0)
    with pytest.raises(ConfigError, match="pass its name"):
        evaluate_agent(agent, make_env("Pendulum-v1"), (200, -500), n_episodes=2)
