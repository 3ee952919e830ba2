"""Vectors of environments from elsewhere: Gymnasium's and Stable-Baselines3's."""

__all__ = ["GymnasiumVector", "StableBaselinesVector"]

from typing import Any, Self

import gymnasium as gym
import numpy as np

from collecting.contender import Stepping
from collecting.lander import make_lander
from collecting.policies import batch_policy


class GymnasiumVector(Stepping):
    """Gymnasium's SyncVectorEnv, or AsyncVectorEnv with a process an environment.

    Args:
        policy: "random" or "network".
        n_envs: Environments.
        processes: Whether each has a process of its own.
    """

    def __init__(self, policy: str, n_envs: int, processes: bool) -> None:
        self._policy, self._n_envs, self._processes = policy, n_envs, processes

    def __enter__(self) -> Self:
        """Makes the environments."""
        self._act, makers = batch_policy(self._policy), [make_lander] * self._n_envs
        self._envs: gym.vector.VectorEnv[Any, Any, Any] = (
            gym.vector.AsyncVectorEnv(makers, context="spawn")
            if self._processes
            else gym.vector.SyncVectorEnv(makers)
        )
        self._states = self._envs.reset(seed=0)[0]
        self._ended = np.zeros(self._n_envs, np.bool_)
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the environments."""
        self._envs.close()

    def advance(self) -> int:
        """A step of every environment; one that only resets it is none."""
        n_steps = self._n_envs - int(self._ended.sum())
        actions = self._act(self._states).astype(np.float32)
        self._states, _, terminated, truncated, _ = self._envs.step(actions)
        self._ended = terminated | truncated
        return n_steps


class StableBaselinesVector(Stepping):
    """Stable-Baselines3's SubprocVecEnv, a process an environment.

    Args:
        policy: "random" or "network".
        n_envs: Environments.
    """

    def __init__(self, policy: str, n_envs: int) -> None:
        self._policy, self._n_envs = policy, n_envs

    def __enter__(self) -> Self:
        """Makes the environments."""
        from stable_baselines3.common.vec_env import SubprocVecEnv

        self._act = batch_policy(self._policy)
        self._envs = SubprocVecEnv([make_lander] * self._n_envs, start_method="spawn")
        self._states: Any = self._envs.reset()
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the environments."""
        self._envs.close()

    def advance(self) -> int:
        """A step of every environment."""
        self._states = self._envs.step(self._act(self._states).astype(np.float32))[0]
        return self._n_envs
