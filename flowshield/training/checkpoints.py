"""Training checkpoints: agent, shield, optimizer and epoch in one file."""

__all__ = ["load_checkpoint", "save_checkpoint"]

import os
from typing import Any

import torch

from flowshield.models.agent import UDRLAgent
from flowshield.models.serialization import load_payload, rebuilding, save_payload
from flowshield.models.shields import BaseShield
from flowshield.training.device import resolve_device


def save_checkpoint(
    path: str | os.PathLike[str],
    agent: UDRLAgent | None,
    shield: BaseShield | None,
    optimizer: torch.optim.Optimizer | None,
    epoch: int,
) -> None:
    """Saves a training checkpoint, whole or not at all.

    Args:
        path: The file; what was there before stays until the new one is complete.
        agent: The policy, or None.
        shield: The shield, or None.
        optimizer: The optimizer whose state goes with them, or None.
        epoch: Epochs done.

    Raises:
        OSError: The folder cannot be written to, or the disk is full.
    """
    content = {
        "agent": None
        if agent is None
        else {"hyperparameters": agent.hyperparameters, "state_dict": agent.state_dict()},
        "shield": None if shield is None else shield.payload(),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
        "epoch": epoch,
    }
    save_payload(path, "checkpoint", content)


def load_checkpoint(
    path: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> dict[str, Any]:
    """Loads a training checkpoint without executing anything from the file.

    Args:
        path: A file that `save_checkpoint` wrote.
        device: Where the tensors go.

    Returns:
        A dict: "agent" (UDRLAgent or None), "shield" (BaseShield or None), "optimizer" (a state
        for `optimizer.load_state_dict`, or None), "epoch" (int).

    Raises:
        ConfigError: There is no such device.
        FileNotFoundError: There is no such file.
        FileFormatError: The file is truncated, foreign or of another version or release.
    """
    device = resolve_device(str(device))
    content = load_payload(path, "checkpoint", device=device)
    with rebuilding(path, "checkpoint"):
        agent, shield = content["agent"], content["shield"]
        optimizer, epoch = content["optimizer"], int(content["epoch"])
        agent = None if agent is None else UDRLAgent.from_payload(agent)
        shield = None if shield is None else BaseShield.from_payload(shield)
    return {
        "agent": None if agent is None else agent.to(device),
        "shield": None if shield is None else shield.to(device),
        "optimizer": optimizer,
        "epoch": epoch,
    }
