"""The spaces of a Minari dataset, and which of them trajectories can hold."""

__all__ = ["Actions", "action_shape", "read_spaces"]

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from flowshield.errors import DataError, FileFormatError

Actions = gym.spaces.Box | gym.spaces.Discrete


def read_spaces(facts: Mapping[str, Any], source: object) -> tuple[gym.spaces.Box, Actions]:
    """The observation and the action space that Minari wrote as JSON.

    Args:
        facts: Holds both as text.
        source: What error messages call the dataset.

    Raises:
        FileFormatError: One is no space.
        DataError: One is of a kind that is not supported.
    """
    observations = _read(facts["observation_space"], source)
    actions = _read(facts["action_space"], source)
    if not isinstance(observations, gym.spaces.Box):
        raise DataError(
            f"{source}: its observations are {observations}; supported are Box observations: "
            "record it through gymnasium.wrappers.FlattenObservation"
        )
    if observations.dtype == np.uint8 and len(observations.shape) > 1:
        raise DataError(
            f"{source}: its observations are images, {observations}; supported are Box "
            "observations that dense layers can read: record features instead"
        )
    if isinstance(actions, gym.spaces.Box) and len(actions.shape) == 1:
        return observations, actions
    if isinstance(actions, gym.spaces.Discrete) and actions.start == 0:
        return observations, actions
    raise DataError(
        f"{source}: its actions are {actions}; supported are one-dimensional Box actions and "
        "discrete ones that count from 0"
    )


def action_shape(space: Actions) -> tuple[int, ...]:
    """Shape of one action: [] where it is a whole number."""
    return () if isinstance(space, gym.spaces.Discrete) else space.shape


def _read(text: str, source: object) -> gym.Space[Any]:
    from minari.serialization import deserialize_space

    try:
        return deserialize_space(text)
    except Exception as error:  # Gymnasium's spaces assert, and raise nearly anything else
        raise FileFormatError(f"{source}: {text!r} is no space: {error!r}") from error
