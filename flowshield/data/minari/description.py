"""What a Minari dataset of ours shall say about itself."""

__all__ = ["Description", "describe"]

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

import flowshield
from flowshield.data.arrays import TrajectoryArrays
from flowshield.data.minari.spaces import Actions, action_shape, read_spaces
from flowshield.envs import make_env
from flowshield.errors import ConfigError, DataError


@dataclass(frozen=True)
class Description:
    """What goes beside the arrays.

    Attributes:
        observation_space: Of the environment, if that is known; else without bounds.
        action_space: Likewise.
        facts: For metadata.json, without the spaces.
        dtypes: Types of the arrays "observations", "actions" and "rewards".
        episodes: What Minari said about each episode, by its id as text.
    """

    observation_space: gym.spaces.Box
    action_space: Actions
    facts: dict[str, Any]
    dtypes: Mapping[str, str]
    episodes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def describe(arrays: TrajectoryArrays) -> Description:
    """Finds out as much as the metadata say, making their environment if it is known here.

    Raises:
        DataError: The metadata come from Minari, and their spaces do not fit the arrays.
    """
    kept = arrays.metadata.get("minari")
    return _of_environment(arrays) if kept is None else _as_before(arrays, kept)


def _as_before(arrays: TrajectoryArrays, kept: Mapping[str, Any]) -> Description:
    """The description of a dataset that came from Minari."""
    facts = dict(kept["dataset"])
    states, actions = read_spaces(facts, "the metadata")
    sizes = (arrays.states.shape[1], arrays.actions.shape[1])
    discrete = isinstance(actions, gym.spaces.Discrete)
    fits = (math.prod(states.shape), math.prod(action_shape(actions))) == sizes
    if not fits or discrete != (arrays.actions.dtype.kind == "i"):
        raise DataError(
            f"the metadata's spaces, {states} and {actions}, do not fit states of {sizes[0]} and "
            f"actions of {sizes[1]} numbers, {arrays.actions.dtype}"
        )
    del facts["observation_space"], facts["action_space"]
    for name in ("author", "author_email"):
        if name in facts:
            facts[name] = set(facts[name])  # Minari insists
    return Description(states, actions, facts, kept["dtypes"], kept["episodes"])


def _of_environment(arrays: TrajectoryArrays) -> Description:
    states, actions = _unbounded(arrays.states.shape[1]), _actions(arrays)
    facts = {}
    env = _environment(arrays.metadata)
    if env is not None:
        own = env.unwrapped.observation_space
        if isinstance(own, gym.spaces.Box) and math.prod(own.shape) == arrays.states.shape[1]:
            states = _float32(own)
        facts = _spec(env)
        env.close()
    behaviours = ", ".join(sorted({*arrays.behaviours.tolist()} - {""}))
    name = arrays.metadata.get("env", "an environment")
    facts["description"] = (
        f"{len(arrays.ends)} episodes of {name}, written by flowshield {flowshield.__version__}"
    )
    if behaviours:
        facts["algorithm_name"] = behaviours
    columns = {
        "observations": arrays.states,
        "actions": arrays.actions,
        "rewards": arrays.rewards,
    }
    dtypes = {name: str(values.dtype) for name, values in columns.items()}
    return Description(states, actions, facts, dtypes)


def _environment(metadata: Mapping[str, Any]) -> gym.Env[Any, Any] | None:
    name, kwargs = metadata.get("env"), dict(metadata.get("env_kwargs") or {})
    kwargs.pop("render_mode", None)
    try:
        return None if name is None else make_env(name, **kwargs)
    except ConfigError:
        return None  # registered elsewhere, or its package is missing: the arrays are whole anyway


def _spec(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Gymnasium's spec of the environment as it was made, if there is one."""
    made = env.unwrapped.spec
    if made is None or made.id not in gym.registry:
        return {}
    spec = copy.deepcopy(gym.spec(made.id))
    spec.kwargs = {name: value for name, value in made.kwargs.items() if name != "render_mode"}
    spec.max_episode_steps = env.max_episode_steps  # type: ignore[attr-defined]
    try:
        return {"env_spec": spec.to_json()}
    except (TypeError, ValueError):  # an argument that JSON cannot hold
        return {}


def _float32(space: gym.spaces.Box) -> gym.spaces.Box:
    with np.errstate(over="ignore"):  # a bound beyond float32 is none
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    return gym.spaces.Box(low, high, dtype=np.float32)


def _unbounded(size: int) -> gym.spaces.Box:
    return gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)


def _actions(arrays: TrajectoryArrays) -> Actions:
    if arrays.actions.dtype.kind == "i":
        return gym.spaces.Discrete(arrays.metadata["n_actions"])
    size = arrays.actions.shape[1]
    low, high = arrays.metadata.get("action_low"), arrays.metadata.get("action_high")
    if low is None or high is None or len(low) != size:
        return _unbounded(size)
    return gym.spaces.Box(np.array(low, np.float32), np.array(high, np.float32), dtype=np.float32)
