"""What the process that runs a sweep sees of its trials, and how ASHA remembers them."""

__all__ = ["RememberingASHA", "SweepWatch", "WatchCallback", "raising_ctrl_c", "trial_record"]

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler

OnTrial = Callable[[dict[str, Any], int], None]


class RememberingASHA(ASHAScheduler):
    """ASHA that hears from every trial of a restored sweep what it had reported before.

    Ray Tune keeps no scheduler's state: without this, the trials of a sweep that goes on would be
    compared with none of those before.
    """

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Takes a trial in, with its scores by epoch if it has any."""
        super().on_trial_add(tune_controller, trial)
        for epoch, score in enumerate((trial.last_result or {}).get("scores", ()), start=1):
            self.on_trial_result(tune_controller, trial, {"epoch": epoch, "score": score})


class SweepWatch:
    """Hears of the trials of the sweep that runs in this context.

    Args:
        on_trial: Called with the record of each trial that is over, and how many are.

    Attributes:
        trials: All of them, once the sweep is over.
    """

    def __init__(self, on_trial: OnTrial) -> None:
        self.on_trial = on_trial
        self.trials: list[Trial] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hears of the trials while the body runs."""
        token = _LISTENER.set(self)
        try:
            yield
        finally:
            _LISTENER.reset(token)


_LISTENER: ContextVar[SweepWatch | None] = ContextVar("listener", default=None)


class WatchCallback(tune.Callback):
    """Tells the listening `SweepWatch`.

    Tune keeps its callbacks in the sweep's files and takes those up again when it restores a sweep,
    so that this one may hold nothing of a process.
    """

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Finished or stopped."""
        self._tell(trials, trial)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Failed for good."""
        self._tell(trials, trial)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """All of them, as Tune leaves them."""
        listener = _LISTENER.get()
        if listener is not None:
            listener.trials = list(trials)

    def _tell(self, trials: Sequence[Trial], trial: Trial) -> None:
        listener = _LISTENER.get()
        if listener is not None:
            over = sum(_is_over(other) for other in trials if other is not trial) + 1
            listener.on_trial(trial_record(trial), over)


@contextmanager
def raising_ctrl_c() -> Iterator[None]:
    """Raises KeyboardInterrupt after the body if Tune took a Ctrl-C to itself within it.

    Tune sets a handler that ends the sweep in order and says nothing of it: at a Ctrl-C it puts
    back the handler it found, and else it leaves its own in force.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or os.environ.get("TUNE_DISABLE_SIGINT_HANDLER", "0") != "0":
        yield  # Tune sets no handler
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
        interrupted = signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted:
        raise KeyboardInterrupt


def _is_over(trial: Trial) -> bool:
    return trial.status in (Trial.TERMINATED, Trial.ERROR)


def trial_record(trial: Trial) -> dict[str, Any]:
    """A trial as results.json has it."""
    last = trial.last_result or {}
    error = last.get("error") or _crash(trial)
    status = "finished" if last.get("finished") else "stopped"
    names = ("best_epoch", "score", "auc_roc", "false_alarm_rate", "validation_loss")
    return {
        "trial": trial.trial_id,
        "parameters": dict(trial.config),
        "status": "failed" if error else status,
        "epochs": last.get("epoch", 0),
        **{name: None if error else last.get(name) for name in names},
        "scores": list(last.get("scores", ())),
        "error": error,
    }


def _crash(trial: Trial) -> str | None:
    if trial.status != Trial.ERROR:
        return None
    error = trial.get_error()
    return " ".join(str(error).split())[-300:] if error else "its worker died"
