"""Fits models as a config says: in this process, or on Ray Train's workers."""

__all__ = ["Fitter", "OnEpoch", "asked_workers"]

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, ListConfig
from torch import nn

from flowshield.errors import ConfigError, DataError
from flowshield.filesystem import is_uri
from flowshield.paths import expanded
from flowshield.training.fit import fit
from flowshield.training.fit_settings import FitResult, FitSettings
from flowshield.training.hyperparameters import hyperparameters
from flowshield.training.logger import Logger
from flowshield.training.worker import Judge, Worker

if TYPE_CHECKING:
    from flowshield.distributed.train_workers import TrainWorkers

OnEpoch = Callable[[str, dict[str, float]], None]
"""Hears of a model's name and the record of its epoch."""


def asked_workers(config: DictConfig) -> int | tuple[int, int]:
    """Ray Train workers of each model: how many, or the least and the most; 0 = this process."""
    asked = config.ray.num_workers
    if isinstance(asked, ListConfig):
        least, most = asked
        return least, most
    return int(config.num_workers if asked is None else asked)


class Fitter:
    """Where and how the models of one config are fitted, and what hears of their epochs.

    Args:
        config: Resolved.
        checkpoint_dir: See `Trainer`; None = log_dir/checkpoints.
        resume: Whether to go on from checkpoints that lie there.
        on_epoch: Called with the model's name and each epoch's record.
        worker: Where each fit without Ray Train's workers runs and reports; None = this process.
        stop: Set from another thread, it ends a training on Ray as Ctrl-C does.

    Attributes:
        on_ray: Whether Ray Train's workers fit.

    Raises:
        ConfigError: Checkpoints shall go to an address without workers.
    """

    def __init__(
        self,
        config: DictConfig,
        checkpoint_dir: str | Path | None,
        *,
        resume: bool,
        on_epoch: OnEpoch | None,
        worker: Worker | None,
        stop: threading.Event,
    ) -> None:
        self.on_ray = asked_workers(config) != 0
        self._config, self._resume = config, resume
        self._on_epoch, self._worker, self._stop = on_epoch, worker, stop
        beside_logs = Path(config.log_dir) / "checkpoints"
        self._checkpoint_dir = expanded(beside_logs if checkpoint_dir is None else checkpoint_dir)
        if is_uri(self._checkpoint_dir) and not self.on_ray:
            raise ConfigError(
                f"checkpoint_dir={self._checkpoint_dir}: this process writes checkpoints to a "
                "path, Ray's workers to an address: set num_workers"
            )

    def fit(
        self,
        name: str,
        model: nn.Module,
        train: Any,
        validation: Any,
        n_epochs: int,
        *,
        learning_rate: float | None = None,
        judge: Judge | None = None,
        logger: Logger,
    ) -> FitResult:
        """Fits one model and leaves it with the weights of its best epoch.

        Args:
            name: Its folder among checkpoints; it names its random stream too.
            model: See `flowshield.training.fit.fit`.
            train: Likewise.
            validation: Likewise.
            n_epochs: Epochs at most.
            learning_rate: None = the config's.
            judge: Looks on in this process; there may be none on Ray.
            logger: Hears of every epoch, of resumed ones again, and of what came of all.

        Raises:
            DataError: See `flowshield.training.fit.fit`; the message begins with the name.
        """
        settings = self._settings(name, n_epochs, learning_rate)

        def on_epoch(record: dict[str, float]) -> None:
            for key, value in record.items():
                if key != "epoch":
                    logger.log_scalar(key, value, int(record["epoch"]))
            if self._on_epoch is not None:
                self._on_epoch(name, record)

        run = self._on_workers() if self.on_ray else self._here(judge)
        try:
            result = run(
                model,
                train,
                validation,
                settings,
                checkpoint_dir=f"{self._checkpoint_dir}/{name}",
                resume=self._resume,
                on_epoch=on_epoch,
            )
        except DataError as error:  # several models may be under way
            raise DataError(f"{name}: {error}") from error
        best = {"best_validation_loss": result.validation_loss}
        logger.log_hparams(hyperparameters(self._config), best)
        return result

    @contextmanager
    def logger(self, name: str) -> Iterator[Logger]:
        """The logger of a model, with the config in it; closed when the body ends."""
        folder = Path(self._config.log_dir) / name
        # a resumed fit tells of its earlier epochs again
        with Logger(folder, use_wandb=self._config.use_wandb, anew=True) as logger:
            logger.log_config(self._config)
            yield logger

    def at_once(self, n_models: int) -> int:
        """How many of so many models to begin side by side: in this process 1."""
        return self._workers().at_once(n_models) if self.on_ray else 1

    def session(self) -> AbstractContextManager[None]:
        """One Ray for all models that are fitted while the body runs, where they are on Ray."""
        if not self.on_ray:
            return nullcontext()
        from flowshield.distributed.session import session

        return session()

    def _here(self, judge: Judge | None) -> Callable[..., FitResult]:
        return partial(fit, worker=self._worker, judge=judge)

    def _on_workers(self) -> Callable[..., FitResult]:
        from flowshield.distributed.train import fit_on_ray

        return partial(fit_on_ray, workers=self._workers(), stop=self._stop)

    def _workers(self) -> "TrainWorkers":
        from flowshield.distributed.train_workers import TrainWorkers

        return TrainWorkers.from_config(self._config)

    def _settings(self, name: str, n_epochs: int, learning_rate: float | None) -> FitSettings:
        config = self._config
        # every model draws from a stream of its own: training one does not change another
        stream = [config.seed, *name.encode()]
        return FitSettings(
            n_epochs=n_epochs,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate if learning_rate is None else learning_rate,
            seed=int(np.random.SeedSequence(stream).generate_state(1)[0]),
            weight_decay=config.optimizer.weight_decay,
            gradient_clip=config.optimizer.gradient_clip,
            ema_decay=config.optimizer.ema_decay,
            scheduler=dict(config.scheduler),
            patience=config.early_stopping.patience,
            min_delta=config.early_stopping.min_delta,
            checkpoint_every=config.checkpoint_every,
            cuda_graph=config.cuda_graph,
        )
