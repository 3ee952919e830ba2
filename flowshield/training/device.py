"""The device that a config names."""

__all__ = ["resolve_device"]

import torch

from flowshield.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """Turns auto, cpu, cuda or cuda:N into a device that exists.

    Raises:
        ConfigError: The name is not a device, or asks for CUDA where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise _unknown(name) from error
    if device.type not in ("cpu", "cuda"):
        raise _unknown(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device: {name!r} asked for, but this machine has {torch.cuda.device_count()} usable "
            "CUDA devices; use device=auto or device=cpu"
        )
    return device


def _unknown(name: str) -> ConfigError:
    return ConfigError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}")
