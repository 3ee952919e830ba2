"""Training of agent and shields, and the names that the training module documents."""

from flowshield.data import (
    CommandDataset,
    DataCollector,
    TrajectoryDataset,
    compute_hindsight_commands,
    sample_future_commands,
)
from flowshield.training.checkpoints import load_checkpoint, save_checkpoint
from flowshield.training.device import resolve_device
from flowshield.training.early_stopping import EarlyStopping
from flowshield.training.fit import fit
from flowshield.training.fit_settings import FitResult, FitSettings
from flowshield.training.hyperparameters import hyperparameters
from flowshield.training.learning_rate import LearningRateScheduler
from flowshield.training.logger import Logger
from flowshield.training.own_shields import register_shield
from flowshield.training.trainer import Trainer

__all__ = [
    "CommandDataset",
    "DataCollector",
    "EarlyStopping",
    "FitResult",
    "FitSettings",
    "LearningRateScheduler",
    "Logger",
    "TrajectoryDataset",
    "Trainer",
    "compute_hindsight_commands",
    "fit",
    "hyperparameters",
    "load_checkpoint",
    "register_shield",
    "resolve_device",
    "sample_future_commands",
    "save_checkpoint",
]
