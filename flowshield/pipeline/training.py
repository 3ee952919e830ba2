"""Stage two: the agent and the shields, side by side where there is room."""

__all__ = ["train"]

import threading
from functools import partial

from omegaconf import DictConfig

from flowshield.config import shield_settings
from flowshield.counted import counted
from flowshield.data import TrajectoryDataset
from flowshield.json_files import write_json
from flowshield.models import BaseShield, UDRLAgent
from flowshield.pipeline.collecting import check_training_request, collect
from flowshield.pipeline.dataset_check import fit_of
from flowshield.pipeline.place import check_room, for_models, on_ray, place
from flowshield.progress import Bar, Bars, Reporter
from flowshield.run_folder import RunFolder
from flowshield.training import Trainer
from flowshield.training.side_by_side import side_by_side


def train(
    config: DictConfig,
    folder: RunFolder,
    reporter: Reporter,
    dataset: TrajectoryDataset | None = None,
) -> None:
    """Trains the agent and the config's shields, going on from checkpoints that are there.

    Args:
        config: From `load_config`.
        folder: Likewise.
        reporter: Where progress goes.
        dataset: The run's; None = read it, or collect it first.
    """
    if dataset is None:  # else whoever has it has checked
        check_training_request(config, folder)
    with place(config):  # one Ray for collecting and training
        check_room(config)
        _train(config, folder, reporter, dataset or collect(config, folder, reporter))


def _train(
    config: DictConfig, folder: RunFolder, reporter: Reporter, dataset: TrajectoryDataset
) -> None:
    fit = fit_of(dataset, config)
    if fit.misfit:  # training needs no environment, what follows does
        reporter.stage("train", f"for later: {fit.misfit}")
    if fit.doubt:
        reporter.stage("train", f"note: {fit.doubt}")
    if config.shield:  # what would refuse the shields shall not wait for the agent
        trainer = Trainer(config)
        trainer.check_calibration(trainer.split(dataset)["calibration"].n_episodes)
    missing = []
    for name in ("agent", *config.shield):
        if folder.model(name).exists():
            reporter.stage("train", f"found {folder.model(name)}")
        else:
            missing.append(name)
    if not missing:
        return
    with folder.timed("train"), reporter.bars() as bars:
        train_one = _ModelTraining(config, folder, reporter, bars, dataset)
        at_once = Trainer(train_one.config).at_once(len(missing))
        side_by_side([partial(train_one, name) for name in missing], at_once, train_one.stop)


class _ModelTraining:
    """Trains one model of a run, from a thread of its own or not."""

    def __init__(
        self,
        config: DictConfig,
        folder: RunFolder,
        reporter: Reporter,
        bars: Bars,
        dataset: TrajectoryDataset,
    ) -> None:
        self.folder, self.reporter, self.bars, self.dataset = folder, reporter, bars, dataset
        self.config = for_models(config)
        self.stop = threading.Event()

    def __call__(self, name: str) -> None:
        config, folder = self.config, self.folder
        n_epochs = config.n_epochs if name == "agent" else config.shield_epochs
        # Ray's workers write where every node sees it; what this process writes is sent there
        here = folder.checkpoints
        checkpoints = folder.shared(here) if on_ray(config) else str(here)
        self.reporter.stage(
            "train", f"{name}: up to {counted(n_epochs, 'epoch')}, checkpoints in {checkpoints}"
        )
        with self.bars.bar(f"{name}: epochs", n_epochs) as bar:
            trainer = Trainer(
                config,
                checkpoint_dir=checkpoints,
                resume=True,
                on_epoch=partial(self._on_epoch, bar),
                stop=self.stop,
            )
            model: UDRLAgent | BaseShield
            if name == "agent":
                model = trainer.train_udrl(self.dataset)
            else:
                model = trainer.train_shield(self.dataset, name)
        result = trainer.results[name]
        write_json(
            folder.models / f"{name}.json",
            {
                "epochs": len(result.history),
                "best_epoch": result.best_epoch,
                "validation_loss": result.validation_loss,
                "seconds": sum(record["seconds"] for record in result.history),
                "history": result.history,
            },
        )
        model.save(folder.model(name))
        folder.send()
        self.reporter.stage(
            "train",
            f"wrote {folder.model(name)}: best epoch {result.best_epoch} of "
            f"{len(result.history)}, held-out loss {result.validation_loss:.3f} nats"
            f"{_noise_words(model, config)}",
        )
        if isinstance(model, BaseShield):
            self.reporter.stage("train", f"{name}: {model.calibration}")

    def _on_epoch(self, bar: Bar, name: str, record: dict[str, float]) -> None:
        bar.advance(f"held-out loss {record['validation_loss']:.3f}")
        self.folder.send()


def _noise_words(model: UDRLAgent | BaseShield, config: DictConfig) -> str:
    if not isinstance(model, BaseShield):
        return ""
    stated = shield_settings(config, model.shield_type).get("return_noise") is not None
    return f", noise on returns {model.return_noise:g} ({'set' if stated else 'from the data'})"
