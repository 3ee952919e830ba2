"""Whether a dataset is of the run's environment."""

__all__ = ["Fit", "check_dataset", "fit_of"]

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from flowshield.data import TrajectoryDataset
from flowshield.envs import ContinuousEnvWrapper, EnvWrapper, make_env
from flowshield.errors import ConfigError

_NO_BOUND = 1e30  # what some environments write instead of infinity
_ROUNDING = 1e-3  # of an environment's range of actions
_MOST_SHOWN = 4


class Fit(NamedTuple):
    """How a dataset fits an environment.

    Attributes:
        misfit: Why an agent of these data could not act there as it learned to; None where nothing
            speaks against it.
        doubt: What a user should look at; None where there is nothing.
    """

    misfit: str | None
    doubt: str | None = None


def check_dataset(dataset: TrajectoryDataset, config: DictConfig) -> str | None:
    """Refuses data of another environment, on which an agent can be trained but not act.

    Returns:
        `Fit.doubt`.

    Raises:
        ConfigError: See `Fit.misfit`.
    """
    fit = fit_of(dataset, config)
    if fit.misfit:
        raise ConfigError(fit.misfit)
    return fit.doubt


def fit_of(dataset: TrajectoryDataset, config: DictConfig) -> Fit:
    """Compares a dataset with the run's environment.

    States of another length, actions of another kind or number or beyond the environment's bounds
    are a misfit, and so is an environment that cannot be made. Actions that fill another range than
    the environment's raise a doubt.
    """
    try:
        env = make_env(config.env.name, **config.env.kwargs)
    except ConfigError as error:
        return Fit(f"cannot check that the data fit {config.env.name}: {error}")
    needed = _words(env.state_dim, env.action_dim, env.n_actions)
    found = _words(dataset.state_dim, dataset.action_dim, dataset.n_actions)
    env.close()
    if found == needed:
        return _ranges_fit(dataset, env)
    source = dataset.metadata.get("env")
    return Fit(
        f"the dataset{f' of {source}' if source else ''} has {found}, environment {env.name} has "
        f"{needed}: {_unsaid(dataset, env)}choose the data's environment with env=, or other data "
        "with data.path="
    )


def _words(state_dim: int, action_dim: int, n_actions: int | None) -> str:
    actions = f"{n_actions} discrete actions" if n_actions else f"actions of length {action_dim}"
    return f"states of length {state_dim} and {actions}"


def _unsaid(dataset: TrajectoryDataset, env: EnvWrapper) -> str:
    """What the file may say of its actions, where that is all that does not fit."""
    if dataset.state_dim != env.state_dim:
        return ""
    if "n_actions_from" in dataset.metadata:
        right = (
            "action_low and action_high" if env.n_actions is None else f"n_actions={env.n_actions}"
        )
        how = dataset.metadata["n_actions_from"]
        return f"the number of actions was told by {how}; save {right} with the arrays, or "
    if dataset.n_actions is None and env.n_actions and dataset.action_dim == 1:
        return f"if these are whole numbers, save n_actions={env.n_actions} with the arrays, or "
    return ""


def _ranges_fit(dataset: TrajectoryDataset, env: EnvWrapper) -> Fit:
    if not isinstance(env, ContinuousEnvWrapper):
        return Fit(None)
    low, high = env.action_low, env.action_high
    bounded = (np.abs(low) < _NO_BOUND) & (np.abs(high) < _NO_BOUND) & (low < high)
    slack = np.where(bounded, _ROUNDING * (high - low), np.inf)
    beyond = (dataset.actions < low - slack) | (dataset.actions > high + slack)
    least, most = dataset.actions.min(axis=0), dataset.actions.max(axis=0)
    ranges = (
        f"the dataset's actions range from {_numbers(least)} to {_numbers(most)}, those of "
        f"environment {env.name} from {_numbers(low)} to {_numbers(high)}"
    )
    if beyond.any():
        share = beyond.any(axis=1).mean()
        return Fit(
            f"{ranges}, and {100 * share:.3g}% of the steps have one beyond: where the environment "
            "clipped them, clip the data, too; where they were stored in other units, scale them; "
            "or choose the data's environment with env="
        )
    if not bounded.any():
        return Fit(None)
    span, filled = (high - low)[bounded], (most - least)[bounded]
    if _normalised(least, most) and not _normalised(low, high):
        why = "stored actions that end at -1 and 1 are mostly scaled"
    elif (stated := _stated(dataset)) is not None and not np.allclose(stated, (low, high)):
        why = f"the data's metadata say {_numbers(stated[0])} to {_numbers(stated[1])}"
    elif stated is None and (filled <= (0.5 + _ROUNDING) * span).all():
        why = "they fill no more than half of it"
    else:
        return Fit(None)
    return Fit(None, f"{ranges} ({why}): if they were stored in other units, scale them first")


def _normalised(low: NDArray[Any], high: NDArray[Any]) -> bool:
    return bool(np.allclose(low, -1, atol=0.02) and np.allclose(high, 1, atol=0.02))


def _stated(dataset: TrajectoryDataset) -> NDArray[np.float64] | None:
    """The bounds [2, action_dim] that the metadata speak of, if they do."""
    try:
        told = [dataset.metadata.get(name) for name in ("action_low", "action_high")]
        bounds = np.array(told, np.float64)
    except (TypeError, ValueError):  # a file may say anything
        return None
    return bounds if bounds.shape == (2, dataset.action_dim) else None


def _numbers(values: NDArray[Any]) -> str:
    shown = [f"{value:.4g}" for value in values[:_MOST_SHOWN]]
    return f"[{', '.join([*shown, '...'] if len(values) > _MOST_SHOWN else shown)}]"
