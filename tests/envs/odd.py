"""An environment that does what it should, and others that differ from it in one thing."""

import gymnasium as gym
import numpy as np

from flowshield.envs import wrap_env

ZEROS = np.zeros(3, np.float32)


class Plain(gym.Env):
    """States of three zeros, no reward, no end."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return ZEROS.copy(), {}

    def step(self, action):
        return ZEROS.copy(), 0.0, False, False, {}


def odd(**methods):
    """A class with other methods or attributes than `Plain`."""
    return type("Odd", (Plain,), methods)


def stepping(*given):
    """One whose step returns this."""
    return odd(step=lambda self, action: given)


def resetting(given):
    """One whose reset returns this."""
    return odd(reset=lambda self, *, seed=None, options=None: given)


def limited(env_class, steps=4):
    """Wrapped, with Gymnasium's own wrappers around it or, without a step limit, bare."""
    return wrap_env(gym.wrappers.TimeLimit(gym.wrappers.OrderEnforcing(env_class()), steps))


def bare(env_class, steps=4):
    """Wrapped, with nothing else around it."""
    env = wrap_env(env_class())
    env.max_episode_steps = steps
    return env
