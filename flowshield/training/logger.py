"""Training curves for TensorBoard and, where asked for, Weights & Biases."""

__all__ = ["Logger"]

import functools
import json
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from omegaconf import DictConfig, OmegaConf

from flowshield.atomic import explained_write
from flowshield.errors import ConfigError, DataError, WriteError
from flowshield.paths import expanded

if TYPE_CHECKING:  # who draws has imported it; Ray's workers draw nothing
    from matplotlib.figure import Figure


ThreadHook = Callable[[threading.ExceptHookArgs], Any]


class Logger:
    """Writes scalars, histograms, figures and the config under the same names to each backend.

    Usable in a `with` statement, which closes it.

    Args:
        log_dir: Folder of the TensorBoard event file; made where missing.
        use_wandb: Whether to log to Weights & Biases as well, project "flowshield", the run named
            after the folder and grouped by the folder around it. Its environment variables
            (WANDB_MODE=offline, ...) apply.
        anew: Whether what an earlier logger wrote to this folder no longer counts, because all of
            it is about to be logged again.

    Raises:
        ConfigError: `use_wandb` without the package.
        WriteError: Here and in all that follows: the events cannot be written.

    Example:
        >>> with Logger("logs/agent") as logger:
        ...     logger.log_scalar("loss/train", 0.5, step=1)
    """

    def __init__(self, log_dir: str | Path, use_wandb: bool = False, *, anew: bool = False) -> None:
        # W&B first: without the package, no empty event file is left behind
        self._wandb = _import_wandb() if use_wandb else None
        # importing TensorBoard takes a second that only those who log should pay
        from torch.utils.tensorboard import SummaryWriter

        log_dir = expanded(log_dir)
        self._log_dir = Path(log_dir)
        threading.excepthook = _without_tensorboard(threading.excepthook)
        with explained_write(self._log_dir):
            # TensorBoard drops what it read in this folder from the purged step on
            self._writer = SummaryWriter(log_dir, purge_step=0 if anew else None)
        self._run = None
        if self._wandb is not None:
            path = Path(log_dir)
            self._run = self._wandb.init(
                project="flowshield",
                name=path.name,
                group=str(path.parent),
                dir=str(path),
                reinit="create_new",  # models that train side by side have a run each
            )
            # W&B's own step may not go back, but an evaluation and a fit each count from 0
            self._run.define_metric("*", step_metric="step")

    def log_scalar(self, name: str, value: float, step: int) -> None:
        """Logs one number; `name` may hold slashes, which group the curves."""
        with explained_write(self._log_dir):
            self._writer.add_scalar(name, float(value), step)
        self._to_wandb(name, float(value), step)

    def log_histogram(self, name: str, values: npt.NDArray[Any], step: int) -> None:
        """Logs the distribution of an array of any shape.

        Raises:
            DataError: The array is empty or holds NaN or infinities.
        """
        flat = np.asarray(values, dtype=np.float64).ravel()
        if flat.size == 0 or not np.isfinite(flat).all():
            bad = np.sum(~np.isfinite(flat))
            got = f"{bad} NaN or infinite of {flat.size}" if flat.size else "no values"
            raise DataError(f"histogram {name!r}: expected finite values, got {got}")
        with explained_write(self._log_dir):
            self._writer.add_histogram(name, flat, step)
        if self._wandb is not None:
            self._to_wandb(name, self._wandb.Histogram(flat), step)

    def log_figure(self, name: str, figure: "Figure", step: int) -> None:
        """Logs a picture of a matplotlib figure; the figure stays the caller's to close."""
        with explained_write(self._log_dir):
            self._writer.add_figure(name, figure, step, close=False)
        if self._wandb is not None:
            self._to_wandb(name, self._wandb.Image(figure), step)

    def log_config(self, config: Mapping[str, Any] | DictConfig) -> None:
        """Logs the settings of a run, nested as they are."""
        if isinstance(config, DictConfig):
            tree: Any = OmegaConf.to_container(config, resolve=True)
        else:
            tree = dict(config)
        text = json.dumps(tree, indent=2, default=str)
        # Markdown takes a block indented by four as it stands
        block = "\n".join(f"    {line}" for line in text.splitlines())
        with explained_write(self._log_dir):
            self._writer.add_text("config", block)
        if self._run is not None:
            self._run.config.update(json.loads(text), allow_val_change=True)

    def log_hparams(
        self, values: Mapping[str, bool | int | float | str], metrics: Mapping[str, float]
    ) -> None:
        """Logs one row of the HParams table: what was set, and what came of it.

        TensorBoard shows every scalar of a run in its row.

        Args:
            values: By name, such as `flowshield.training.hyperparameters` makes of a config.
            metrics: By name; they are logged as scalars too, at step 0.
        """
        from torch.utils.tensorboard.summary import hparams

        # Not the writer's add_hparams, which makes a run of its own for them in a folder below. And
        # no list of metrics: TensorBoard would take the first run's for all, and hide the others'.
        _, start, end = hparams(dict(values), dict(metrics))  # type: ignore[no-untyped-call]
        file_writer: Any = self._writer.file_writer
        with explained_write(self._log_dir):
            for summary in (start, end):
                file_writer.add_summary(summary, 0)
        for name, value in metrics.items():
            self.log_scalar(name, value, 0)
        if self._run is not None:
            self._run.config.update({"hparams": dict(values)}, allow_val_change=True)

    def close(self) -> None:
        """Writes everything out. A second call does nothing."""
        with explained_write(self._log_dir):
            self._writer.close()
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _to_wandb(self, name: str, value: Any, step: int) -> None:
        if self._run is not None:
            self._run.log({name: value, "step": step})

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the logger; what went wrong first is what the user hears of."""
        with nullcontext() if error is None else suppress(WriteError):
            self.close()


def _without_tensorboard(report: ThreadHook) -> ThreadHook:
    """Keeps back the traceback of TensorBoard's thread: the next call raises its error again."""

    @functools.wraps(_without_tensorboard)
    def hook(ended: threading.ExceptHookArgs) -> None:
        of_tensorboard = type(ended.thread).__module__.startswith("tensorboard.")
        if not (of_tensorboard and isinstance(ended.exc_value, OSError)):
            report(ended)

    return report if getattr(report, "__wrapped__", None) is _without_tensorboard else hook


def _import_wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            "use_wandb=True needs the package wandb, which is not installed; "
            'run pip install "flowshield[wandb]"'
        ) from error
    return wandb
