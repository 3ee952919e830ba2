"""The nearest command of a score by brute force: what a projection's distance is compared with."""

__all__ = ["nearest_on_grid"]

import torch
from torch import Tensor

from flowshield.models import BaseShield
from flowshield.models.shields.projection import scaled_distance

_GRID = (48, 96)  # horizons, returns over the data's range
_ZOOM = (12, 24)  # around what was found, within one step of the grid before
_ROUNDS = 2
_CHUNK = 768  # points scored at once, the nearest first


@torch.no_grad()
def nearest_on_grid(
    shield: BaseShield, state: Tensor, request: Tensor, least: float, low: Tensor, high: Tensor
) -> float:
    """Scaled distance from one request to the nearest point found whose score is high enough.

    A grid over the box of all commands in the data, then finer ones around the best point so far.

    Args:
        shield: Calibrated.
        state: [1, state_dim], raw.
        request: [1, 2], raw.
        least: Score that a point must have.
        low: Least horizon and return of the box, [2].
        high: Largest ones, [2].

    Returns:
        The distance; infinite where no point of the grid has that score.
    """
    sizes, best = torch.tensor(_GRID), (float("inf"), request[0])
    for _ in range(1 + _ROUNDS):
        points = _grid(low, high, sizes)
        best = min(best, _first_inside(shield, state, request, least, points), key=lambda b: b[0])
        if best[0] == float("inf"):
            break
        reach = (high - low) / (sizes - 1)
        low, high = best[1] - reach, best[1] + reach
        low = torch.maximum(low, torch.tensor([1.0, -torch.inf]))
        sizes = torch.tensor(_ZOOM)
    return best[0]


def _grid(low: Tensor, high: Tensor, sizes: Tensor) -> Tensor:
    axes = [torch.linspace(float(low[i]), float(high[i]), int(sizes[i])) for i in (0, 1)]
    return torch.cartesian_prod(*axes)


def _first_inside(
    shield: BaseShield, state: Tensor, request: Tensor, least: float, points: Tensor
) -> tuple[float, Tensor]:
    weight = shield.projection.horizon_weight
    distance = scaled_distance(points, request, shield.command_standardizer, weight)
    order = distance.argsort()
    for start in range(0, len(order), _CHUNK):
        chunk = order[start : start + _CHUNK]
        inside = shield.scores(state, points[chunk].unsqueeze(0))[0] >= least
        if inside.any():
            index = chunk[inside.nonzero()[0, 0]]
            return float(distance[index]), points[index]
    return float("inf"), request[0]
