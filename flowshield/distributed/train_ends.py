"""How a training on Ray ends where another try would only meet the same again."""

__all__ = ["DriverGone", "TrainingRefused", "Weights"]

from typing import Any

import numpy as np

Weights = dict[str, np.ndarray[Any, Any]]
"""A state dict as arrays: Ray Train hands no tensors back."""


class TrainingRefused(Exception):
    """Carries an error that another try would only meet again, and the weights so far.

    Args:
        error: What the user can mend.
        weights: The model's state dict at that moment.
    """

    def __init__(self, error: Exception, weights: Weights) -> None:
        super().__init__(error, weights)
        self.error, self.weights = error, weights

    def __str__(self) -> str:
        """The error's own words."""
        return str(self.error)


class DriverGone(Exception):
    """Nobody waits for this training any more."""
