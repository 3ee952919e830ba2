"""Shape and finiteness checks at the models' public doors."""

__all__ = ["check_batch", "check_finite"]

import torch
from torch import Tensor

from flowshield.errors import DataError, ShapeError


def check_batch(**named: tuple[Tensor, int]) -> None:
    """Checks that each tensor is [batch, dim] with one batch size for all.

    Args:
        named: Name of the argument = (tensor, expected size of its last dimension).

    Raises:
        ShapeError: A tensor is not [batch, dim], or the batch sizes differ.
    """
    batch: int | None = None
    for name, (tensor, dim) in named.items():
        if tensor.ndim != 2 or tensor.shape[1] != dim:
            raise ShapeError(
                f"{name}: expected shape [batch, {dim}], got {list(tensor.shape)}; "
                "one row is tensor.unsqueeze(0)"
            )
        if batch is not None and len(tensor) != batch:
            raise ShapeError(f"{name}: expected {batch} rows like the other, got {len(tensor)}")
        batch = len(tensor)


def check_finite(**named: Tensor) -> None:
    """Checks that no entry is NaN or infinite.

    Raises:
        DataError: Some are; the message says how many and where the first one is.
    """
    for name, tensor in named.items():
        bad = ~torch.isfinite(tensor)
        if bool(bad.any()):
            first = bad.nonzero()[0].tolist()
            raise DataError(
                f"{name}: expected finite numbers, got {int(bad.sum())} that are not, "
                f"the first at {first}"
            )
