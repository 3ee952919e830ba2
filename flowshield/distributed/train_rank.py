"""One rank of a training on Ray Train: the same fit loop, on its share of the rows."""

__all__ = ["RankWorker", "train_rank"]

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint
from ray.train.torch import get_device, prepare_model
from torch import Tensor, distributed, nn

from flowshield.data import CommandPairs, TransitionTensors
from flowshield.distributed.mailbox import Mailbox
from flowshield.distributed.shards import resident_rows, shard_rows
from flowshield.distributed.train_ends import DriverGone, TrainingRefused, Weights
from flowshield.errors import FlowshieldError
from flowshield.scratch import ScratchFolder
from flowshield.training.fit import fit
from flowshield.training.fit_settings import FitResult, FitSettings
from flowshield.training.rows import Rows
from flowshield.training.worker import Objective


class RankWorker:
    """This process as one of the ranks of a Ray Train run; see `flowshield.training.worker`."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()

    def prepare(self, objective: Objective) -> nn.Module:
        """Averages gradients over the ranks, where there are several."""
        # buffers hold statistics of the data, which nothing changes while training
        arguments = {"broadcast_buffers": False}
        wrapped: nn.Module = prepare_model(objective, parallel_strategy_kwargs=arguments)
        return wrapped

    def mean(self, value: Tensor) -> Tensor:
        """Averages a scalar over the ranks."""
        if self.world_size == 1:
            return value
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total / self.world_size

    def report(self, record: dict[str, float], checkpoint: Path | None) -> None:
        """Waits for the other ranks, and hands the files over where there are any."""
        files = None if checkpoint is None else Checkpoint.from_directory(str(checkpoint))
        ray.train.report(record, checkpoint=files)


def train_rank(references: dict[str, Any]) -> tuple[FitResult, Weights]:
    """What Ray Train runs in every worker.

    Args:
        references: "contents" is where the object store has what `flowshield.distributed.train`
            wrote.

    Returns:
        What the fit did, and the weights of its best epoch.

    Raises:
        TrainingRefused: The fit raised an error of flowshield's.
    """
    config = ray.get(references["contents"])
    torch.set_num_threads(config["n_threads"])
    model: nn.Module = ray.get(config["model"]).to(get_device())
    with ScratchFolder() as folder:
        try:
            result = _fit(model, config, folder)
        except FlowshieldError as error:
            named = type(error)(str(error).replace(str(folder), config["storage"]))
            raise TrainingRefused(named, _weights(model)) from error
    return result, _weights(model)


def _fit(model: nn.Module, config: dict[str, Any], folder: Path) -> FitResult:
    worker, device, settings = RankWorker(), get_device(), config["settings"]
    _take_checkpoint(config["start"], folder)
    return fit(
        model,
        _training_rows(config, worker, settings, device),
        _validation_rows(config, device),
        settings,
        worker=worker,
        descriptions=config["descriptions"],
        checkpoint_dir=folder,
        resume=True,
        on_epoch=partial(_tell, config["mailbox"]) if worker.rank == 0 else None,
    )


def _tell(mailbox: Mailbox, record: dict[str, float]) -> None:
    if not mailbox.put(record):
        raise DriverGone("nobody waits for this training any more")


def _take_checkpoint(start: bytes | None, folder: Path) -> None:
    """Lays last.pt where the fit looks for it: of this run, else of the one before it."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as source:
            shutil.copy(Path(source) / "last.pt", folder / "last.pt")
    elif start is not None:
        (folder / "last.pt").write_bytes(start)


def _training_rows(
    config: dict[str, Any], worker: RankWorker, settings: FitSettings, device: torch.device
) -> Rows:
    n_rows = config["descriptions"]["training rows"]["number"] // worker.world_size
    after, pairs = _array(config["return_after"]), config["pairs"]
    if config["table"] is not None:
        return resident_rows(ray.get(config["table"]), device, after, pairs)
    return shard_rows(
        ray.train.get_dataset_shard("train"),
        n_rows,
        device=device,
        batch_size=max(1, settings.batch_size // worker.world_size),
        resident=n_rows * config["row_bytes"] <= config["resident_bytes"],
        return_after=after,
        pairs=pairs,
    )


def _validation_rows(config: dict[str, Any], device: torch.device) -> Rows:
    part: TransitionTensors = ray.get(config["validation"]).to(device)
    return CommandPairs(part) if config["pairs"] else part


def _array(ref: Any) -> Any:
    return None if ref is None else ray.get(ref)


def _weights(model: nn.Module) -> Weights:
    return {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
