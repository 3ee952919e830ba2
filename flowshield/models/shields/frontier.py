"""What can be asked for: at each horizon the highest return that is supported."""

__all__ = ["Frontier", "highest_supported"]

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_EVENLY = 48  # returns over three ranges of the samples', where the score is a density
_LOWER = 6  # how often the distance below the samples is doubled: 64 ranges of theirs
_HIGHER = 20  # the same above: a million ranges
# Commands of a density. In one piece the flow took five times as long at 20 states.
_AT_A_TIME = 2048


class Frontier(NamedTuple):
    """The highest supported returns from some states.

    For the achievability, which falls in the return, the returns are what they say. A density may
    rise again: then a higher island of support is missed where it lies between two of the returns
    that the search began with. Those are the returns of 256 of the shield's own samples, so that
    none of these that is supported at the horizon lies higher, and 48 between and about them. What
    the samples do not show (about 1% of the probability or less) and falls between is missed.

    Attributes:
        horizons: [m], steps.
        returns: [batch, m], raw; -inf where no return is supported at that horizon (none down to
            64 ranges of the samples' returns below them), inf where every return is (up to a
            million ranges above them).
        tolerance: The true highest return lies less than this above, raw reward (or a few roundings
            of float32, if that is more); for a density but for the islands described above.
    """

    horizons: Tensor
    returns: Tensor
    tolerance: float


def highest_supported(
    scores: Callable[[Tensor, Tensor], Tensor],
    state: Tensor,
    limits: Tensor,
    horizons: Tensor,
    samples: Tensor,
    tolerance: float,
    *,
    falling: bool,
) -> Frontier:
    """Searches a grid of returns for the highest supported one, then bisects above it.

    Args:
        scores: Those [rows, k] of commands [rows, k, 2] at states [rows, state_dim].
        state: [batch, state_dim].
        limits: Least score that is supported, [batch].
        horizons: [m].
        samples: Returns of the shield's own samples, [batch, n].
        tolerance: When to stop, raw reward.
        falling: Whether the score falls in the return, as the achievability does: then a few
            returns suffice for a start.
    """
    span = (samples.amax(dim=1) - samples.amin(dim=1)).clamp(min=1.0).unsqueeze(1)
    grid = _starting_returns(samples, span, falling)

    def supported(returns: Tensor) -> Tensor:
        commands = _commands(horizons, returns)
        # an achievability's samples are drawn at every call, and its commands are few
        n = max(1, commands.shape[1] if falling else _AT_A_TIME // max(1, len(state)))
        parts = commands.split(n, dim=1)  # type: ignore[no-untyped-call]
        passed = [scores(state, part) >= limits.unsqueeze(1) for part in parts]
        return torch.cat(passed, dim=1).view(returns.shape)

    return Frontier(horizons, _search(supported, grid, span, len(horizons), tolerance), tolerance)


def _starting_returns(samples: Tensor, span: Tensor, falling: bool) -> Tensor:
    """Rising returns [batch, k] from far below the samples' to one span above them."""
    low, high = samples.amin(dim=1, keepdim=True), samples.amax(dim=1, keepdim=True)
    doubling = 2.0 ** torch.arange(_LOWER, -1, -1, device=samples.device, dtype=samples.dtype)
    evenly = torch.linspace(0, 1, _EVENLY, device=samples.device, dtype=samples.dtype)
    between = [low, high]
    if not falling:
        between = [samples, low - span + (high - low + 2 * span) * evenly]
    grid = torch.cat([low - span * doubling, *between, high + span], dim=1)
    return grid.sort(dim=1).values


def _search(
    supported: Callable[[Tensor], Tensor], grid: Tensor, span: Tensor, m: int, tolerance: float
) -> Tensor:
    """The highest supported returns [rows, m], from what is supported of [rows, m, k] returns."""
    rows, k = grid.shape
    passed = supported(grid.unsqueeze(1).expand(rows, m, k))
    top = torch.where(passed, torch.arange(k, device=grid.device), -1).amax(dim=2)
    inside = grid.gather(1, top.clamp(min=0))
    outside = grid.gather(1, (top + 1).clamp(max=k - 1))
    none, open_above = top < 0, top == k - 1
    for doubling in range(_HIGHER):
        if not bool(open_above.any()):
            break
        higher = inside + span * 2.0**doubling
        passes = open_above & supported(higher.unsqueeze(2)).squeeze(2)
        outside = torch.where(open_above & ~passes, higher, outside)
        inside = torch.where(passes, higher, inside)
        open_above = passes
    known = ~(none | open_above)
    for _ in range(_halvings((outside - inside)[known], tolerance)):
        middle = (inside + outside) / 2
        passes = supported(middle.unsqueeze(2)).squeeze(2)
        inside = torch.where(passes, middle, inside)
        outside = torch.where(passes, outside, middle)
    found = torch.where(open_above, torch.inf, inside)
    return torch.where(none, -torch.inf, found)


def _halvings(gaps: Tensor, tolerance: float) -> int:
    """How often the widest of some gaps must be halved to be within the tolerance."""
    widest = float(gaps.max()) if len(gaps) else 0.0
    return max(0, math.ceil(math.log2(max(widest, tolerance) / tolerance)))


def _commands(horizons: Tensor, returns: Tensor) -> Tensor:
    """Commands [batch, m * k, 2] of horizons [m] and returns [batch, m, k]."""
    batch, m, k = returns.shape
    steps = horizons.to(returns.dtype).view(1, m, 1).expand(batch, m, k)
    return torch.stack([steps, returns], dim=3).reshape(batch, m * k, 2)
