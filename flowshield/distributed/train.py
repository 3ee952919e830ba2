"""A fit on Ray Train: the loop of `flowshield.training.fit`, over several processes."""

__all__ = ["fit_on_ray"]

import copy
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import pyarrow as pa
import ray
import torch
from ray.data import ExecutionOptions
from ray.train import (
    CheckpointConfig,
    ControllerError,
    DataConfig,
    LoggingConfig,
    Result,
    RunConfig,
    TrainingFailedError,
    WorkerGroupError,
)
from ray.train.torch import TorchTrainer
from torch import nn

from flowshield.data import CommandPairs, TransitionTensors
from flowshield.distributed.mailbox import Mailbox
from flowshield.distributed.session import session
from flowshield.distributed.shards import put_rows, row_bytes, rows_table
from flowshield.distributed.train_controller import TrainController
from flowshield.distributed.train_ends import TrainingRefused, Weights
from flowshield.distributed.train_folder import TrainFolder
from flowshield.distributed.train_rank import train_rank
from flowshield.distributed.train_workers import TrainWorkers
from flowshield.training.fit import describe_rows
from flowshield.training.fit_settings import FitResult, FitSettings
from flowshield.training.rows import VALIDATION_ROWS, check_rows, spread

OnEpoch = Callable[[dict[str, float]], None]

_POLL_S = 0.2  # how often driver and controller look what the workers have to say
_PATIENCE_S = 30.0  # how long it waits for a run that it has ended to be gone


def fit_on_ray(
    model: nn.Module,
    train: TransitionTensors | CommandPairs,
    validation: TransitionTensors | CommandPairs,
    settings: FitSettings,
    workers: TrainWorkers,
    *,
    checkpoint_dir: str,
    resume: bool = False,
    on_epoch: OnEpoch | None = None,
    stop: threading.Event | None = None,
) -> FitResult:
    """Trains a model on workers and leaves it, in this process, with its best epoch's weights.

    The workers share the training rows and each step's batch. A worker that dies is replaced and
    all go on from the last checkpoint, without a word.

    Args:
        model: As for `fit`, anywhere; it needs no GPU here.
        train: Training rows; `CommandPairs` for a shield.
        validation: Rows of episodes that are not trained on, of the same kind.
        settings: See `FitSettings`; `batch_size` is that of all workers together.
        workers: How many, and what each gets.
        checkpoint_dir: Folder or URI, on storage that all nodes share; it gets last.pt and best.pt
            as from `fit` whenever a resumable checkpoint is due, and Ray's own files below ray/ as
            long as it trains.
        resume: Whether to go on from last.pt, whichever number of workers wrote it.
        on_epoch: Called here, once an epoch, with each record of the history.
        stop: Set from another thread, it ends the training as Ctrl-C does in this one.

    Returns:
        The history and the best epoch.

    Raises:
        ConfigError: last.pt was written with other settings or data, or this machine has no room
            for the workers.
        DataError: As for `fit`; the model then holds the best weights so far.
        ray.train.TrainingFailedError: Workers died more often than `max_failures`.
    """
    check_rows(train, validation)
    # a report waits for the controller's next look, by default every 2 s: far too long
    # for epochs of a quarter of a second
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(_POLL_S))
    with session():
        workers.check_room()
        folder = TrainFolder(checkpoint_dir)
        mailbox = Mailbox()
        contents = {
            "mailbox": mailbox,
            "start": folder.last() if resume else None,
            "storage": folder.place,
            "settings": settings,
            "n_threads": max(1, int(workers.cpus_per_worker)),
            "resident_bytes": workers.resident_bytes,
            **_contents(model, train, validation),
        }
        trainer = _torch_trainer(contents, rows_table(_tensors(train)), workers, folder)
        try:
            outcome = _watched(trainer, mailbox, on_epoch, stop)
        except TrainingFailedError as error:
            refused = _refused(error)
            if refused is None:
                raise
            _load(model, refused.weights)
            raise refused.error from None
    result: FitResult
    result, weights = outcome.return_value  # type: ignore[attr-defined]
    _load(model, weights)
    model.eval()
    with suppress(OSError):  # only room would be won
        folder.clear_runs()
    return result


