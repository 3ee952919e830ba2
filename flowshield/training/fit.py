"""The fit loop: the same for the agent and the shields, in this process and on a Ray worker."""

__all__ = ["describe_rows", "fit"]

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from numpy.random import SeedSequence
from torch import Tensor, nn

from flowshield.errors import ConfigError, DataError
from flowshield.models.serialization import load_payload, rebuilding, save_payload
from flowshield.paths import expanded
from flowshield.training.divergence import check_epoch
from flowshield.training.early_stopping import EarlyStopping
from flowshield.training.fit_settings import FitResult, FitSettings
from flowshield.training.fit_state import check_alike, check_history, check_moments, difference
from flowshield.training.flat_parameters import FlatParameters
from flowshield.training.generators import seed_noise, seeded
from flowshield.training.learning_rate import LearningRateScheduler
from flowshield.training.rows import (
    VALIDATION_ROWS,
    EpochRows,
    Rows,
    ShuffledRows,
    check_rows,
    describe,
    spread,
)
from flowshield.training.step import GraphedStep, TrainingStep
from flowshield.training.worker import InProcessWorker, Judge, Objective, Worker

_VALIDATION_SEED = 1  # the same noise in every epoch, so that epochs differ by their weights alone


def fit(
    model: nn.Module,
    train: Rows,
    validation: Rows,
    settings: FitSettings,
    *,
    worker: Worker | None = None,
    descriptions: Mapping[str, Mapping[str, int]] | None = None,
    checkpoint_dir: str | Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    judge: Judge | None = None,
) -> FitResult:
    """Trains a model and leaves it with the weights of its best epoch.

    Epoch e draws its shuffle and its noise from (seed, e), so that a resumed fit ends in the same
    weights as an unbroken one.

    Args:
        model: A module with `compute_loss` and `validation_loss`, on the device of the rows.
        train: Training rows, of several ranks this one's own; at every step each takes its part
            of `batch_size`, so that the ranks together take that many.
        validation: Rows of episodes that are not trained on.
        settings: See `FitSettings`.
        worker: Where the loop runs; None = this process.
        descriptions: What `describe_rows` says of all rows, where these here are a part of them.
        checkpoint_dir: Folder for last.pt (resumable) and best.pt (weights), which the first rank
            writes; None = write nothing.
        resume: Whether to go on from last.pt where there is one.
        on_epoch: Called with each record of the history.
        judge: Measures the model of each epoch, in evaluation mode, and leaves it as it is; its
            figures join the epoch's record and decide nothing.

    Returns:
        The history and the best epoch.

    Raises:
        DataError: There are no rows, or a loss or gradient is no longer finite (the message says
            which and where); the model then holds the best weights so far.
        ConfigError: last.pt was written with other settings or other data.
        FileFormatError: last.pt is truncated, foreign, or holds what no fit writes.
    """
    worker = worker or InProcessWorker()
    folder = None if checkpoint_dir is None else Path(expanded(checkpoint_dir))
    loop = _FitLoop(model, train, validation, settings, worker, descriptions, judge)
    with torch.random.fork_rng(devices=[loop.device] if loop.device.type == "cuda" else []):
        try:
            if folder is not None and resume and (folder / "last.pt").exists():
                loop.load(folder / "last.pt")
                for record in loop.history:
                    if on_epoch is not None:
                        on_epoch(record)
            while not loop.finished:
                record = loop.run_epoch()
                if on_epoch is not None:
                    on_epoch(record)
                saved = False
                if folder is not None and worker.rank == 0:
                    saved = loop.save(folder)
                worker.report(record, folder if saved else None)
        finally:
            loop.parameters.release()
    return loop.result()


def describe_rows(train: Rows, validation: Rows, device: torch.device) -> dict[str, dict[str, int]]:
    """What a checkpoint says of the rows it was trained and judged on.

    Args:
        train: All training rows.
        validation: All validation rows.
        device: Where both lie.
    """
    described = {}
    for name, rows in (("training rows", train), ("validation rows", validation)):
        with seeded(_VALIDATION_SEED, device):  # rows may draw their commands
            described[name] = describe(rows, device)
    return described


