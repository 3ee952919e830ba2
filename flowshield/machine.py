"""The machine that figures were measured on."""

__all__ = ["machine"]

import os
import platform

import torch


def machine() -> str:
    """The machine in one line, for whoever reads the figures."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    python = platform.python_version()
    return f"{os.cpu_count()} cores, {platform.machine()}, {gpu}, Python {python}"
