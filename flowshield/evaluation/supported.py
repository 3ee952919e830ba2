"""Commands that a shield supports at given states, from modest returns to high ones."""

__all__ = ["supported_commands"]

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowshield.errors import ConfigError
from flowshield.models import BaseShield
from flowshield.models.shields.achievability import whole_horizons

_SAMPLES = 256  # drawn a state


@torch.no_grad()
def supported_commands(
    shield: BaseShield,
    states: NDArray[np.float32],
    n_commands: int,
    return_grid: float | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Supported commands at each state, spread evenly over what returns are supported there.

    Of the shield's samples, horizons made whole, those that it does not flag are sorted by return;
    taken are those at the quantiles (i + 1/2) / n_commands, so that every command is one
    that the shield itself would let pass.

    Args:
        shield: Calibrated.
        states: [n, state_dim], raw.
        n_commands: Commands a state, at least 1.
        return_grid: The samples' returns become multiples of this, as horizons become whole; None =
            they stay. Where the data's returns are 0 or 1 there is nothing between to ask for.

    Returns:
        (quantiles [n_commands], commands [n, n_commands, 2] raw); a state where fewer than
        n_commands samples are supported has NaN for commands.

    Raises:
        ConfigError: n_commands is below 1 or more than the samples.
        NotCalibratedError: The shield has no threshold.
    """
    if not 1 <= n_commands <= _SAMPLES:
        raise ConfigError(f"expected n_commands from 1 to {_SAMPLES}, got {n_commands}")
    quantiles = (np.arange(n_commands) + 0.5) / n_commands
    state = torch.as_tensor(states, dtype=torch.float32, device=shield.device)
    samples = _on_grid(shield, shield.common_samples(state, _SAMPLES)[0], return_grid)
    supported = shield.scores(state, samples) >= shield.limits(state).unsqueeze(1)
    chosen = np.full((len(states), n_commands, 2), np.nan)
    for row, inside in enumerate(supported):
        found = samples[row, inside].double().cpu().numpy()
        if len(found) >= n_commands:
            ordered = found[np.argsort(found[:, 1], kind="stable")]
            chosen[row] = ordered[(quantiles * len(found)).astype(int)]
    return quantiles, chosen


def _on_grid(shield: BaseShield, commands: Tensor, return_grid: float | None) -> Tensor:
    unit = shield.command_standardizer
    whole = unit.unshear(whole_horizons(unit.shear(commands)))
    horizon, returns = whole[..., :1], whole[..., 1:]
    if return_grid is not None:
        returns = (returns / return_grid).round() * return_grid
    return torch.cat([horizon, returns], dim=-1)
