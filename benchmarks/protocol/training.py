"""Trains the agent and the shields with the package's Trainer and its shipped settings."""

__all__ = ["agent", "measure", "shield"]

from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from flowshield.config import shield_settings
from flowshield.models import BaseShield, UDRLAgent
from flowshield.training import Trainer
from protocol.data import collection, config_for
from protocol.schedule import Context
from protocol.store import Key


def measure(context: Context, key: Key) -> dict[str, Any]:
    """Trains one model and writes it beside its record; an interrupted training goes on."""
    config = config_for(context, key.dataset, key.seed)
    checkpoints = context.folder / "checkpoints" / key.dataset / str(key.seed)
    trainer = Trainer(config, checkpoint_dir=checkpoints, resume=True)
    data = collection(context, key.dataset)
    is_agent = key.model == "agent"
    model: UDRLAgent | BaseShield
    model = trainer.train_udrl(data) if is_agent else trainer.train_shield(data, key.model)
    result = trainer.results[key.model]
    model.save(context.store.model(key.dataset, key.seed, key.model))
    settings = config.model if is_agent else shield_settings(config, key.model)
    return {
        "training_seconds": sum(record["seconds"] for record in result.history),
        "epochs": len(result.history),
        "best_epoch": result.best_epoch,
        "validation_loss": result.validation_loss,
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "settings": OmegaConf.to_container(settings, resolve=True),
        "history": result.history,
    }


def shield(context: Context, dataset: str, seed: int, name: str) -> BaseShield:
    """A trained shield. Whoever changes it takes a copy."""
    return _shield(context.store.model(dataset, seed, name))


def agent(context: Context, dataset: str, seed: int) -> UDRLAgent:
    """A trained agent."""
    return _agent(context.store.model(dataset, seed, "agent"))


@lru_cache(maxsize=2)
def _shield(path: Path) -> BaseShield:
    return BaseShield.load(path)


@lru_cache(maxsize=2)
def _agent(path: Path) -> UDRLAgent:
    return UDRLAgent.load(path)
