"""Minari's episodes laid end to end, with all that is said about them."""

__all__ = ["COUNTED", "trajectories"]

import json
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from flowshield.data.arrays import TrajectoryArrays, checked_arrays
from flowshield.data.minari.spaces import Actions
from flowshield.errors import FileFormatError

COUNTED = ("total_episodes", "total_steps", "dataset_size", "data_format", "jpeg_encoding")
"""What Minari counts itself, and how it stores: no part of what the dataset is about."""

_ARRAYS = ("observations", "actions", "rewards")


def trajectories(
    source: str,
    facts: Mapping[str, Any],
    actions: Actions,
    episodes: Sequence[Mapping[str, Any]],
    told: Sequence[Mapping[str, Any]],
) -> TrajectoryArrays:
    """Lays checked episodes end to end.

    Args:
        source: What error messages call the dataset.
        facts: Its metadata.json.
        actions: Its action space.
        episodes: As Minari gives them, at least one, each of T >= 1 steps and T + 1 observations.
        told: What Minari says about each.

    Raises:
        FileFormatError: Its env_spec cannot be read.
        DataError: Its numbers are NaN or infinite.
    """
    observations = [rows["observations"].reshape(len(rows["rewards"]) + 1, -1) for rows in episodes]
    columns = {
        name: np.concatenate([episode[name] for episode in episodes])
        for name in ("actions", "rewards", "terminations", "truncations")
    }
    columns["observations"] = np.concatenate([rows[:-1] for rows in observations])
    final_states = np.stack([rows[-1] for rows in observations])
    ends = np.cumsum([len(episode["rewards"]) for episode in episodes]) - 1
    going_on = ends[~(columns["terminations"] | columns["truncations"]).astype(np.bool_)[ends]]
    columns["truncations"][going_on] = True
    ours = facts.get("flowshield")
    if ours is None:
        metadata = _described(source, facts, actions, told)
        metadata["minari"]["dtypes"] = {name: str(columns[name].dtype) for name in _ARRAYS}
        metadata["minari"]["not_kept"] = _not_kept(columns, episodes, len(going_on))
    else:
        metadata = ours["metadata"]
    return checked_arrays(
        source,
        states=columns["observations"],
        actions=columns["actions"],
        rewards=columns["rewards"],
        terminated=columns["terminations"],
        truncated=columns["truncations"],
        final_states=None if _unknown(final_states) else final_states,
        metadata=metadata,
        **({} if ours is None else _labels(told, ours["format_version"])),
    )


def _unknown(final_states: NDArray[Any]) -> bool:
    """Whether nobody recorded them: `save_minari` then writes NaN, for Minari wants something."""
    return final_states.dtype.kind == "f" and bool(np.isnan(final_states).all())


def _labels(told: Sequence[Mapping[str, Any]], version: int) -> dict[str, list[Any]]:
    labels = {
        "behaviours": [str(episode.get("behaviour", "")) for episode in told],
        "levels": [episode.get("level", np.nan) for episode in told],
        "indices": [episode.get("episode_index", i) for i, episode in enumerate(told)],
    }
    if version > 1:  # it was written for every episode: one that lacks it is refused by its shape
        labels["requests"] = [episode.get("request", ()) for episode in told]
    return labels


def _described(
    source: str,
    facts: Mapping[str, Any],
    actions: Actions,
    told: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The metadata of a dataset that is not ours: in our words, and in Minari's under "minari"."""
    metadata = _environment(source, facts.get("env_spec"))
    if isinstance(actions, gym.spaces.Discrete):
        metadata["n_actions"] = int(actions.n)
    elif np.isfinite([actions.low, actions.high]).all():
        metadata["action_low"] = actions.low.tolist()
        metadata["action_high"] = actions.high.tolist()
    metadata["minari"] = {
        "dataset": {name: fact for name, fact in facts.items() if name not in COUNTED},
        "episodes": {
            str(number): {
                name: fact for name, fact in episode.items() if name not in ("id", "total_steps")
            }
            for number, episode in enumerate(told)
        },
    }
    plain: dict[str, Any] = json.loads(json.dumps(metadata, default=_plain))
    return plain


def _environment(source: str, env_spec: object) -> dict[str, Any]:
    if env_spec is None:
        return {}
    try:
        spec = json.loads(str(env_spec))
        name, kwargs, limit = str(spec["id"]), dict(spec["kwargs"]), spec["max_episode_steps"]
    except (ValueError, TypeError, KeyError) as error:
        raise FileFormatError(f"{source}: its env_spec cannot be read ({error!r})") from error
    if ":" in name:
        raise FileFormatError(
            f"{source}: its env_spec's id {name!r} names a module, which would be imported to make "
            "the environment; expected the id of a registered one"
        )
    kwargs.pop("render_mode", None)
    limited = {} if limit is None else {"max_episode_steps": limit}
    return {
        "env": name,
        "env_id": name,
        "env_kwargs": {**kwargs, **limited},
        "max_episode_steps": limit,
    }


def _not_kept(
    columns: Mapping[str, NDArray[Any]], episodes: Sequence[Mapping[str, Any]], n_going_on: int
) -> list[str]:
    """What is lost on the way from Minari, in words."""
    notes = []
    infos = sorted({name for episode in episodes for name in episode["infos"] or ()})
    if infos:
        notes.append(f"the infos {', '.join(infos)}, which nothing here reads")
    discrete = columns["actions"].ndim == 1  # whole numbers, which stay what they are
    for name in ("observations",) if discrete else ("observations", "actions"):
        values = columns[name]
        if values.dtype.kind in "fiu" and (values.astype(np.float32) != values).any():
            notes.append(f"the digits of {values.dtype} {name} that float32 does not hold")
    if n_going_on:
        notes.append(
            f"that {n_going_on} episodes were neither terminated nor truncated at their last step: "
            "they count as truncated there"
        )
    return notes


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else repr(value)
