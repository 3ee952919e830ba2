"""What a fit is given and what it gives back."""

__all__ = ["FitResult", "FitSettings"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class FitSettings:
    """What one fit needs of the config.

    Attributes:
        n_epochs: Passes over the training rows.
        batch_size: Rows a step, over all ranks together.
        learning_rate: Peak rate of AdamW.
        seed: Every random draw of the fit descends from it.
        weight_decay: AdamW's.
        gradient_clip: Largest gradient norm; None = no clipping.
        ema_decay: Exponential moving average of the weights a step; None = none.
        scheduler: `type` and the arguments of `LearningRateScheduler`.
        patience: Epochs without improvement before stopping.
        min_delta: What counts as an improvement of the validation loss.
        checkpoint_every: Epochs between two resumable checkpoints.
        cuda_graph: Whether to capture the step as a CUDA graph.
    """

    n_epochs: int
    batch_size: int
    learning_rate: float
    seed: int = 0
    weight_decay: float = 0.01
    gradient_clip: float | None = 1.0
    ema_decay: float | None = None
    scheduler: Mapping[str, Any] = field(default_factory=lambda: {"type": "cosine"})
    patience: int = 10
    min_delta: float = 1e-4
    checkpoint_every: int = 10
    cuda_graph: bool = False


@dataclass(frozen=True)
class FitResult:
    """What a fit did; the model holds the weights of the best epoch.

    Attributes:
        history: One record an epoch: epoch, train_loss, validation_loss, learning_rate,
            gradient_norm, seconds, and what a judge measured.
        best_epoch: The epoch whose weights the model holds, from 1.
        validation_loss: Its validation loss, nats.
        stopped_early: Whether early stopping ended the fit.
    """

    history: list[dict[str, float]]
    best_epoch: int
    validation_loss: float
    stopped_early: bool
