"""Trains the agent and the shields from a dataset and a config."""

__all__ = ["Trainer"]

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from torch import nn

from flowshield.config import resolve, shield_settings
from flowshield.counted import counted
from flowshield.data import CommandPairs, TrajectoryDataset, TransitionTensors
from flowshield.data.splitting import episodes_for, split_positions
from flowshield.errors import ConfigError, DataError
from flowshield.models import BaseShield, ProjectionSettings, UDRLAgent
from flowshield.models.shields import Calibration, StateGroups, episodes_needed
from flowshield.training.device import resolve_device
from flowshield.training.fit_settings import FitResult
from flowshield.training.fitter import Fitter, OnEpoch
from flowshield.training.generators import seeded
from flowshield.training.log_calibration import log_calibration
from flowshield.training.side_by_side import side_by_side
from flowshield.training.worker import Judge, Worker

_Model = TypeVar("_Model", bound=nn.Module)


class Trainer:
    """Main training orchestrator for the UDRL agent and the shields.

    The dataset is split by EPISODE into training, validation (early stopping, best epoch),
    calibration (the shield's threshold) and test, the same way for the same seed.

    With `num_workers` of at least 1 (or `ray.num_workers`, which goes before it) each model trains
    on so many Ray Train workers; nothing else changes for the caller.

    Args:
        config: A Hydra config: composed, or read with `OmegaConf.load("configs/train.yaml")`.
        checkpoint_dir: Folder for resumable checkpoints, one folder a model; with workers, also
            an address such as s3://bucket/checkpoints. None = log_dir/checkpoints.
        resume: Whether to go on from checkpoints that lie there.
        on_epoch: Called with the model's name and each epoch's record.
        worker: Where each fit without Ray Train's workers runs and reports; None = this process.
        stop: Set from another thread, it ends a training on Ray as Ctrl-C does.

    Attributes:
        results: What each fit did, by model name ("agent", or the shield's type).

    Raises:
        ConfigError: A key is unknown or misspelt, a value is of the wrong type or out of range, or
            checkpoints shall go to an address without workers.
    """

    def __init__(
        self,
        config: DictConfig | Mapping[str, Any],
        *,
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
        on_epoch: OnEpoch | None = None,
        worker: Worker | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.config = resolve(config)
        self.device = resolve_device(self.config.device)
        self.stop = stop or threading.Event()
        self.results: dict[str, FitResult] = {}
        self._fitter = Fitter(
            self.config,
            checkpoint_dir,
            resume=resume,
            on_epoch=on_epoch,
            worker=worker,
            stop=self.stop,
        )

    def split(self, dataset: TrajectoryDataset) -> dict[str, TrajectoryDataset]:
        """The parts of a dataset by episode: train, validation, calibration, test.

        Raises:
            DataError: There are too few episodes for every part to get one.
        """
        if not isinstance(dataset, TrajectoryDataset):
            raise DataError(
                f"expected a TrajectoryDataset, got {type(dataset).__name__}: "
                'TrajectoryDataset("data.npz") reads a file'
            )
        return dataset.split(dict(self.config.data.split), seed=self.config.seed)

    def train_udrl(self, dataset: TrajectoryDataset, n_epochs: int | None = None) -> UDRLAgent:
        """Trains the agent on hindsight commands: a Gaussian, or a choice of discrete actions.

        Args:
            dataset: Collected trajectories.
            n_epochs: Epochs; None = the config's n_epochs (200 in train.yaml).

        Returns:
            The agent with the weights of its best epoch, in evaluation mode.
        """
        parts = self.split(dataset)
        train, validation = self._tensors(parts["train"]), self._tensors(parts["validation"])
        settings = {**_plain(self.config.model), **_action_settings(dataset)}
        agent = self._seeded(lambda: UDRLAgent(dataset.state_dim, dataset.action_dim, **settings))
        agent.fit_standardizers(train.states, train.commands, train.actions)
        epochs = self.config.n_epochs if n_epochs is None else n_epochs
        with self._fitter.logger("agent") as logger:
            self.results["agent"] = self._fitter.fit(
                "agent", agent, train, validation, epochs, logger=logger
            )
        return agent

    def train_shield(
        self,
        dataset: TrajectoryDataset,
        shield_type: str | None = None,
        n_epochs: int | None = None,
        *,
        judge: Judge | None = None,
    ) -> BaseShield:
        """Trains a shield on (state, command) pairs and calibrates it.

        Args:
            dataset: Collected trajectories.
            shield_type: "quantile", "mixture", "diffusion" or "flow_matching"; None = the
                config's first.
            n_epochs: Epochs; None = the config's shield_epochs (100 in train.yaml).
            judge: Measures the shield of each epoch; its figures join the epoch's record.

        Returns:
            The shield with the weights of its best epoch, calibrated on the calibration episodes
            as the config's `calibration` says, in evaluation mode.

        Raises:
            ConfigError: The type is unknown, or a judge was given and there are workers.
            DataError: Too few calibration episodes for `calibration.alpha`.
        """
        if judge is not None and self._fitter.on_ray:
            raise ConfigError("a judge looks on in this process: use num_workers=0")
        shield_type = shield_type or self._first_shield()
        settings = _plain(shield_settings(self.config, shield_type))
        learning_rate = settings.pop("learning_rate")
        parts = self.split(dataset)
        self.check_calibration(parts["calibration"].n_episodes)
        train = CommandPairs(self._tensors(parts["train"]))
        validation = CommandPairs(self._tensors(parts["validation"]))
        shield = self._seeded(
            lambda: BaseShield.of_type(shield_type)(dataset.state_dim, **settings)
        )
        shield.projection = ProjectionSettings(**self.config.projection)
        shield.fit_standardizers(train.tensors.states, train.tensors.commands)
        # of the training episodes: groups that had seen the calibration would cost exactness
        groups = shield.fit_groups(
            train.tensors.states.to(self.device), self.config.calibration.groups, self.config.seed
        )
        epochs = self.config.shield_epochs if n_epochs is None else n_epochs
        with self._fitter.logger(shield_type) as logger:
            result = self.results[shield_type] = self._fitter.fit(
                shield_type,
                shield,
                train,
                validation,
                epochs,
                learning_rate=learning_rate,
                judge=judge,
                logger=logger,
            )
            calibration = self.calibrate(shield, parts["calibration"], groups)
            log_calibration(logger, calibration, result.best_epoch)
        return shield

    def train(
        self, dataset: TrajectoryDataset, train_udrl: bool = True, train_shield: bool = True
    ) -> tuple[UDRLAgent | None, BaseShield | None]:
        """Trains the agent and the config's shield; on Ray side by side, where there is room.

        Args:
            dataset: Collected trajectories.
            train_udrl: Whether to train the agent.
            train_shield: Whether to train the shield.

        Returns:
            (agent, shield); None for what was not trained.

        Raises:
            ConfigError: The config names no shield.
            DataError: Too few calibration episodes for `calibration.alpha`.
        """
        if train_shield:  # what would refuse the shield shall not wait for the agent
            self._first_shield()
            self.check_calibration(self.split(dataset)["calibration"].n_episodes)
        trainings: list[Callable[[], Any]] = [
            lambda: self.train_udrl(dataset) if train_udrl else None,
            lambda: self.train_shield(dataset) if train_shield else None,
        ]
        with self._fitter.session():
            agent, shield = side_by_side(trainings, self.at_once(2), self.stop)
        return agent, shield

    def at_once(self, n_models: int) -> int:
        """How many of so many models to begin side by side: in this process 1."""
        return self._fitter.at_once(n_models)

    def calibrate(
        self,
        shield: BaseShield,
        episodes: TrajectoryDataset,
        groups: StateGroups | None = None,
    ) -> Calibration:
        """Sets the shield's score and threshold as the config's `calibration` says.

        Args:
            shield: Trained.
            episodes: That trained and selected nothing.
            groups: Groups of states; None = k-means of these episodes' own states.
        """
        settings = self.config.calibration
        shield.score_type = settings.score
        return shield.calibrate(
            episodes,
            alpha=settings.alpha,
            unit=settings.unit,
            groups=settings.groups if groups is None else groups,
            seed=self.config.seed,
        )

    def _tensors(self, dataset: TrajectoryDataset) -> TransitionTensors:
        # rows that are on their way to other processes need no device of this one's
        device = "cpu" if self._fitter.on_ray else self.device
        return TransitionTensors(dataset, device, self.config.data.commands)

    def _seeded(self, make: Callable[[], _Model]) -> _Model:
        """Makes a model whose initial weights depend on the seed alone."""
        with seeded(self.config.seed):
            return make().to(self.device)

    def _first_shield(self) -> str:
        for shield_type in self.config.shield:
            return str(shield_type)
        raise ConfigError("shield: the config names none: add one, such as shield=flow_matching")

    def check_episodes(self, n_episodes: int) -> None:
        """Refuses before collecting what the split and the calibration would refuse after it.

        Raises:
            DataError: So many episodes are too few for the parts, or, where the config names a
                shield, for `calibration.alpha`.
        """
        parts = split_positions(n_episodes, dict(self.config.data.split), self.config.seed)
        if self.config.shield:
            self.check_calibration(len(parts["calibration"]))

    def check_calibration(self, n_episodes: int) -> None:
        """Refuses before an hour of training what calibration would refuse after it.

        Args:
            n_episodes: Calibration episodes.

        Raises:
            DataError: So many are too few for `calibration.alpha`.
        """
        alpha, split = self.config.calibration.alpha, dict(self.config.data.split)
        needed = episodes_needed(alpha)
        if n_episodes < needed:
            raise DataError(
                f"calibration.alpha={alpha:g} needs at least "
                f"{counted(needed, 'calibration episode')}, got {n_episodes}: collect at least "
                f"{episodes_for(needed, 'calibration', split)} in all (data.n_episodes), of which "
                f"data.split.calibration={split['calibration']:g} calibrate, or raise "
                "calibration.alpha or data.split.calibration"
            )


def _action_settings(dataset: TrajectoryDataset) -> dict[str, Any]:
    """How many discrete actions there are; or the bounds of continuous ones.

    These are the environment's where the file has them, else the extremes of what was done.
    """
    if dataset.n_actions is not None:
        return {"n_actions": dataset.n_actions}
    metadata = dataset.metadata
    return {
        "action_low": metadata.get("action_low") or dataset.actions.min(axis=0).tolist(),
        "action_high": metadata.get("action_high") or dataset.actions.max(axis=0).tolist(),
    }


def _plain(config: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
