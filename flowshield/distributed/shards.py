"""Training rows in Ray's object store, and each rank's share of them on its device."""

__all__ = [
    "ShardStream",
    "put_rows",
    "resident_rows",
    "row_bytes",
    "rows_table",
    "shard_rows",
]

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch
from torch import Tensor

from flowshield.data import CommandPairs, TransitionTensors
from flowshield.errors import DataError
from flowshield.training.rows import Rows

_LEAST_BLOCKS = 16  # so that several ranks can take whole blocks
_BLOCK_ROWS = 65_536
_PULLED_STEPS = 32  # one pull from a stream serves so many steps: pulling costs more than gathering
_BUFFERED_PULLS = 4  # a stream is shuffled among so many pulls


def rows_table(tensors: TransitionTensors) -> pa.Table:
    """Transitions as a table that other processes read without a copy.

    Returns:
        Columns states, actions, commands (float32 vectors; discrete actions int64) and row (int64:
        its place in `tensors`).
    """
    columns = {
        "states": _vectors(tensors.states),
        "actions": _vectors(tensors.actions),
        "commands": _vectors(tensors.commands),
        "row": pa.array(np.arange(len(tensors))),
    }
    return pa.table(columns)


def resident_rows(
    table: pa.Table,
    device: torch.device,
    return_after: np.ndarray[Any, Any] | None,
    pairs: bool,
) -> Rows:
    """The rows of a training that one worker has to itself, all on its device.

    Args:
        table: From `rows_table`.
        device: Where they shall lie.
        return_after: Return after each row, for "future" commands; None = "remaining".
        pairs: Whether batches are (state, command), as shields take them.
    """
    columns = {name: _numpy(table[name].combine_chunks()) for name in table.column_names}
    return _rows(_on(columns, device), _after(return_after, device), pairs)


def put_rows(table: pa.Table) -> ray.data.Dataset:
    """Puts transitions into the object store, in blocks that the ranks of a training share.

    Args:
        table: From `rows_table`.
    """
    size = min(_BLOCK_ROWS, math.ceil(len(table) / _LEAST_BLOCKS))
    blocks = [table.slice(start, size) for start in range(0, len(table), size)]
    dataset = ray.data.from_arrow(blocks)
    dataset.context.enable_progress_bars = False
    return dataset


def row_bytes(tensors: TransitionTensors) -> int:
    """Bytes of one row on a device."""
    columns = (tensors.states, tensors.actions, tensors.commands)
    return 8 + sum(column.element_size() * column.shape[1] for column in columns)


def shard_rows(
    shard: ray.data.DataIterator,
    n_rows: int,
    *,
    device: torch.device,
    batch_size: int,
    resident: bool,
    return_after: np.ndarray[Any, Any] | None,
    pairs: bool,
) -> Rows:
    """A rank's training rows, all on the device or streamed to it.

    Args:
        shard: From `ray.train.get_dataset_shard`, of what `put_rows` made.
        n_rows: How many the shard has.
        device: Where batches shall lie.
        batch_size: Rows that this rank takes a step.
        resident: Whether all shall lie on the device.
        return_after: Return after each of ALL rows, for "future" commands; None = "remaining".
        pairs: Whether batches are (state, command), as shields take them.

    Raises:
        DataError: The shard has fewer rows.
    """
    stream = ShardStream(shard, n_rows, device, batch_size, return_after, pairs)
    if not resident:
        return stream
    whole_blocks: Any = None
    parts = list(shard.iter_batches(batch_size=whole_blocks, batch_format="numpy"))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    # Ray deals blocks out as they come; the order of the data makes a rank's rows one thing only
    order = np.argsort(columns["row"])[:n_rows]
    if len(order) < n_rows:
        raise _short(len(order), n_rows)
    return stream.rows_of(_on({name: part[order] for name, part in columns.items()}, device))


class ShardStream:
    """Training rows that do not fit on the device: they pass by once an epoch.

    Ray shuffles them within a buffer. What has just been pulled lies on the device, and `batch`
    gathers from it.

    Args:
        shard: From `ray.train.get_dataset_shard`.
        n_rows: How many the shard has.
        device: Where batches shall lie.
        batch_size: Rows that this rank takes a step.
        return_after: Return after each of ALL rows, for "future" commands; None = "remaining".
        pairs: Whether batches are (state, command), as shields take them.
    """

    def __init__(
        self,
        shard: ray.data.DataIterator,
        n_rows: int,
        device: torch.device,
        batch_size: int,
        return_after: np.ndarray[Any, Any] | None,
        pairs: bool,
    ) -> None:
        self.shard, self.n_rows, self.device, self.pairs = shard, n_rows, device, pairs
        self.pull = _PULLED_STEPS * batch_size
        self.return_after = _after(return_after, device)
        self.pulled: Rows | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return self.n_rows

    def batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        """Gathers rows of what has just been pulled."""
        assert self.pulled is not None  # `epoch` is what asks
        return self.pulled.batch(indices)

    def epoch(self, batch_size: int, shuffle: torch.Generator) -> Iterator[Tensor]:
        """See `flowshield.training.rows.EpochRows.epoch`.

        Raises:
            DataError: The stream ended early; the other ranks would wait for this one for ever.
        """
        steps = self.n_rows // batch_size
        done = 0
        for columns in self.shard.iter_torch_batches(
            batch_size=self.pull,
            device=str(self.device),
            local_shuffle_buffer_size=_BUFFERED_PULLS * self.pull,
            local_shuffle_seed=shuffle.initial_seed() % 2**32,
        ):
            self.pulled = self.rows_of(columns)
            for start in range(0, len(self.pulled) - batch_size + 1, batch_size):
                if done < steps:  # to the stream's end even so: the ranks begin an epoch together
                    done += 1
                    yield torch.arange(start, start + batch_size, device=self.device)
        if done < steps:
            raise _short(done * batch_size, steps * batch_size)

    def rows_of(self, columns: dict[str, Tensor]) -> Rows:
        """Rows on the device, made of the columns that `rows_table` wrote."""
        return _rows(columns, self.return_after, self.pairs)


def _rows(columns: dict[str, Tensor], return_after: Tensor | None, pairs: bool) -> Rows:
    tensors = TransitionTensors.of_rows(
        columns["states"],
        columns["actions"],
        columns["commands"],
        rows=columns["row"],
        return_after=return_after,
    )
    return CommandPairs(tensors) if pairs else tensors


def _on(columns: dict[str, np.ndarray[Any, Any]], device: torch.device) -> dict[str, Tensor]:
    # copies: what comes out of the object store is frozen
    return {name: torch.tensor(column, device=device) for name, column in columns.items()}


def _after(return_after: np.ndarray[Any, Any] | None, device: torch.device) -> Tensor | None:
    return None if return_after is None else torch.tensor(return_after, device=device)


def _numpy(column: pa.Array) -> np.ndarray[Any, Any]:
    vectors = isinstance(column, pa.FixedShapeTensorArray)
    array: np.ndarray[Any, Any] = column.to_numpy_ndarray() if vectors else column.to_numpy()
    return array


def _vectors(tensor: Tensor) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(tensor.cpu().contiguous().numpy())


def _short(came: int, expected: int) -> DataError:
    return DataError(f"expected {expected} training rows in this worker's shard, got {came}")
