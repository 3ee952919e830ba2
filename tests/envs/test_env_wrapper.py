"""The wrapper's sizes, normalization and refusals."""

import gymnasium as gym
import numpy as np
import pytest

from flowshield.envs import ContinuousEnvWrapper, make_env
from flowshield.errors import ConfigError, ShapeError


class Grid(gym.Env):
    """Observations of two dimensions, one of them unbounded; no step limit; not registered."""

    observation_space = gym.spaces.Box(
        np.array([[-2.0, 0.0], [-np.inf, 3.0]], np.float32),
        np.array([[4.0, 1.0], [np.inf, np.inf]], np.float32),
    )
    action_space = gym.spaces.Box(-3.0, 5.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.ones((2, 2), np.float32), {}

    def step(self, action):
        return np.ones((2, 2), np.float32), 0.0, False, False, {}


def test_sizes_of_pendulum():
    env = ContinuousEnvWrapper("Pendulum-v1")
    assert (env.state_dim, env.action_dim, env.max_episode_steps) == (3, 1, 200)
    assert env.name == "Pendulum-v1"
    assert env.action_low.dtype == np.float32
    np.testing.assert_array_equal([env.action_low, env.action_high], [[-2], [2]])


def test_observations_of_two_dimensions_are_flattened():
    env = ContinuousEnvWrapper(Grid())
    assert (env.state_dim, env.name, env.max_episode_steps) == (4, "Grid", None)
    state, _ = env.reset(seed=0)
    assert state.shape == (4,)


def test_bounded_dimensions_are_mapped_and_unbounded_ones_left():
    env = ContinuousEnvWrapper(Grid())
    states = np.array([[-2.0, 0.0, 17.0, 3.0], [4.0, 1.0, -8.0, 9.0], [1.0, 0.5, 0.0, 0.0]])
    expected = [[-1, -1, 17, 3], [1, 1, -8, 9], [0, 0, 0, 0]]
    np.testing.assert_array_equal(env.normalize_state(states), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_denormalize_undoes_normalize(dtype):
    env = make_env("lunarlander")
    states = np.random.default_rng(0).normal(size=(5, 7, 8)).astype(dtype)
    back = env.denormalize_state(env.normalize_state(states))
    assert back.dtype == dtype
    np.testing.assert_allclose(back, states, rtol=0, atol=32 * np.finfo(dtype).eps)


def test_wrong_state_shape():
    with pytest.raises(ShapeError, match=r"\[\.\.\., 8\].*got shape \[7\]"):
        make_env("lunarlander").normalize_state(np.zeros(7))


def test_step_limit_of_a_time_limit_around_an_unregistered_environment():
    env = ContinuousEnvWrapper(gym.wrappers.TimeLimit(Grid(), 12))
    assert env.max_episode_steps == 12


def test_the_base_class_lends_no_knowledge():
    env = make_env("MountainCarContinuous-v0")
    assert not env.has_controller
    assert not env.knows_crash
    assert not env.crashed(True, -100.0)
    assert env.return_bound(np.zeros((4, 2))) is None
    with pytest.raises(ConfigError, match="'MountainCarContinuous-v0' brings no controller"):
        env.controller(np.zeros(2))


def test_discrete_actions_are_refused():
    with pytest.raises(ConfigError, match=r"Discrete\(2\).*Box"):
        ContinuousEnvWrapper(gym.make("CartPole-v1"))


def test_discrete_observations_are_refused():
    with pytest.raises(ConfigError, match=r"Discrete.*Box observations"):
        ContinuousEnvWrapper(gym.make("Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3"))


def test_what_is_no_environment_is_refused():
    with pytest.raises(ConfigError, match="got int"):
        ContinuousEnvWrapper(3)
