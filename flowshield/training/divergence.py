"""A fit whose numbers are no longer finite: what went first, where, and what is left."""

__all__ = ["check_epoch"]

import math
from collections.abc import Sequence

from flowshield.errors import DataError


def check_epoch(
    epoch: int,
    *,
    train_loss: float,
    gradient_norm: float,
    validation_loss: float,
    good_steps: Sequence[int],
    n_steps: int,
    best_epoch: int,
    checkpoint: str | None,
) -> None:
    """Refuses an epoch with a loss or a gradient that is NaN or infinite.

    Args:
        epoch: Which, from 1.
        train_loss: Its mean over the steps and ranks, nats.
        gradient_norm: Likewise.
        validation_loss: After it, nats.
        good_steps: Steps of this rank before the first with a loss, and before the first with a
            gradient, that was not finite.
        n_steps: Steps of the epoch.
        best_epoch: The epoch whose weights the model is left with; 0 = the initial ones.
        checkpoint: The last one, in words; None = there is none.

    Raises:
        DataError: It says what was not finite first, and in which step.
    """
    if all(map(math.isfinite, (train_loss, gradient_norm, validation_loss))):
        return
    losses, gradients = good_steps
    if min(losses, gradients) < n_steps:
        what = "the training loss" if losses <= gradients else "the gradient"
        where = f"at step {min(losses, gradients) + 1} of {n_steps}"
    else:  # the steps were in order, or it was another rank's
        what = "the loss" if math.isfinite(validation_loss) else "the validation loss"
        where = f"after {n_steps} steps"
    left = "" if checkpoint is None else f", the last good checkpoint is {checkpoint}"
    raise DataError(
        f"{what} is no longer finite in epoch {epoch} {where} (training loss {train_loss:.4g}, "
        f"gradient norm {gradient_norm:.4g}, validation loss {validation_loss:.4g}); the model "
        f"holds the weights of epoch {best_epoch}{left}: lower learning_rate or look at the data's "
        "extremes"
    )
