"""Stops a fit whose validation loss no longer improves."""

__all__ = ["EarlyStopping"]

import math
from typing import Any

from flowshield.errors import ConfigError, DataError


class EarlyStopping:
    """Counts the epochs since the validation loss last improved.

    Args:
        patience: Epochs without improvement after which to stop, at least 1.
        min_delta: How far below the best loss counts as an improvement, at least 0, in the
            loss's own unit.

    Attributes:
        best: The loss that the next one must undercut by `min_delta`; infinite before the first.
        waited: Epochs since then.

    Raises:
        ConfigError: `patience` or `min_delta` is out of range.

    Examples:
        >>> stopping = EarlyStopping(patience=2)
        >>> [stopping(loss) for loss in (1.0, 0.5, 0.6, 0.5)]
        [False, False, False, True]
    """

    def __init__(self, patience: int = 10, min_delta: float = 1e-4) -> None:
        if patience < 1:
            raise ConfigError(f"patience: expected at least 1 epoch, got {patience}")
        if not min_delta >= 0:
            raise ConfigError(f"min_delta: expected at least 0, got {min_delta}")
        self.patience, self.min_delta = patience, min_delta
        self.best, self.waited = math.inf, 0

    def __call__(self, val_loss: float) -> bool:
        """Takes one epoch's validation loss and says whether to stop.

        Raises:
            DataError: The loss is NaN, which neither is an improvement nor may pass unnoticed.
        """
        if math.isnan(val_loss):
            raise DataError(
                "validation loss: expected a number, got NaN; lower the learning rate or look for "
                "extreme values in the data"
            )
        if val_loss < self.best - self.min_delta:
            self.best, self.waited = float(val_loss), 0
        else:
            self.waited += 1
        return self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """The state that an exact resume needs."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        self.best, self.waited = float(state["best"]), int(state["waited"])
