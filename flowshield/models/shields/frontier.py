"""What can be asked for: at each horizon the highest return that is supported."""

__all__ = ["Frontier", "highest_supported"]

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_GRID = 48  # returns that are looked at before the search narrows


class Frontier(NamedTuple):
    """The highest supported returns from some states.

    Attributes:
        horizons: [m], steps.
        returns: [batch, m], raw; -inf where no return is supported at that horizon.
        tolerance: The true highest return lies less than this above, raw reward; for the density,
            which need not be monotone, given that no island of support hides between two of the
            returns that the search began with.
    """

    horizons: Tensor
    returns: Tensor
    tolerance: float


def highest_supported(
    supported: Callable[[Tensor], Tensor],
    horizons: Tensor,
    low: Tensor,
    high: Tensor,
    tolerance: float,
) -> Frontier:
    """Searches a grid of returns for the highest supported one, then bisects above it.

    Args:
        supported: Tells of commands [batch, k, 2] whether they are supported, bool [batch, k].
        horizons: [m].
        low: Lowest return to look at, [batch].
        high: Highest, [batch].
        tolerance: When to stop, raw reward.
    """
    batch, m = len(low), len(horizons)
    fractions = torch.linspace(0, 1, _GRID, device=low.device, dtype=low.dtype)
    grid = low.unsqueeze(1) + (high - low).unsqueeze(1) * fractions
    passed = supported(_commands(horizons, grid.unsqueeze(1).expand(-1, m, -1)))
    passed = passed.view(batch, m, _GRID)
    none = ~passed.any(dim=2)
    index = torch.arange(_GRID, device=low.device)
    top = torch.where(passed, index, -1).amax(dim=2)
    inside = grid.gather(1, top.clamp(min=0))
    outside = grid.gather(1, (top + 1).clamp(max=_GRID - 1))
    widest = float((outside - inside).max()) if batch * m else 0.0
    for _ in range(max(0, math.ceil(math.log2(max(widest, tolerance) / tolerance)))):
        middle = (inside + outside) / 2
        passed = supported(_commands(horizons, middle.unsqueeze(2))).view(batch, m)
        inside = torch.where(passed, middle, inside)
        outside = torch.where(passed, outside, middle)
    return Frontier(horizons, torch.where(none, -torch.inf, inside), tolerance)


def _commands(horizons: Tensor, returns: Tensor) -> Tensor:
    """Commands [batch, m * k, 2] of horizons [m] and returns [batch, m, k]."""
    batch, m, k = returns.shape
    steps = horizons.to(returns.dtype).view(1, m, 1).expand(batch, m, k)
    return torch.stack([steps, returns], dim=3).reshape(batch, m * k, 2)
