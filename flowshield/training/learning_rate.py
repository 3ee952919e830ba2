"""Learning-rate schedules as functions of the (fractional) epoch, each with a linear warm-up."""

__all__ = ["SCHEDULES", "LearningRateScheduler"]

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from flowshield.errors import ConfigError, DataError, unknown_name

# A rate of exactly 0 would waste the first step (and a fit of one step would learn nothing).
_WARMUP_START = 0.01

# ReduceLROnPlateau's relative threshold: less than this is noise, not an improvement.
_PLATEAU_THRESHOLD = 1e-4


class _Plan(NamedTuple):
    n_epochs: float
    warmup_epochs: float
    final_factor: float
    step_epochs: float
    step_factor: float

    def progress(self, epoch: float) -> float:
        """The share of the time after warm-up that has passed, in [0, 1]."""
        span = self.n_epochs - self.warmup_epochs
        if span <= 0:  # all of the training is warm-up: nothing to decay over
            return 0.0
        return min(max((epoch - self.warmup_epochs) / span, 0.0), 1.0)

    def warmup(self, epoch: float) -> float:
        """The share of the rate that warm-up lets through, in [0.01, 1]."""
        if epoch >= self.warmup_epochs:
            return 1.0
        return _WARMUP_START + (1.0 - _WARMUP_START) * epoch / self.warmup_epochs


def _cosine(plan: _Plan, epoch: float) -> float:
    fallen = (1.0 - math.cos(math.pi * plan.progress(epoch))) / 2.0
    return 1.0 - (1.0 - plan.final_factor) * fallen


def _linear(plan: _Plan, epoch: float) -> float:
    return 1.0 - (1.0 - plan.final_factor) * plan.progress(epoch)


def _step(plan: _Plan, epoch: float) -> float:
    return plan.step_factor ** math.floor(epoch / plan.step_epochs)


def _constant(plan: _Plan, epoch: float) -> float:
    return 1.0


_SHAPES: dict[str, Callable[[_Plan, float], float]] = {
    "cosine": _cosine,
    "linear": _linear,
    "step": _step,
    "plateau": _constant,  # times the drops that the validation loss has earned
    "constant": _constant,
}

SCHEDULES = tuple(_SHAPES)
"""The names that `LearningRateScheduler` knows."""


class LearningRateScheduler:
    """Sets an optimizer's learning rate: peak rate x shape(epoch) x warm-up(epoch).

    The peak is each parameter group's rate at construction. Warm-up rises linearly from 1 % of
    the rate at epoch 0 to all of it at `warmup_epochs`. Where a group's rate is a tensor (captured
    CUDA graphs read it from there), it is filled in place.

    Args:
        optimizer: Whose rate to set; its first rate is set at once.
        scheduler_type: cosine or linear (from the peak to its `final_factor` at `n_epochs`), step
            (times `step_factor` every `step_epochs`), plateau (times `step_factor` after more than
            `patience` epochs in a row without a lower validation loss) or constant.
        n_epochs: Length of the training; later epochs keep the last rate.
        warmup_epochs: Length of the warm-up, part of `n_epochs`; may be a fraction.
        final_factor: cosine, linear: last rate as a share of the peak, in [0, 1].
        step_epochs: step: epochs between two drops.
        step_factor: step, plateau: what a drop multiplies the rate by, in (0, 1].
        patience: plateau: bad epochs that pass without a drop.

    Raises:
        ConfigError: The type is unknown or an argument out of range.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        scheduler_type: str = "cosine",
        *,
        n_epochs: int = 200,
        warmup_epochs: float = 0.0,
        final_factor: float = 0.05,
        step_epochs: float = 30,
        step_factor: float = 0.1,
        patience: int = 5,
    ) -> None:
        if scheduler_type not in _SHAPES:
            raise unknown_name("scheduler", scheduler_type, _SHAPES)
        _check("n_epochs", n_epochs, n_epochs >= 1, "at least 1")
        _check("warmup_epochs", warmup_epochs, warmup_epochs >= 0, "at least 0")
        _check("final_factor", final_factor, 0 <= final_factor <= 1, "between 0 and 1")
        _check("step_epochs", step_epochs, step_epochs > 0, "above 0")
        _check("step_factor", step_factor, 0 < step_factor <= 1, "above 0 and at most 1")
        _check("patience", patience, patience >= 0, "at least 0")
        self.optimizer, self.scheduler_type, self.patience = optimizer, scheduler_type, patience
        self._plan = _Plan(n_epochs, warmup_epochs, final_factor, step_epochs, step_factor)
        self._peaks = [float(group["lr"]) for group in optimizer.param_groups]
        self._epoch = 0.0
        self._best, self._bad_epochs, self._drops = math.inf, 0, 0
        self._apply()

    def step(self, epoch: float, val_loss: float | None = None) -> None:
        """Sets the rate of the steps that follow.

        Args:
            epoch: Epochs trained so far; a fraction within an epoch.
            val_loss: Validation loss, once an epoch; only plateau looks at it.

        Raises:
            DataError: plateau was given a loss that is NaN.
        """
        self._epoch = float(epoch)
        if val_loss is not None and self.scheduler_type == "plateau":
            self._judge(val_loss)
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """The state that an exact resume needs; the arguments are the caller's to keep."""
        return {
            "epoch": self._epoch,
            "peaks": list(self._peaks),
            "best": self._best,
            "bad_epochs": self._bad_epochs,
            "drops": self._drops,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned, and sets the rate of that moment."""
        self._epoch, self._peaks = float(state["epoch"]), [float(p) for p in state["peaks"]]
        self._best = float(state["best"])
        self._bad_epochs, self._drops = int(state["bad_epochs"]), int(state["drops"])
        self._apply()

    def _judge(self, val_loss: float) -> None:
        if math.isnan(val_loss):
            raise DataError("validation loss: expected a number, got NaN; lower the learning rate")
        margin = 0.0 if math.isinf(self._best) else _PLATEAU_THRESHOLD * abs(self._best)
        if val_loss < self._best - margin:
            self._best, self._bad_epochs = float(val_loss), 0
        else:
            self._bad_epochs += 1
        if self._bad_epochs > self.patience:
            self._drops, self._bad_epochs = self._drops + 1, 0

    def _apply(self) -> None:
        plan = self._plan
        factor = _SHAPES[self.scheduler_type](plan, self._epoch) * plan.warmup(self._epoch)
        factor *= plan.step_factor**self._drops
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(peak * factor)
            else:
                group["lr"] = peak * factor


def _check(name: str, value: float, holds: bool, words: str) -> None:
    if not holds:
        raise ConfigError(f"scheduler {name}: expected a number {words}, got {value}")
