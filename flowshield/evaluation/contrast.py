"""Commands that nobody fulfilled: what a shield ought to flag."""

__all__ = ["impossible_commands", "return_bound"]

import numpy as np
from numpy.typing import NDArray

from flowshield.data import TrajectoryDataset
from flowshield.envs import make_env
from flowshield.errors import FlowshieldError
from flowshield.models.scale import ReturnScale


def impossible_commands(
    dataset: TrajectoryDataset, steps: NDArray[np.int64], margin: float | None = None
) -> NDArray[np.float32]:
    """Commands out of reach at the given steps, with the horizons that really were left.

    Where the environment lends a bound that no policy's return can pass, the command asks for
    `margin` more than that: provably impossible. Elsewhere it asks for the return that followed
    plus the whole range of the dataset's returns: nothing in the data came near it, which is
    weaker.

    Args:
        dataset: Names its environment in its metadata.
        steps: Indices of transitions, [n].
        margin: Raw reward above the provable bound; None = `ReturnScale.margin` of the dataset.

    Returns:
        Commands [n, 2], steps and raw return.
    """
    commands = dataset.commands[steps].copy()
    bound = return_bound(dataset, dataset.states[steps])
    if bound is None:
        commands[:, 1] += dataset.commands[:, 1].max() - dataset.commands[:, 1].min()
    else:
        above = ReturnScale.of_commands(dataset.commands).margin if margin is None else margin
        commands[:, 1] = bound + above
    return commands


def return_bound(
    dataset: TrajectoryDataset, states: NDArray[np.float32]
) -> NDArray[np.floating] | None:
    """The provable bound on the return from each state [n, state_dim], [n].

    Returns:
        None where the dataset names no environment, or its environment lends no bound.
    """
    name = dataset.metadata.get("env")
    if not name:
        return None
    try:
        env = make_env(name, **dataset.metadata.get("env_kwargs", {}))
    except FlowshieldError:  # data from an environment that is not installed here still count
        return None
    bound = env.return_bound(states)
    env.close()
    return bound
