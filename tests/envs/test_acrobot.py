"""Acrobot: its controller, its bound, and the behaviour that its data come from."""

import numpy as np
import pytest
from omegaconf import OmegaConf

from flowshield.config import compose
from flowshield.data import DataCollector
from flowshield.envs import AcrobotWrapper, DiscreteEnvWrapper, make_env
from flowshield.errors import ShapeError


def collect(n_episodes):
    behaviour = OmegaConf.to_container(compose("run", ["env=acrobot"]).behaviour)
    collector = DataCollector(make_env("acrobot"), behaviour=behaviour)
    return collector.collect(n_episodes, seed=3)


@pytest.fixture(scope="module")
def collected():
    return collect(40)


@pytest.mark.parametrize("name", ["acrobot", "Acrobot-v1"])
def test_both_names_bring_its_knowledge(name):
    env = make_env(name, max_episode_steps=9)
    assert isinstance(env, AcrobotWrapper) and isinstance(env, DiscreteEnvWrapper)
    assert (env.name, env.state_dim, env.action_dim, env.n_actions) == ("acrobot", 6, 1, 3)
    assert make_env(env.name, **env.make_kwargs).max_episode_steps == 9
    assert env.has_controller and not env.knows_crash and not env.crashed(True, 0.0)


def test_the_controller_swings_up_and_random_torques_do_not():
    env = make_env("acrobot")
    swung = DataCollector(env, env.controller).collect(20, seed=0)
    assert swung.episode_returns.mean() > -90 and swung.n_truncated == 0
    up = swung.final_states.astype(np.float64)  # cos, sin of both angles
    tip = -up[:, 0] - (up[:, 0] * up[:, 2] - up[:, 1] * up[:, 3])
    assert tip.min() > 1 - 1e-6
    hanging = DataCollector(env).collect(3, seed=0)
    assert hanging.episode_returns.tolist() == [-500.0] * 3 and hanging.n_truncated == 3


def test_no_return_passes_the_bound_and_the_last_step_meets_it(collected):
    env = make_env("acrobot")
    bound = env.return_bound(collected.states)
    assert bound.shape == (len(collected),)
    assert (collected.commands[:, 1] <= bound).all()
    arrived = collected.states[collected.terminated][:3]
    assert len(arrived) == 3 and (collected.rewards[collected.terminated] == 0).all()
    np.testing.assert_array_equal(env.return_bound(arrived), np.zeros(3))
    with pytest.raises(ShapeError):
        env.return_bound(np.zeros((2, 4)))


def test_a_return_is_the_number_of_steps_but_one(collected):
    ended = collected.commands[collected.terminated]
    np.testing.assert_array_equal(ended, np.tile([1.0, 0.0], (len(ended), 1)))
    last = np.append(collected.episode_starts[1:], len(collected)) - 1
    cost = collected.episode_lengths - collected.terminated[last]
    np.testing.assert_array_equal(collected.episode_returns, -cost)


def test_its_behaviour_spreads_from_the_best_to_the_step_limit(collected):
    returns = collected.episode_returns
    shares = np.histogram(returns, [-501, -499, -150, -100, 0])[0] / len(returns)
    assert shares.min() >= 0.1 and shares.max() <= 0.5
    assert returns.max() > -80 and returns.min() == -500


def test_its_episodes_depend_on_the_seed_alone(collected):
    again = collect(4)
    n = len(again)
    assert again.episode_returns.tolist() == collected.episode_returns[:4].tolist()
    assert again.states.tobytes() == collected.states[:n].tobytes()
    assert again.actions.tobytes() == collected.actions[:n].tobytes()
