"""The seam between the fit loop and where it runs: this process, or one rank of several."""

__all__ = ["InProcessWorker", "Judge", "Objective", "Trainable", "Worker"]

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Judge = Callable[[Any], Mapping[str, float]]
"""Measures the model of an epoch; its figures have names that no record has yet."""


class Trainable(Protocol):
    """What the fit loop needs of a model beside being an `nn.Module`."""

    def compute_loss(self, *batch: Tensor) -> Tensor:
        """The training loss of a batch, a scalar."""

    def validation_loss(self, *batch: Tensor) -> Tensor:
        """What held-out rows are judged by, a scalar."""


class Objective(nn.Module):
    """A model and its loss as one module whose forward returns the loss.

    Data-parallel wrappers synchronise gradients of what went through `forward`; a loss called on
    the bare model would train every rank by itself.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *batch: Tensor) -> Tensor:
        """The training loss of a batch, a scalar."""
        loss: Tensor = self.model.compute_loss(*batch)  # type: ignore[operator]
        return loss


class Worker(Protocol):
    """Where a fit loop runs.

    Every rank owns rows of its own, as many as every other, and calls the same methods in the same
    order.
    """

    rank: int
    world_size: int

    def prepare(self, objective: Objective) -> nn.Module:
        """Wraps the objective so that gradients are averaged over the ranks."""

    def mean(self, value: Tensor) -> Tensor:
        """Averages a scalar over the ranks."""

    def report(self, record: dict[str, float], checkpoint: Path | None) -> None:
        """Takes note that an epoch is over.

        Args:
            record: The epoch's, the same on every rank but for its seconds.
            checkpoint: Folder in which last.pt and best.pt have just been written; None = in this
                epoch, or by this rank, none were.
        """


class InProcessWorker:
    """One rank, in this process: nothing to wrap and nobody to average with."""

    rank: int = 0
    world_size: int = 1

    def prepare(self, objective: Objective) -> nn.Module:
        """The objective itself."""
        return objective

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The value itself."""
        return value

    def report(self, record: dict[str, float], checkpoint: Path | None) -> None:
        """Nobody asks."""
