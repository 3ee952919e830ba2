"""What last.pt holds, compared with the fit that is to go on from it."""

__all__ = ["check_alike", "check_history", "check_moments", "difference"]

import math
import reprlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def difference(written: Mapping[str, Any], ours: Mapping[str, Any]) -> str | None:
    """Says in which setting two fits differ: "n_epochs=3, this fit has 4".

    Args:
        written: The settings in the file, whatever they are.
        ours: This fit's.

    Returns:
        The first difference, or None.
    """
    for key in {**ours, **written}:
        if written.get(key) != ours.get(key):
            theirs = reprlib.repr(written.get(key))  # cut: it may be of any length
            return f"{key:.80}={theirs}, this fit has {ours.get(key)!r}"
    return None


def check_history(history: Any) -> None:
    """Refuses what is not one record an epoch, of numbers, from the first epoch on.

    Raises:
        ValueError: It says which record.
        Exception: Of other kinds, where it is no list of dicts.
    """
    for epoch, record in enumerate(history, 1):
        if not all(isinstance(key, str) and _is_number(v) for key, v in record.items()):
            raise ValueError(f"record {epoch} of its history holds what is no number")
        needed = (record["train_loss"], record["gradient_norm"], record["validation_loss"])
        if record["epoch"] != epoch or not all(map(math.isfinite, needed)):
            raise ValueError(f"record {epoch} of its history is not of epoch {epoch}")


def check_alike(found: Any, ours: Any, name: str) -> None:
    """Refuses what differs from ours in more than the values of its tensors.

    Args:
        found: What is in the file.
        ours: A tensor, a number, or a dict of such.
        name: What the error calls it.

    Raises:
        ValueError: A key, a type, a shape or a number is another, or a tensor holds NaN, which no
            fit writes.
    """
    if isinstance(ours, Mapping):
        if not isinstance(found, dict) or found.keys() != ours.keys():
            held = list(found) if isinstance(found, dict) else found
            raise ValueError(f"{name}: expected {list(ours)}, got {reprlib.repr(held)}")
        for key, value in ours.items():
            check_alike(found[key], value, f"{name}.{key}")
    elif not isinstance(ours, Tensor):
        if type(found) is not type(ours) or found != ours:
            raise ValueError(f"{name}: expected {ours!r}, got {reprlib.repr(found)}")
    elif not isinstance(found, Tensor) or (found.shape, found.dtype) != (ours.shape, ours.dtype):
        held = (list(found.shape), found.dtype) if isinstance(found, Tensor) else found
        expected = (list(ours.shape), ours.dtype)
        raise ValueError(f"{name}: expected {expected}, got {reprlib.repr(held)}")
    elif torch.isnan(found).any():
        raise ValueError(f"{name}: holds NaN")


def check_moments(found: Any, vector: Tensor) -> None:
    """Refuses what AdamW cannot have kept of one parameter.

    Args:
        found: The "state" of an optimizer's `state_dict`.
        vector: The parameter.

    Raises:
        ValueError: It is of another shape, or has moments or counts that there cannot be.
    """
    ours = {"step": torch.tensor(0.0), "exp_avg": vector, "exp_avg_sq": vector}
    check_alike(found, {0: ours}, "optimizer")
    if found[0]["step"] < 1 or (found[0]["exp_avg_sq"] < 0).any():
        raise ValueError("optimizer: expected steps of 1 at least and squares of 0 at least")


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 63)
