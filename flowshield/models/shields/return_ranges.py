"""Which returns are supported at a horizon: ranges, and the gaps between them."""

__all__ = ["supported_ranges"]

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from flowshield.models.shields.frontier import highest_supported

_EVENLY = 256  # returns between the lowest and the highest supported one, beside the samples

Ranges = list[tuple[float, float]]


def supported_ranges(
    scores: Callable[[Tensor, Tensor], Tensor],
    state: Tensor,
    limits: Tensor,
    horizon: float,
    samples: Tensor,
    tolerance: float,
    *,
    falling: bool,
    also: Sequence[float] = (),
) -> list[Ranges]:
    """Finds the outermost supported returns, looks at many between them, bisects where it changes.

    Args:
        scores: Those [rows, k] of commands [rows, k, 2] at states [rows, state_dim].
        state: [batch, state_dim].
        limits: Least score that is supported, [batch].
        horizon: Steps.
        samples: Returns of the shield's own samples, [batch, n].
        tolerance: When to stop, raw reward.
        falling: Whether the score falls in the return, as the achievability does: then whatever
            lies below the highest supported return is supported.
        also: Further returns to look at.

    Returns:
        For each state its ranges (low, high), rising; see `BaseShield.supported_returns`.
    """
    steps = torch.tensor([horizon], dtype=state.dtype, device=state.device)

    def mirrored(rows: Tensor, commands: Tensor) -> Tensor:
        return scores(rows, commands * commands.new_tensor([1.0, -1.0]))

    highest = highest_supported(
        scores, state, limits, steps, samples, tolerance, falling=falling
    ).returns[:, 0]
    if falling:
        return [[] if top == -math.inf else [(-math.inf, top)] for top in highest.tolist()]
    lowest = -highest_supported(
        mirrored, state, limits, steps, -samples, tolerance, falling=False
    ).returns[:, 0]
    found = []
    for row in range(len(state)):

        def supported(returns: Tensor, row: int = row) -> Tensor:
            commands = torch.stack([steps.expand(len(returns)), returns], dim=1)
            return scores(state[row : row + 1], commands.unsqueeze(0))[0] >= limits[row]

        ends = float(lowest[row]), float(highest[row])
        found.append(_ranges(supported, ends, samples[row], samples.new_tensor(also), tolerance))
    return found


def _ranges(
    supported: Callable[[Tensor], Tensor],
    ends: tuple[float, float],
    samples: Tensor,
    also: Tensor,
    tolerance: float,
) -> Ranges:
    """The ranges at one state, given its outermost supported returns, infinite or not."""
    outermost = torch.tensor([end for end in ends if math.isfinite(end)]).to(samples)
    between = torch.cat([samples, outermost])
    evenly = torch.linspace(
        float(between.min()), float(between.max()), _EVENLY, device=samples.device
    ).to(samples)
    points: Tensor = torch.cat([between, evenly, also]).unique()  # type: ignore[no-untyped-call]
    # the ends were found in a batch of another size, and may fail here by a rounding
    passed = supported(points) | torch.isin(points, outermost)
    edges = _edges(supported, points, passed, tolerance)
    if bool(passed[0]):
        edges = [min(ends[0], float(points[0])), *edges]
    if bool(passed[-1]):
        edges = [*edges, max(ends[1], float(points[-1]))]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _edges(
    supported: Callable[[Tensor], Tensor], points: Tensor, passed: Tensor, tolerance: float
) -> list[float]:
    """Where support begins or ends between rising points, rising; each is itself supported."""
    change = (passed[1:] != passed[:-1]).nonzero().squeeze(1)
    first = passed[change]
    inside = torch.where(first, points[change], points[change + 1])
    outside = torch.where(first, points[change + 1], points[change])
    widest = float((outside - inside).abs().max()) if len(change) else 0.0
    for _ in range(max(0, math.ceil(math.log2(max(widest, tolerance) / tolerance)))):
        middle = (inside + outside) / 2
        passes = supported(middle)
        inside, outside = torch.where(passes, middle, inside), torch.where(passes, outside, middle)
    edges: list[float] = inside.tolist()
    return edges
