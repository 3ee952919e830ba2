"""Trains agent and shields with the package's Trainer as it ships them, and peers by themselves."""

__all__ = ["agent", "measure", "peer", "shield"]

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from peers import PEERS, Peer

from flowshield.config import shield_settings
from flowshield.models import BaseShield, UDRLAgent
from flowshield.models.serialization import load_payload, save_payload
from flowshield.training import Trainer
from protocol.data import collection, config_for, parts_of
from protocol.schedule import Context
from protocol.store import Key


def measure(context: Context, key: Key) -> dict[str, Any]:
    """Trains one model and writes it beside its record; an interrupted training goes on."""
    return _peer_record(context, key) if key.model in PEERS else _own_record(context, key)


def _own_record(context: Context, key: Key) -> dict[str, Any]:
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
        "best_share": result.best_epoch / len(result.history),
        "validation_loss": result.validation_loss,
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "settings": OmegaConf.to_container(settings, resolve=True),
        "history": result.history,
    }


def _peer_record(context: Context, key: Key) -> dict[str, Any]:
    """Trains a peer for its budget on the same training and validation episodes."""
    parts = parts_of(context, key.dataset, key.seed)
    train, validation = parts["train"], parts["validation"]
    torch.manual_seed(key.seed)
    model = PEERS[key.model](train.state_dim)
    history = model.fit(
        train.states,
        train.commands,
        validation.states,
        validation.commands,
        seed=key.seed,
        budget=context.settings.peer_seconds,
    )
    path = context.store.model(key.dataset, key.seed, key.model)
    save_payload(path, "weights", {"state_dict": model.state_dict()})
    best = min(history, key=lambda record: record["validation_loss"])
    return {
        "training_seconds": history[-1]["seconds"],
        "best_share": best["seconds"] / history[-1]["seconds"],
        "validation_loss": best["validation_loss"],
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "history": history,
    }


def peer(context: Context, dataset: str, seed: int, name: str) -> Peer:
    """A trained peer."""
    path = context.store.model(dataset, seed, name)
    model = PEERS[name](collection(context, dataset).state_dim)
    model.load_state_dict(load_payload(path, "weights")["state_dict"])
    return model


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
