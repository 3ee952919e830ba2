"""A shield's scores and thresholds for arrays of any length."""

__all__ = ["shield_limits", "shield_scores"]

import numpy as np
import torch
from numpy.typing import NDArray

from flowshield.models import BaseShield

_BATCH = 2048


def shield_scores(
    shield: BaseShield, states: NDArray[np.float32], commands: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Scores of raw commands [n, 2] at raw states [n, state_dim], in batches, [n]."""
    device = shield.device
    scores = [
        shield.score(
            torch.as_tensor(states[i : i + _BATCH], dtype=torch.float32, device=device),
            torch.as_tensor(commands[i : i + _BATCH], dtype=torch.float32, device=device),
        )
        for i in range(0, len(states), _BATCH)
    ]
    return torch.cat(scores).double().cpu().numpy()


def shield_limits(
    shield: BaseShield,
    states: NDArray[np.float32],
    threshold: float | None = None,
    alpha: float | None = None,
) -> NDArray[np.float64]:
    """The least supported score at raw states [n, state_dim], [n]. See `BaseShield.limits`."""
    rows = torch.as_tensor(states, dtype=torch.float32, device=shield.device)
    return shield.limits(rows, threshold, alpha).cpu().numpy()
