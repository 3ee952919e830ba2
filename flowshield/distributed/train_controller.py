"""What the process that watches over a training on Ray does for us."""

__all__ = ["TrainController"]

from typing import Any

from ray.train import UserCallback

from flowshield.distributed.train_ends import DriverGone, TrainingRefused
from flowshield.distributed.train_folder import TrainFolder


class TrainController(UserCallback):
    """Keeps checkpoints, and ends a run that need not be tried again.

    Ray Train calls it in its controller, on the driver's node. That process imports this module,
    and should not have to wait for flowshield's models.

    Args:
        folder: Where finished checkpoints are copied.
    """

    def __init__(self, folder: TrainFolder) -> None:
        self.folder = folder

    def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:
        """Keeps a checkpoint as soon as Ray has taken note of it."""
        if checkpoint is not None:
            self.folder.keep(checkpoint)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Ends the run: what a callback raises does, what a worker raises is tried again."""
        for error in worker_exceptions.values():
            if isinstance(error, TrainingRefused | DriverGone):
                raise error
