"""A shield's scores and thresholds for arrays of any length."""

__all__ = ["shield_limits", "shield_log_probs", "shield_scores"]

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowshield.models import BaseShield

_BATCH = 2048


def shield_scores(
    shield: BaseShield, states: NDArray[np.float32], commands: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Scores of raw commands [n, 2] at raw states [n, state_dim], in batches, [n]."""
    return _in_batches(shield.score, shield, states, commands)


@torch.no_grad()
def shield_log_probs(
    shield: BaseShield, states: NDArray[np.float32], commands: NDArray[np.float32]
) -> NDArray[np.float64]:
    """log p(g | s) likewise, whatever the shield scores by; NaN where it cannot be computed."""
    return _in_batches(shield.log_prob, shield, states, commands)


def shield_limits(
    shield: BaseShield,
    states: NDArray[np.float32],
    threshold: float | None = None,
    alpha: float | None = None,
) -> NDArray[np.float64]:
    """The least supported score at raw states [n, state_dim], [n]. See `BaseShield.limits`."""
    rows = torch.as_tensor(states, dtype=torch.float32, device=shield.device)
    return shield.limits(rows, threshold, alpha).cpu().numpy()


def _in_batches(
    function: Callable[[Tensor, Tensor], Tensor],
    shield: BaseShield,
    states: NDArray[np.float32],
    commands: NDArray[np.float32],
) -> NDArray[np.float64]:
    values = [
        function(
            torch.as_tensor(states[i : i + _BATCH], dtype=torch.float32, device=shield.device),
            torch.as_tensor(commands[i : i + _BATCH], dtype=torch.float32, device=shield.device),
        )
        for i in range(0, len(states), _BATCH)
    ]
    return torch.cat(values).double().cpu().numpy()
