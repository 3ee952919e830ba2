"""torch's global generators, which one thread at a time may seed."""

__all__ = ["seed_noise", "seeded"]

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_CPU = torch.device("cpu")
_TURN = threading.RLock()


@contextmanager
def seeded(seed: int, device: torch.device = _CPU) -> Iterator[None]:
    """Seeds the generators of the CPU and the device for the body, and puts them back after it.

    Models that train side by side are prepared in threads of one process: each waits its turn.

    Args:
        seed: Of both generators.
        device: Where the body draws beside the CPU.
    """
    with _TURN, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_noise(seed, device)
        yield


def seed_noise(seed: int, device: torch.device) -> None:
    """Seeds what `fork_rng` puts back; torch.manual_seed would seed every other GPU too."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
