"""Rows to train on and to judge by, and the order in which an epoch visits them."""

__all__ = [
    "VALIDATION_ROWS",
    "EpochRows",
    "Rows",
    "ShuffledRows",
    "check_rows",
    "describe",
    "spread",
]

import zlib
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from flowshield.errors import DataError

VALIDATION_ROWS = 4096  # evenly spaced held-out rows: enough to rank epochs by
_IDENTITY_ROWS = 1024  # evenly spaced rows that tell one dataset from another


class Rows(Protocol):
    """Training or validation rows that lie on the training device."""

    def __len__(self) -> int:
        """Number of rows."""

    def batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        """The rows `indices` [batch], in the order of the model's compute_loss."""


@runtime_checkable
class EpochRows(Rows, Protocol):
    """Training rows that choose the order of an epoch themselves, as a stream has to."""

    def epoch(self, batch_size: int, shuffle: torch.Generator) -> Iterator[Tensor]:
        """Yields the indices [batch_size] of `len(self) // batch_size` batches, one by one.

        Args:
            batch_size: Rows a batch; what is left over at the end is not visited.
            shuffle: Seeded for this epoch; decides the order.
        """


class ShuffledRows:
    """Rows that all lie on the device, visited in a random order.

    Args:
        rows: What is shuffled.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.batch = rows.batch

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def epoch(self, batch_size: int, shuffle: torch.Generator) -> Iterator[Tensor]:
        """See `EpochRows.epoch`."""
        order = torch.randperm(len(self), generator=shuffle, device=shuffle.device)
        for start in range(0, len(self) - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def check_rows(train: Rows, validation: Rows) -> None:
    """Refuses to train on nothing, or to judge by nothing.

    Raises:
        DataError: There are no rows of one kind or the other.
    """
    if len(train) == 0 or len(validation) == 0:
        raise DataError(
            f"expected training and validation rows, got {len(train)} and {len(validation)}: "
            "collect more episodes"
        )


def spread(rows: Rows, at_most: int, device: torch.device) -> Tensor:
    """Indices of some rows at even distances, from the first to the last, int64 [<= at_most]."""
    n = min(len(rows), at_most)
    places = torch.linspace(0, len(rows) - 1, n, dtype=torch.float64, device=device)
    return places.long()


def describe(rows: Rows, device: torch.device) -> dict[str, int]:
    """Number and checksum, by which a checkpoint knows the data that it was trained on.

    Rows that draw their commands draw them from torch's own generators: seed these first.
    """
    parts = rows.batch(spread(rows, _IDENTITY_ROWS, device))
    content = b"".join(part.cpu().numpy().tobytes() for part in parts)
    return {"number": len(rows), "checksum": zlib.crc32(content)}