def _torch_trainer(
    contents: dict[str, Any], rows: pa.Table, workers: TrainWorkers, folder: TrainFolder
) -> TorchTrainer:
    """The training as Ray Train has it, not yet begun."""
    # one worker has no share to be cut, and starting what cuts takes it seconds
    alone = workers.number == 1 and contents["row_bytes"] * len(rows) <= workers.resident_bytes
    contents = {**contents, "table": ray.put(rows) if alone else None}
    return TorchTrainer(
        train_rank,  # type: ignore[arg-type]
        # by reference: what lies in it, the controller would import flowshield's models to read
        train_loop_config={"contents": ray.put(contents)},
        scaling_config=workers.scaling(),
        datasets={} if alone else {"train": put_rows(rows)},
        dataset_config=_in_order(),
        run_config=RunConfig(
            name=folder.new_run(),
            storage_path=folder.runs,
            failure_config=workers.failures(),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            callbacks=[TrainController(folder)],  # type: ignore[list-item]
            logging_config=LoggingConfig(log_level="ERROR"),  # type: ignore[call-arg]
        ),
    )


def _contents(
    model: nn.Module,
    train: TransitionTensors | CommandPairs,
    validation: TransitionTensors | CommandPairs,
) -> dict[str, Any]:
    """Model and rows as references into the object store, and what the rows are as a whole."""
    rows, held_out = _tensors(train), _tensors(validation)
    after = rows.return_after if rows.mode == "future" else None
    judged = held_out.take(spread(held_out, VALIDATION_ROWS, held_out.device))
    return {
        "model": ray.put(copy.deepcopy(model).cpu()),
        "validation": ray.put(judged.to(torch.device("cpu"))),
        "return_after": None if after is None else ray.put(after.cpu().numpy()),
        "pairs": isinstance(train, CommandPairs),
        "row_bytes": row_bytes(rows),
        "descriptions": describe_rows(train, validation, rows.device),
    }


def _watched(
    trainer: TorchTrainer,
    mailbox: Mailbox,
    on_epoch: OnEpoch | None,
    stop: threading.Event | None,
) -> Result:
    """Runs the training in a thread, and hands on its epochs in this one.

    In the main thread Ray would take Ctrl-C to itself, and end the process with exit code 0.
    """
    outcome: Future[Result] = Future()
    thread = threading.Thread(target=_run, args=(trainer, outcome), daemon=True)
    thread.start()
    told = 0.0
    try:
        while True:
            if stop is not None and stop.is_set():
                raise KeyboardInterrupt
            over = outcome.done()  # first, so that what was sent before the end is not missed
            for record in mailbox.take():
                # epochs since the last checkpoint come once more after a worker's death
                if record["epoch"] > told:
                    told = record["epoch"]
                    if on_epoch is not None:
                        on_epoch(record)
            if over:
                return outcome.result()
            time.sleep(_POLL_S)
    finally:
        # the first rank cannot report its next epoch, and the run ends
        mailbox.close()
        if told and not outcome.done():  # what has not begun has nothing to write down
            thread.join(timeout=_PATIENCE_S)


def _run(trainer: TorchTrainer, outcome: "Future[Result]") -> None:
    try:
        outcome.set_result(trainer.fit())
    except BaseException as error:  # the other thread raises it
        outcome.set_exception(error)


def _in_order() -> DataConfig:
    """Cuts the rows the same way every time, so that the same workers get the same rows."""
    options = ExecutionOptions(preserve_order=True)
    return DataConfig(execution_options=options)


def _tensors(rows: TransitionTensors | CommandPairs) -> TransitionTensors:
    return rows.tensors if isinstance(rows, CommandPairs) else rows


def _load(model: nn.Module, weights: Weights) -> None:
    # a copy: Ray's arrays may not be written to
    model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})


def _refused(error: TrainingFailedError) -> TrainingRefused | None:
    """The error of flowshield's in what Ray made of it, if it is one."""
    causes: list[Exception] = []
    if isinstance(error, ControllerError):
        causes = [error.controller_failure]
    elif isinstance(error, WorkerGroupError):
        causes = list(error.worker_failures.values())
    return next((cause for cause in causes if isinstance(cause, TrainingRefused)), None)