class _FitLoop:
    """The state of a fit between two epochs."""

    def __init__(
        self,
        model: nn.Module,
        train: Rows,
        validation: Rows,
        settings: FitSettings,
        worker: Worker,
        descriptions: Mapping[str, Mapping[str, int]] | None,
        judge: Judge | None,
    ) -> None:
        check_rows(train, validation)
        if settings.batch_size < 1:
            raise ConfigError(f"batch_size: expected at least 1, got {settings.batch_size}")
        self.model, self.train, self.validation = model, train, validation
        self.settings, self.worker = settings, worker
        self.descriptions, self.judge = descriptions, judge
        self.device = next(model.parameters()).device
        self.rows = train if isinstance(train, EpochRows) else ShuffledRows(train)
        self.batch_size = max(1, min(settings.batch_size // worker.world_size, len(train)))
        self.n_steps = len(train) // self.batch_size
        self.objective = worker.prepare(Objective(model))
        # the model whose weights are judged and kept: the moving average where there is one
        self.judged = model if settings.ema_decay is None else copy.deepcopy(model)
        self.parameters = FlatParameters(self.objective)
        self.optimizer = _make_optimizer(self.parameters.vector, settings)
        arguments = dict(settings.scheduler)
        self.scheduler = LearningRateScheduler(
            self.optimizer, arguments.pop("type"), n_epochs=settings.n_epochs, **arguments
        )
        self.stopping = EarlyStopping(settings.patience, settings.min_delta)
        self.step = self._make_step()
        self.epoch = 0
        self.stopped = False
        self.history: list[dict[str, float]] = []
        self.best_epoch, self.best_loss = 0, math.inf
        self.best_state = _snapshot(self.judged)
        self.best_is_saved = False
        self.saved: str | None = None  # the last checkpoint, in words

    @property
    def finished(self) -> bool:
        return self.stopped or self.epoch >= self.settings.n_epochs

    def run_epoch(self) -> dict[str, float]:
        start = time.perf_counter()
        train_loss, gradient_norm = self._train_epoch()
        validation_loss = self._validate()
        self._check(train_loss, gradient_norm, validation_loss)
        if self._count(validation_loss):
            self.best_state = _snapshot(self.judged)
            self.best_is_saved = False
        record = {
            "epoch": self.epoch,
            "train_loss": train_loss,
            "validation_loss": validation_loss,
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "gradient_norm": gradient_norm,
            "seconds": time.perf_counter() - start,
        }
        if self.judge is not None:
            record.update(self.judge(self.judged))
        self.history.append(record)
        return record

    def result(self) -> FitResult:
        self.model.load_state_dict(self.best_state)
        self.model.eval()
        return FitResult(self.history, self.best_epoch, self.best_loss, self.stopped)

    def _train_epoch(self) -> tuple[float, float]:
        self.model.train()
        shuffle = torch.Generator(device=self.device)
        shuffle.manual_seed(_order_seed(self.settings.seed, self.epoch, self.worker.rank))
        self._seed_noise(_epoch_seed(self.settings.seed, self.epoch, self.worker.rank))
        for i, indices in enumerate(self.rows.epoch(self.batch_size, shuffle)):
            self.scheduler.step(self.epoch + i / self.n_steps)
            self.step(indices)
        loss, norm = self.step.take_sums()
        return (
            float(self.worker.mean(loss / self.n_steps)),
            float(self.worker.mean(norm / self.n_steps)),
        )

    @torch.no_grad()
    def _validate(self) -> float:
        self.judged.eval()
        self._seed_noise(_VALIDATION_SEED)
        batch = self.validation.batch(spread(self.validation, VALIDATION_ROWS, self.device))
        loss: Tensor = self.judged.validation_loss(*batch)  # type: ignore[operator]
        # every rank must come to the same decision to stop, or the others wait for ever
        return float(self.worker.mean(loss))

    def _seed_noise(self, seed: int) -> None:
        seed_noise(seed, self.device)

    def _check(self, train_loss: float, gradient_norm: float, validation_loss: float) -> None:
        try:
            check_epoch(
                self.epoch + 1,
                train_loss=train_loss,
                gradient_norm=gradient_norm,
                validation_loss=validation_loss,
                good_steps=self.step.take_good_steps(),
                n_steps=self.n_steps,
                best_epoch=self.best_epoch,
                checkpoint=self.saved,
            )
        except DataError:
            self.model.load_state_dict(self.best_state)
            raise

    def _count(self, validation_loss: float) -> bool:
        """What an epoch changes beside the weights; says whether it is the best so far."""
        self.epoch += 1
        self.scheduler.step(self.epoch, validation_loss)
        self.stopped = self.stopping(validation_loss)
        if validation_loss >= self.best_loss:
            return False
        self.best_loss, self.best_epoch = validation_loss, self.epoch
        return True

    def _make_step(self) -> TrainingStep | GraphedStep:
        settings = self.settings
        averaged: Tensor | None = None
        if self.judged is not self.model:
            averaged = FlatParameters(self.judged).vector.detach()
        step = TrainingStep(
            self.objective,
            self.rows.batch,
            self.parameters,
            self.optimizer,
            gradient_clip=settings.gradient_clip,
            averaged=averaged,
            ema_decay=settings.ema_decay,
        )
        if not settings.cuda_graph:
            return step
        if self.device.type != "cuda" or self.worker.world_size > 1:
            raise ConfigError(
                f"cuda_graph=true needs one CUDA device, got device {self.device} and "
                f"{self.worker.world_size} workers: use cuda_graph=false"
            )
        return GraphedStep(step, self.batch_size)

    # ------------------------------------------------------------------ files

    def save(self, folder: Path) -> bool:
        """Writes best.pt where it is new and last.pt where it is due; says whether it was."""
        if not self.best_is_saved:
            save_payload(folder / "best.pt", "weights", {"state_dict": self.best_state})
            self.best_is_saved = True
        due = self.finished or self.epoch % self.settings.checkpoint_every == 0
        if due:
            save_payload(folder / "last.pt", "fit", self._state())
            self.saved = f"{folder / 'last.pt'} of epoch {self.epoch}"
        return due

    def load(self, path: Path) -> None:
        state = load_payload(path, "fit", device=self.device)
        with rebuilding(path, "fit"):
            other = difference(state["identity"], self.identity)
        if other is not None:
            raise ConfigError(
                f"{path} was written with {other}: use the settings and data it was started with, "
                "or another folder"
            )
        with rebuilding(path, "fit"):
            self._go_through(state["history"])
            for name, ours in self._state().items():
                if name not in ("identity", "history", "optimizer"):
                    check_alike(state[name], ours, name)
            check_moments(state["optimizer"]["state"], self.parameters.vector)
        self.model.load_state_dict(state["model"])
        self.judged.load_state_dict(state["judged"])
        # copies, for the file's may share their memory; its settings are ours, as the identity is
        moments = _copied(state["optimizer"]["state"][0])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": {0: moments}})
        self.best_state = state["best_state"]
        self.saved = f"{path} of epoch {self.epoch}"

    def _go_through(self, history: list[dict[str, float]]) -> None:
        """Comes by the counters as the epochs did: what the file says of them must agree."""
        check_history(history)
        for record in history:
            if self.finished:
                raise ValueError(f"its history goes on after its last epoch, {self.epoch}")
            self._count(record["validation_loss"])
            self.history.append(record)

    def _state(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "model": self.model.state_dict(),
            "judged": self.judged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "stopping": self.stopping.state_dict(),
            "best_state": self.best_state,
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
            "epoch": self.epoch,
            "history": self.history,
            "stopped": self.stopped,
        }

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on with the fit that goes on from it."""
        settings = asdict(self.settings)
        del settings["checkpoint_every"]  # changes nothing about the weights
        described = self.descriptions
        if described is None:
            described = describe_rows(self.train, self.validation, self.device)
        sections = {
            "scheduler": settings.pop("scheduler"),
            "model": getattr(self.model, "hyperparameters", {}),
            **described,
        }
        for section, content in sections.items():
            settings.update({f"{section}.{key}": value for key, value in content.items()})
        return settings


def _make_optimizer(vector: nn.Parameter, settings: FitSettings) -> torch.optim.Optimizer:
    rate: float | Tensor = settings.learning_rate
    if settings.cuda_graph:
        rate = torch.tensor(rate, device=vector.device)
    return torch.optim.AdamW(
        [vector],
        lr=rate,
        weight_decay=settings.weight_decay,
        fused=True,
        capturable=settings.cuda_graph and vector.device.type == "cuda",
    )


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    return _copied(model.state_dict())


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in tensors.items()}


def _order_seed(seed: int, epoch: int, rank: int) -> int:
    """Seeds the order of a rank's rows; apart from every seed of `_epoch_seed`."""
    key = [seed, epoch, 0] if rank == 0 else [seed, epoch, 0, rank]
    return int(SeedSequence(key).generate_state(1)[0])


def _epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """A seed of its own for every epoch and rank."""
    return int(SeedSequence([seed, epoch, rank + 1]).generate_state(1)[0])
