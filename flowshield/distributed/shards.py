"""Training rows in Ray's object store, and each rank's share of them on its device."""

__all__ = ["ShardStream", "put_rows", "row_bytes", "shard_rows"]

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


def put_rows(tensors: TransitionTensors) -> ray.data.Dataset:
    """Puts transitions into the object store, in blocks that the ranks of a training share.

    Returns:
        Columns states, actions, commands (float32 vectors) and row (int64: its place in `tensors`).
    """
    columns = {
        "states": _vectors(tensors.states),
        "actions": _vectors(tensors.actions),
        "commands": _vectors(tensors.commands),
        "row": pa.array(np.arange(len(tensors))),
    }
    table = pa.table(columns)
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
    return stream.rows_of(
        {name: torch.from_numpy(column[order]).to(device) for name, column in columns.items()}
    )


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
        self.return_after: Tensor | None = None
        if return_after is not None:
            self.return_after = torch.from_numpy(return_after.copy()).to(device)  # Ray's is frozen
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
        """Rows on the device, made of the columns that `put_rows` wrote."""
        tensors = TransitionTensors.of_rows(
            columns["states"],
            columns["actions"],
            columns["commands"],
            rows=columns["row"],
            return_after=self.return_after,
        )
        return CommandPairs(tensors) if self.pairs else tensors


def _vectors(tensor: Tensor) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(tensor.cpu().contiguous().numpy())


def _short(came: int, expected: int) -> DataError:
    return DataError(f"expected {expected} training rows in this worker's shard, got {came}")
