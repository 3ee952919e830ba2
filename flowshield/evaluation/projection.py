"""Whether a shield's projections are supported, and how far they lie from the request."""

__all__ = ["evaluate_projection"]

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowshield.errors import DataError
from flowshield.models import BaseShield


def evaluate_projection(
    shield: BaseShield,
    ood_commands: NDArray[np.float32] | Tensor,
    states: NDArray[np.float32] | Tensor,
) -> dict[str, float]:
    """Projects commands and checks what comes back.

    Args:
        shield: Calibrated.
        ood_commands: Requests [n, 2], raw.
        states: [n, state_dim], raw.

    Returns:
        mean_distance (scaled units, see `scaled_distance`), mean_log_prob (raw nats),
        projection_success (share that a fresh check calls supported).

    Raises:
        DataError: There are no rows.
        ShapeError: A shape is wrong.
        NotCalibratedError: The shield has no threshold.
    """
    device = shield.device
    command = torch.as_tensor(ood_commands, dtype=torch.float32, device=device)
    state = torch.as_tensor(states, dtype=torch.float32, device=device)
    if len(command) == 0:
        raise DataError("expected at least one command to project, got none")
    projection = shield.project_in_detail(state, command)
    supported = ~shield.is_ood(state, projection.command)
    return {
        "mean_distance": float(projection.distance.mean()),
        "mean_log_prob": float(projection.score.mean()),
        "projection_success": float(supported.float().mean()),
    }
