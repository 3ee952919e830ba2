"""Gymnasium's `make`, with errors that say what to do."""

__all__ = ["demand_package", "make_gymnasium_env"]

import difflib
import importlib.util
from collections.abc import Iterable
from typing import Any

import gymnasium as gym

from flowshield.errors import ConfigError, unknown_name


def make_gymnasium_env(name: str, known: Iterable[str] = (), **kwargs: Any) -> gym.Env[Any, Any]:
    """Makes an environment by its Gymnasium id.

    Args:
        name: A Gymnasium id, such as "Pendulum-v1".
        known: Further names that the error for an unknown id shall offer.
        **kwargs: Arguments of `gymnasium.make`.

    Raises:
        ConfigError: There is no such id, it names a module, its package is missing, or an argument
            is not accepted.
    """
    if ":" in name:  # Gymnasium would import what stands before it, and a name may be a stranger's
        module, _, bare = name.partition(":")
        raise ConfigError(
            f"environment {name!r} names a module to import, which no name does here: set "
            f"FLOWSHIELD_PLUGINS={module}, and call it {bare!r}"
        )
    # Gymnasium's checker costs a call on every step and repeats what the wrapper and the rollout
    # check themselves.
    kwargs = {"disable_env_checker": True, **kwargs}
    try:
        return gym.make(name, **kwargs)
    except gym.error.UnregisteredEnv as error:
        raise _unknown_env(name, known) from error
    except (gym.error.Error, ImportError) as error:
        raise ConfigError(f"environment {name!r} cannot be made: {error}") from error
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"environment {name!r} cannot be made with these arguments: {error}"
        ) from error


def demand_package(name: str, *, extra: str, env: str) -> None:
    """Checks that a package of one of our extras is installed.

    Raises:
        ConfigError: It is not; the message says how to install it.
    """
    if importlib.util.find_spec(name) is None:
        raise ConfigError(
            f"environment {env!r} needs the package {name}, which is not installed: "
            f'pip install "flowshield[{extra}]"'
        )


def _unknown_env(name: str, known: Iterable[str]) -> ConfigError:
    near = difflib.get_close_matches(name, gym.registry, n=3, cutoff=0.6)
    error = unknown_name("environment", name, {*known, *near})
    return ConfigError(f"{error}, or any other Gymnasium id with Box observations")
