"""Trajectories as Arrow tables: what lies in the object store and in Parquet files."""

__all__ = ["REQUEST_COLUMNS", "arrays_of", "has_requests", "table_of"]

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flowshield.data.arrays import TrajectoryArrays, checked_arrays
from flowshield.errors import DataError, FileFormatError

REQUEST_COLUMNS = ("request_horizon", "request_return")
"""Columns that are there only where episodes have requests.

Two of numbers, not one of tensors: where other blocks lack them, Ray and pandas fill in NaN.
"""

_METADATA = b"flowshield"
_VECTORS = ("states", "actions", "next_states")
_SCALARS = {"rewards": np.float64, "terminated": np.bool_, "truncated": np.bool_}
_PER_EPISODE = ("behaviours", "levels", "indices")


def table_of(arrays: TrajectoryArrays) -> pa.Table:
    """Lays out trajectories as a table of one row a step.

    Columns: states, actions and, where the final states are known, next_states as tensors of fixed
    shape; rewards, terminated, truncated; and of each step's episode its behaviours (its name),
    levels and indices (its position in the collection); where episodes have requests, also its
    request_horizon and request_return. The schema carries the metadata as JSON.

    Args:
        arrays: Whole episodes.

    Raises:
        DataError: The metadata are not fit for JSON.
    """
    lengths = arrays.ends - arrays.starts + 1
    columns: dict[str, Any] = {
        "states": _tensors(arrays.states),
        "actions": _tensors(arrays.actions),
        **{name: pa.array(getattr(arrays, name)) for name in _SCALARS},
        **{name: pa.array(np.repeat(getattr(arrays, name), lengths)) for name in _PER_EPISODE},
    }
    if arrays.final_states is not None:
        following = np.empty_like(arrays.states)
        following[:-1] = arrays.states[1:]
        following[arrays.ends] = arrays.final_states
        columns["next_states"] = _tensors(following)
    if arrays.requests is not None:
        rows = np.repeat(arrays.requests, lengths, axis=0)
        columns |= {name: pa.array(rows[:, i]) for i, name in enumerate(REQUEST_COLUMNS)}
    try:
        metadata = json.dumps(arrays.metadata, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise DataError(f"the metadata are not fit for JSON: {error}") from error
    return pa.table(columns).replace_schema_metadata({_METADATA: metadata.encode()})


def arrays_of(
    tables: Sequence[pa.Table], source: str, metadata: dict[str, Any] | None = None
) -> TrajectoryArrays:
    """Puts tables of whole episodes together again, in their order.

    Args:
        tables: At least one, as `table_of` made them. Their memory is used as it is where there is
            one table only; several are copied once, into one.
        source: What error messages call the data.
        metadata: What is known about the whole; None = what the first table says.

    Raises:
        FileFormatError: A column is missing.
        DataError: Numbers are NaN or infinite, or no episode is finished.
        ShapeError: Columns do not fit each other.
    """
    vectors = [name for name in _VECTORS if name in tables[0].column_names]
    _demand(tables, (*_SCALARS, *_PER_EPISODE, "states", "actions"), source)
    columns = {name: _joined([_matrix(t, name, source) for t in tables]) for name in vectors}
    for name in (*_SCALARS, *_PER_EPISODE):
        columns[name] = _joined([t[name].to_numpy() for t in tables])
    last = np.flatnonzero(columns["terminated"] | columns["truncated"])
    following = columns.get("next_states")
    return checked_arrays(
        source,
        states=columns["states"],
        actions=columns["actions"],
        **{name: columns[name] for name in _SCALARS},
        behaviours=columns["behaviours"][last].astype(np.str_),
        levels=columns["levels"][last],
        indices=columns["indices"][last],
        final_states=None if following is None else following[last],
        metadata=_metadata_of(tables[0]) if metadata is None else metadata,
        requests=_requests(tables, last, source),
    )


def has_requests(table: pa.Table) -> bool:
    """Whether the table has a column for requests."""
    return not set(REQUEST_COLUMNS).isdisjoint(table.column_names)


def _requests(
    tables: Sequence[pa.Table], last: NDArray[np.intp], source: str
) -> NDArray[Any] | None:
    """The requests of the steps `last`; NaN in a table without them, whose episodes have none."""
    requested = [table for table in tables if has_requests(table)]
    if not requested:
        return None
    _demand(requested, REQUEST_COLUMNS, source)
    columns = [
        _joined(
            [t[name].to_numpy() if has_requests(t) else np.full(len(t), np.nan) for t in tables]
        )
        for name in REQUEST_COLUMNS
    ]
    return np.stack([column[last] for column in columns], axis=1)


def _tensors(rows: NDArray[Any]) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(rows))


def _matrix(table: pa.Table, name: str, source: str) -> NDArray[Any]:
    column = table[name]
    if not isinstance(column.type, pa.FixedShapeTensorType):
        raise FileFormatError(f"{source}: expected tensors of one shape as {name}")
    parts = [chunk.to_numpy_ndarray() for chunk in column.chunks]
    return _joined(parts) if parts else np.empty((0, *column.type.shape), np.float32)


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _demand(tables: Sequence[pa.Table], names: Sequence[str], source: str) -> None:
    for table in tables:
        missing = [name for name in names if name not in table.column_names]
        if missing:
            raise FileFormatError(
                f"{source}: expected the columns {', '.join(names)}; it lacks {', '.join(missing)}"
            )


def _metadata_of(table: pa.Table) -> dict[str, Any]:
    return dict(json.loads((table.schema.metadata or {}).get(_METADATA, b"{}")))
