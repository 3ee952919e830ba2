"""Tables of arrays that others saved, by the names that they use: D4RL's, Minari's and ours."""

__all__ = ["arrays_of_table", "joined_trajectories"]

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowshield.data.action_layouts import recognised_actions
from flowshield.data.array_checks import checked_flags, checked_numbers, checked_shape
from flowshield.data.arrays import TrajectoryArrays, checked_arrays
from flowshield.errors import DataError, FileFormatError, ShapeError
from flowshield.limits import check_unfolded

# The first name that is there is taken.
_NAMES = {
    "states": ("states", "observations", "obs"),
    "actions": ("actions",),
    "rewards": ("rewards",),
    "terminated": ("terminated", "terminals", "terminations"),
    "truncated": ("truncated", "timeouts", "truncations"),
    "dones": ("dones", "done"),
    "next_states": ("next_states", "next_observations", "next_obs"),
}
_NEEDED = ("states", "actions", "rewards")
_FLAGS = ("dones", "terminated", "truncated")


def arrays_of_table(table: Mapping[str, Any], path: str | os.PathLike[str]) -> TrajectoryArrays:
    """Reads a table that is none of flowshield's files.

    Dones count as terminated, less what a limit cut off where the table says so. Steps after the
    last flag are an episode that was truncated there. The table may also say "n_actions", or
    "action_low" and "action_high".

    Args:
        table: Arrays by their names: states, actions, rewards and flags, of N steps; next_states
            are read for the states after the last actions.
        path: What errors call it.

    Raises:
        FileFormatError: Arrays are missing.
        DataError, ShapeError: As `checked_arrays`.
    """
    source, found = str(path), _found(table)
    _demand(table, found, path)
    actions, facts = recognised_actions(found["actions"], _facts(table, source))
    terminated, truncated = _flags(found, source)
    arrays = checked_arrays(
        source,
        states=found["states"],
        actions=actions,
        rewards=found["rewards"],
        terminated=terminated,
        truncated=truncated,
        metadata=facts,
    )
    if "next_states" not in found:
        return arrays
    following = checked_shape(found["next_states"], "next states", source, arrays.states.shape)
    last = following[arrays.ends]
    final = checked_numbers(last, "final next states", source, last.shape, np.float32)
    return replace(arrays, final_states=final)


def joined_trajectories(
    trajectories: Sequence[Any], path: str | os.PathLike[str], size: int
) -> dict[str, NDArray[Any]]:
    """Lays a list of tables, one an episode, end to end: the Decision Transformer's pickles.

    Args:
        trajectories: Tables of arrays.
        path: What errors call it.
        size: Bytes of the file.

    Raises:
        FileFormatError: They are no tables of arrays, hold other arrays than the first one does,
            or would unfold to far more than the file has.
        ShapeError: Their arrays do not fit each other.
    """
    tables = [
        _found(each)
        for each in trajectories
        if isinstance(each, dict) and all(isinstance(value, np.ndarray) for value in each.values())
    ]
    names = tables[0].keys() if tables else set()
    alike = all(table.keys() == names for table in tables)
    if len(tables) < len(trajectories) or not alike or not {*_NEEDED} <= names:
        raise FileFormatError(
            f"{path}: expected a pickled dict of arrays, got a list; it may hold such dicts, one "
            "an episode, with the same names, and observations, actions and rewards among them"
        )
    check_unfolded(sum(a.nbytes for table in tables for a in table.values()), size, path)
    for table in tables:
        _end(table, str(path))
    try:
        return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    except ValueError as error:
        raise ShapeError(f"{path}: its episodes do not fit each other: {error}") from error


def _end(table: dict[str, NDArray[Any]], source: str) -> None:
    """Sets the flag of a trajectory's last step: where nothing ended it, it was cut off there."""
    steps = len(checked_shape(table["rewards"], "rewards", source, (None,)))
    flags = {
        name: checked_flags(table[name], name, source, steps) for name in _FLAGS if name in table
    }
    truncated = flags.get("truncated", np.zeros(steps, np.bool_))
    truncated[-1] |= not any(flag[-1] for flag in flags.values())
    table["truncated"] = truncated


def _found(table: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays by our names."""
    return {
        ours: table[name]
        for ours, names in _NAMES.items()
        if (name := next((name for name in names if name in table), None)) is not None
    }


def _flags(found: Mapping[str, Any], source: str) -> tuple[Any, Any]:
    truncated = found.get("truncated")
    if "terminated" in found:
        return found["terminated"], truncated
    if "dones" not in found:
        return np.zeros_like(truncated), truncated
    if truncated is None:
        return found["dones"], None
    if np.shape(found["dones"]) != np.shape(truncated):
        raise ShapeError(
            f"{source}: expected as many dones as truncated, got shapes "
            f"{list(np.shape(found['dones']))} and {list(np.shape(truncated))}"
        )
    return np.where(np.asarray(truncated) == 1, 0, found["dones"]), truncated


def _facts(table: Mapping[str, Any], source: str) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if "n_actions" in table:
        number = np.asarray(table["n_actions"])
        if number.size != 1 or number.dtype.kind not in "iuf" or number.item() % 1:
            raise DataError(f"{source}: expected one whole number as n_actions, got {number!r:.80}")
        facts["n_actions"] = int(number.item())
    for name in ("action_low", "action_high"):
        if name in table:
            bounds = np.atleast_1d(np.asarray(table[name]))
            facts[name] = checked_numbers(bounds, name, source, (None,), np.float64).tolist()
    return facts


def _demand(
    table: Mapping[str, Any], found: Mapping[str, Any], path: str | os.PathLike[str]
) -> None:
    missing = [name for name in _NEEDED if name not in found]
    if not any(name in found for name in _FLAGS):
        missing.append("dones")
    if missing:
        raise FileFormatError(
            f"{path}: expected the arrays states (or observations), actions, rewards and dones (or "
            f"terminated and truncated, or terminals and timeouts); it lacks {', '.join(missing)} "
            f"and holds {', '.join(map(str, table)) or 'nothing'}"
        )
