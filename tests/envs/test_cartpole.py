"""CartPole: discrete actions, its controller, its end and its bound."""

import gymnasium as gym
import numpy as np
import pytest

from flowshield.data import DataCollector
from flowshield.envs import DiscreteEnvWrapper, EnvWrapper, get_env_info, make_env, wrap_env
from flowshield.errors import ConfigError


def controller():
    return {"components": [{"kind": "controller", "weight": 1.0}]}


@pytest.mark.parametrize("name", ["cartpole", "CartPole-v1"])
def test_both_names_bring_its_knowledge(name):
    env = make_env(name)
    assert (env.name, env.state_dim, env.action_dim, env.n_actions) == ("cartpole", 4, 1, 2)
    assert env.has_controller and env.knows_crash
    again = make_env(env.name, **env.make_kwargs)
    assert again.max_episode_steps == env.max_episode_steps == 500


def test_info_tells_the_number_of_actions():
    expected = {"state_dim": 4, "action_dim": 1, "max_steps": 9, "n_actions": 2}
    assert get_env_info("cartpole", max_episode_steps=9) == expected


def test_the_controller_does_not_fall_and_random_pushes_do():
    balanced = DataCollector(make_env("cartpole"), behaviour=controller()).collect(5)
    assert balanced.episode_returns.tolist() == [500.0] * 5 and balanced.n_truncated == 5
    env = make_env("cartpole")
    fallen = DataCollector(env).collect(20)
    assert fallen.episode_returns.max() < 200 and fallen.terminated.sum() == 20
    assert env.crashed(True, 1.0) and not env.crashed(False, 1.0)


def test_no_return_passes_the_bound_and_the_best_one_meets_it():
    env = make_env("cartpole", max_episode_steps=40)
    dataset = DataCollector(env, behaviour=controller()).collect(3)
    assert (dataset.commands[:, 1] <= env.return_bound(dataset.states)).all()
    assert dataset.commands[:, 1].max() == env.return_bound(dataset.states[0]) == 40
    other = make_env("cartpole", sutton_barto_reward=True)
    assert other.return_bound(np.zeros(4)) == 0


def test_any_discrete_gymnasium_environment_is_wrapped_by_its_actions():
    env = make_env("MountainCar-v0")
    assert isinstance(env, DiscreteEnvWrapper) and isinstance(env, EnvWrapper)
    assert (env.name, env.n_actions, env.has_controller) == ("MountainCar-v0", 3, False)
    env.reset(seed=0)
    assert env.step(np.array([2]))[0].shape == env.step(2)[0].shape == (2,)


class Odd(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, actions):
        self.action_space = actions


@pytest.mark.parametrize(
    "space",
    [gym.spaces.Discrete(3, start=1), gym.spaces.MultiDiscrete([2, 3]), gym.spaces.MultiBinary(2)],
    ids=str,
)
def test_other_action_spaces_are_refused(space):
    with pytest.raises(ConfigError, match=r"'Odd' has actions .*expected"):
        wrap_env(Odd(space))
