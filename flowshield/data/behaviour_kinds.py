"""The kinds of behaviour from which data come, each a way of making one episode's policy."""

__all__ = ["KINDS", "BehaviourKind", "StatePolicy"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowshield.envs import ContinuousEnvWrapper, EnvWrapper
from flowshield.errors import ConfigError

StatePolicy = Callable[[NDArray[np.float32]], Any]
"""A policy for one state at a time: state [state_dim] -> action [action_dim]."""


@dataclass(frozen=True)
class BehaviourKind:
    """One kind of behaviour.

    Attributes:
        make: Builds the policy of one episode from its environment, generator and level.
        level_meaning: What a level is, in words; None where the kind has no level.
        admits: Whether a number can be a level of this kind.
        needs_controller: Whether the environment must bring a controller.
    """

    make: Callable[[EnvWrapper, np.random.Generator, float], StatePolicy]
    level_meaning: str | None = None
    admits: Callable[[float], bool] = lambda level: False
    needs_controller: bool = False


def _random(env: EnvWrapper, rng: np.random.Generator, level: float) -> StatePolicy:
    return env.uniform_policy(rng)


def _controller(env: EnvWrapper, rng: np.random.Generator, level: float) -> StatePolicy:
    return env.controller


def _noisy(env: EnvWrapper, rng: np.random.Generator, sigma: float) -> StatePolicy:
    if not isinstance(env, ContinuousEnvWrapper):
        raise ConfigError(
            f"environment {env.name!r} has discrete actions, to which no noise can be added: use "
            "epsilon_random in place of noisy_controller"
        )
    low, high, size = env.action_low, env.action_high, env.action_dim

    def act(state: NDArray[np.float32]) -> NDArray[Any]:
        noise = sigma * rng.standard_normal(size)
        return np.minimum(np.maximum(env.controller(state) + noise, low), high)

    return act


def _epsilon_random(env: EnvWrapper, rng: np.random.Generator, epsilon: float) -> StatePolicy:
    explore = _random(env, rng, np.nan)
    return lambda state: explore(state) if rng.random() < epsilon else env.controller(state)


def _takeover(env: EnvWrapper, rng: np.random.Generator, n_steps: float) -> StatePolicy:
    explore, steps_left = _random(env, rng, np.nan), int(n_steps)

    def act(state: NDArray[np.float32]) -> Any:
        nonlocal steps_left
        steps_left -= 1
        return explore(state) if steps_left >= 0 else env.controller(state)

    return act


KINDS = {
    "random": BehaviourKind(_random),
    "controller": BehaviourKind(_controller, needs_controller=True),
    "noisy_controller": BehaviourKind(
        _noisy,
        "standard deviation of the action noise, in units of the action, at least 0",
        lambda level: level >= 0,
        needs_controller=True,
    ),
    "epsilon_random": BehaviourKind(
        _epsilon_random,
        "probability in 0..1 that a step's action is random",
        lambda level: 0 <= level <= 1,
        needs_controller=True,
    ),
    "takeover": BehaviourKind(
        _takeover,
        "whole number of random steps before the controller takes over, at least 0",
        lambda level: level >= 0 and level == int(level),
        needs_controller=True,
    ),
}
"""The kinds by the name that a config gives them."""
