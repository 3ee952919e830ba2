"""Continuous mountain car: its controller, its bound, and the behaviour that its data come from."""

import numpy as np
import pytest
from omegaconf import OmegaConf

from flowshield.config import compose
from flowshield.data import DataCollector
from flowshield.envs import ContinuousEnvWrapper, MountainCarWrapper, make_env
from flowshield.errors import ShapeError


def collect(n_episodes):
    behaviour = OmegaConf.to_container(compose("run", ["env=mountain_car"]).behaviour)
    collector = DataCollector(make_env("mountain_car"), behaviour=behaviour)
    return collector.collect(n_episodes, seed=3)


@pytest.fixture(scope="module")
def collected():
    return collect(40)


@pytest.mark.parametrize("name", ["mountain_car", "MountainCarContinuous-v0"])
def test_both_names_bring_its_knowledge(name):
    env = make_env(name, goal_velocity=0.01, max_episode_steps=9)
    assert isinstance(env, MountainCarWrapper) and isinstance(env, ContinuousEnvWrapper)
    assert (env.name, env.state_dim, env.action_dim) == ("mountain_car", 2, 1)
    again = make_env(env.name, **env.make_kwargs)
    assert (again.unwrapped.goal_velocity, again.max_episode_steps) == (0.01, 9)
    assert env.has_controller and not env.knows_crash and not env.crashed(True, 99.0)


def test_the_controller_arrives_and_random_forces_do_not():
    env = make_env("mountain_car")
    arrived = DataCollector(env, env.controller).collect(20, seed=0)
    assert arrived.episode_returns.min() > 95 and arrived.episode_lengths.max() < 150
    assert arrived.n_truncated == 0 and arrived.final_states[:, 0].min() >= 0.45
    paid = 100 - 0.1 * 0.6**2 * arrived.episode_lengths  # one force throughout
    np.testing.assert_allclose(arrived.episode_returns, paid, rtol=1e-5)
    lost = DataCollector(env).collect(2, seed=0)
    assert lost.episode_returns.max() < 0 and lost.n_truncated == 2


def test_no_return_passes_the_bound_and_coasting_into_the_goal_meets_it(collected):
    env = make_env("mountain_car")
    bound = env.return_bound(collected.states)
    assert bound.shape == (len(collected),)
    assert (collected.commands[:, 1] <= bound).all()
    env.reset(seed=0)
    env.unwrapped.state = np.array([0.44, 0.05])
    _, reward, terminated, *_ = env.step(np.zeros(1, np.float32))
    assert terminated and reward == env.return_bound(np.array([0.44, 0.05])) == 100
    with pytest.raises(ShapeError):
        env.return_bound(np.zeros((2, 3)))


def test_its_behaviour_spreads_from_the_best_to_never_arriving(collected):
    returns = collected.episode_returns
    shares = np.histogram(returns, [-100, 0, 85, 93, 100])[0] / len(returns)
    assert shares.min() >= 0.1 and shares.max() <= 0.5
    assert returns.max() > 95 and returns.min() < -30
    assert collected.n_truncated == (returns < 0).sum()  # the goal alone pays


def test_its_episodes_depend_on_the_seed_alone(collected):
    again = collect(4)
    n = len(again)
    assert again.episode_returns.tolist() == collected.episode_returns[:4].tolist()
    assert again.states.tobytes() == collected.states[:n].tobytes()
    assert again.actions.tobytes() == collected.actions[:n].tobytes()
