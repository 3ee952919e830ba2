"""Environments by name."""

__all__ = ["env_maker", "env_module", "get_env_info", "list_envs", "make_env", "register_env"]

from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import entry_points
from typing import Any

import gymnasium as gym

from flowshield.envs.acrobot import AcrobotWrapper
from flowshield.envs.action_spaces import wrap_env
from flowshield.envs.cartpole import CartPoleWrapper
from flowshield.envs.geometric_chain import GeometricChainWrapper
from flowshield.envs.gridworld import GridworldWrapper
from flowshield.envs.highway import HighwayWrapper
from flowshield.envs.hopper import HopperWrapper
from flowshield.envs.lunarlander import DiscreteLunarLanderWrapper, LunarLanderWrapper
from flowshield.envs.making import make_gymnasium_env
from flowshield.envs.mountain_car import MountainCarWrapper
from flowshield.envs.pendulum import PendulumWrapper
from flowshield.envs.wrapper import EnvWrapper
from flowshield.errors import ConfigError

# Gymnasium's ids lead to the same wrappers, whose knowledge would be lost otherwise.
_ALIASES = {
    "Acrobot-v1": "acrobot",
    "CartPole-v1": "cartpole",
    "Hopper-v5": "hopper",
    "LunarLander-v3": "lunarlander",
    "LunarLanderContinuous-v3": "lunarlander",
    "MountainCarContinuous-v0": "mountain_car",
    "Pendulum-v1": "pendulum",
}

_WRAPPERS: dict[str, Callable[..., EnvWrapper]] = {
    "acrobot": AcrobotWrapper,
    "cartpole": CartPoleWrapper,
    "geometric_chain": GeometricChainWrapper,
    "gridworld": GridworldWrapper,
    "highway": HighwayWrapper,
    "hopper": HopperWrapper,
    "lunarlander": LunarLanderWrapper,
    "lunarlander_discrete": DiscreteLunarLanderWrapper,
    "mountain_car": MountainCarWrapper,
    "pendulum": PendulumWrapper,
}


def make_env(name: str, **kwargs: Any) -> EnvWrapper:
    """Makes an environment.

    Args:
        name: A registered name (see `list_envs`) or any Gymnasium id with Box observations and
            one-dimensional Box or discrete actions.
        **kwargs: Arguments of the registered wrapper or of `gymnasium.make`, such as render_mode
            or max_episode_steps. With a Gymnasium id also flatten_images=True, which takes pictures
            as rows of numbers.

    Raises:
        ConfigError: The name is unknown, an argument is not accepted, or the environment has
            observations or actions of another kind.
    """
    wrapper = _WRAPPERS.get(_ALIASES.get(name, name))
    if wrapper is not None:
        env = _call_wrapper(wrapper, name, kwargs)
        env.name = _ALIASES.get(name, name)
    else:
        flatten = bool(kwargs.get("flatten_images", False))
        given = {key: value for key, value in kwargs.items() if key != "flatten_images"}
        made = make_gymnasium_env(name, known=_WRAPPERS, **given)
        env = wrap_env(made, name=name, flatten_images=flatten)
    # by which it is made again, for a file's reader and in another process
    env.make_kwargs = kwargs
    return env


def env_maker(name: str, kwargs: Mapping[str, Any]) -> Callable[[], EnvWrapper]:
    """A function that makes an environment in any process, registered there or not.

    Args:
        name: As for `make_env`.
        kwargs: Likewise.

    Raises:
        ConfigError: The name stands for nothing that could be made again.
    """
    wrapper, spec = _WRAPPERS.get(_ALIASES.get(name, name)), gym.registry.get(name)
    if wrapper is None and spec is None:
        raise ConfigError(
            f"environment {name!r} cannot be made again in another process: give it a name with "
            "register_env or gymnasium.register, or use num_workers=0"
        )
    return partial(_make_anywhere, name, dict(kwargs), wrapper, spec)


def env_module(name: str) -> str | None:
    """The module of one's own that has to be imported before a name stands for an environment.

    Args:
        name: As for `make_env`.

    Returns:
        Where what was registered by the name is defined; None where every process knows the name,
        or none does.
    """
    made_by = _WRAPPERS.get(_ALIASES.get(name, name))
    if made_by is None:
        made_by = getattr(gym.registry.get(name), "entry_point", None)
    module = made_by.partition(":")[0] if isinstance(made_by, str) else _defined_in(made_by)
    known = {"flowshield", "gymnasium"}
    known |= {point.module.partition(".")[0] for point in entry_points(group="gymnasium.envs")}
    return None if module is None or module.partition(".")[0] in known else module


def _defined_in(made_by: Any) -> str | None:
    function = made_by.func if isinstance(made_by, partial) else made_by
    module: str | None = None if function is None else getattr(function, "__module__", None)
    return module


def register_env(name: str, wrapper_cls: Callable[..., EnvWrapper]) -> None:
    """Makes `make_env(name, **kwargs)` return `wrapper_cls(**kwargs)`.

    Args:
        name: The name; registering the same class again under it changes nothing.
        wrapper_cls: A subclass of ContinuousEnvWrapper or DiscreteEnvWrapper, or a function that
            returns an object of one.

    Raises:
        ConfigError: The name is taken by something else, or `wrapper_cls` cannot be called.
    """
    if not callable(wrapper_cls):
        raise ConfigError(
            f"register_env needs a class or function that makes a ContinuousEnvWrapper or "
            f"DiscreteEnvWrapper, got {wrapper_cls!r}"
        )
    taken = _WRAPPERS.setdefault(name, wrapper_cls)
    if taken is not wrapper_cls:
        raise ConfigError(f"environment name {name!r} is taken by {taken!r}: choose another")


def list_envs() -> list[str]:
    """Lists the registered names in alphabetical order; Gymnasium ids work besides."""
    return sorted(_WRAPPERS)


def get_env_info(name: str, **kwargs: Any) -> dict[str, int | None]:
    """Tells the sizes of an environment without keeping it.

    Args:
        name: As for `make_env`.
        **kwargs: As for `make_env`.

    Returns:
        state_dim, action_dim and max_steps, which is None where nothing cuts an episode off; and
        n_actions where actions are discrete.

    Raises:
        ConfigError: As for `make_env`.
    """
    env = make_env(name, **kwargs)
    try:
        sizes = {
            "state_dim": env.state_dim,
            "action_dim": env.action_dim,
            "max_steps": env.max_episode_steps,
        }
        return sizes if env.n_actions is None else {**sizes, "n_actions": env.n_actions}
    finally:
        env.close()


def _make_anywhere(
    name: str,
    kwargs: dict[str, Any],
    wrapper: Callable[..., EnvWrapper] | None,
    spec: Any,
) -> EnvWrapper:
    if wrapper is not None:
        _WRAPPERS.setdefault(_ALIASES.get(name, name), wrapper)
    elif name not in gym.registry:
        gym.registry[name] = spec
    return make_env(name, **kwargs)


def _call_wrapper(
    wrapper: Callable[..., EnvWrapper], name: str, kwargs: dict[str, Any]
) -> EnvWrapper:
    try:
        env = wrapper(**kwargs)
    except TypeError as error:
        raise ConfigError(
            f"environment {name!r} does not accept these arguments: {error}"
        ) from error
    if not isinstance(env, EnvWrapper):
        raise ConfigError(
            f"environment {name!r} is registered with {wrapper!r}, which made a "
            f"{type(env).__name__}; it must make a ContinuousEnvWrapper or a DiscreteEnvWrapper"
        )
    return env
