"""Environments by the kind of their actions: numbers within bounds, or one of several."""

__all__ = ["ContinuousEnvWrapper", "DiscreteEnvWrapper", "wrap_env"]

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from flowshield.envs.making import make_gymnasium_env
from flowshield.envs.wrapper import EnvWrapper
from flowshield.errors import ConfigError, DataError


class ContinuousEnvWrapper(EnvWrapper):
    """An environment whose action is a vector of numbers; see `EnvWrapper`.

    Reset and step are Gymnasium's and pass through unchanged.

    Attributes:
        action_low: Smallest action [action_dim], float32, in the environment's units.
        action_high: Largest action [action_dim], float32, in the environment's units.
    """

    n_actions = None

    def _read_actions(self) -> None:
        space = self.action_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise ConfigError(
                f"environment {self.name!r} has actions {space}; expected one-dimensional Box "
                "actions: discrete ones are DiscreteEnvWrapper's, and `wrap_env` chooses; others "
                "need a wrapper of your own"
            )
        self.action_dim: int = space.shape[0]
        self.action_low: NDArray[np.float32] = space.low.astype(np.float32)
        self.action_high: NDArray[np.float32] = space.high.astype(np.float32)

    def as_actions(self, values: Any, n_rows: int) -> NDArray[np.float32]:
        """Clips actions to the bounds; see `EnvWrapper.as_actions`."""
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
            actions = np.asarray(values, dtype=np.float32)
        self._check_rows(actions, n_rows)
        clipped = np.minimum(np.maximum(actions, self.action_low), self.action_high)
        return np.where(np.isfinite(actions), clipped, actions)

    def uniform_policy(self, rng: np.random.Generator) -> Callable[[Any], NDArray[Any]]:
        """Draws between the bounds; see `EnvWrapper.uniform_policy`."""
        low, high, size = self.action_low, self.action_high, self.action_dim
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ConfigError(
                f"environment {self.name!r} has unbounded actions, over which nothing is uniform: "
                "pass your own policy, a callable state -> action"
            )
        span = high - low
        return lambda state: low + span * rng.random(size)

    def action_facts(self) -> dict[str, Any]:
        """The bounds: "action_low" and "action_high"."""
        return {"action_low": self.action_low.tolist(), "action_high": self.action_high.tolist()}


class DiscreteEnvWrapper(EnvWrapper):
    """An environment whose action is one of n_actions; see `EnvWrapper`.

    Actions are the whole numbers 0..n_actions-1. In rollouts and datasets one is a row [1], int64;
    `step` takes that or a bare number.
    """

    n_actions: int
    action_dim = 1

    def _read_actions(self) -> None:
        space = self.action_space
        if not isinstance(space, gym.spaces.Discrete) or space.start != 0:
            raise ConfigError(
                f"environment {self.name!r} has actions {space}; expected discrete actions that "
                "count from 0: Box actions are ContinuousEnvWrapper's, and `wrap_env` chooses; "
                "others need a wrapper of your own"
            )
        self.n_actions = int(space.n)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Gymnasium's step with a row [1] or a number as its action."""
        return self.env.step(int(action[0]) if np.ndim(action) else int(action))

    def as_actions(self, values: Any, n_rows: int) -> NDArray[np.int64]:
        """Refuses what is no action; see `EnvWrapper.as_actions`."""
        given = np.asarray(values)
        self._check_rows(given, n_rows)
        with np.errstate(invalid="ignore"):  # of NaN comes a number that is not equal to it
            actions = given.astype(np.int64)
        wrong = (actions != given) | (actions < 0) | (actions >= self.n_actions)
        if wrong.any():
            raise DataError(
                f"the policy returned the action {given[wrong][0]} in environment {self.name!r}; "
                f"expected a whole number in 0..{self.n_actions - 1}"
            )
        return actions

    def uniform_policy(self, rng: np.random.Generator) -> Callable[[Any], NDArray[Any]]:
        """Draws one of them evenly; see `EnvWrapper.uniform_policy`."""
        return lambda state: rng.integers(self.n_actions, size=1)

    def action_facts(self) -> dict[str, Any]:
        """Their number: "n_actions"."""
        return {"n_actions": self.n_actions}


def wrap_env(
    env: gym.Env[Any, Any] | str, *, name: str | None = None, flatten_images: bool = False
) -> EnvWrapper:
    """Wraps an environment by the kind of its actions.

    Args:
        env: A Gymnasium environment, or the id of one, with Box observations.
        name: What error messages and files call it; by default the Gymnasium id.
        flatten_images: Whether to take pictures as observations; see `EnvWrapper`.

    Raises:
        ConfigError: Its observations or actions are of a kind that no wrapper takes.
    """
    made = make_gymnasium_env(env) if isinstance(env, str) else env
    discrete = isinstance(getattr(made, "action_space", None), gym.spaces.Discrete)
    wrapper = DiscreteEnvWrapper if discrete else ContinuousEnvWrapper
    return wrapper(made, name=name, flatten_images=flatten_images)
