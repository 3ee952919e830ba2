"""The nearest command of a score by brute force: what a projection's distance is compared with."""

__all__ = ["Box", "boxes_around", "nearest_on_grid"]

from collections.abc import Sequence

import torch
from torch import Tensor

from flowshield.models import BaseShield
from flowshield.models.shields.projection import scaled_distance

_GRID = (48, 96)  # horizons, returns over a box
_SAMPLES = 64  # of p(g | s), the same whenever they are asked for
_WIDER = 0.5  # of its extent, by which the samples' box is widened on every side
_ZOOM = (12, 24)  # around what was found, within one step of the grid before
_ROUNDS = 2
_CHUNK = 768  # points scored at once, the nearest first

Box = tuple[Tensor, Tensor]


@torch.no_grad()
def nearest_on_grid(
    shield: BaseShield,
    state: Tensor,
    request: Tensor,
    least: float,
    boxes: Sequence[Box],
) -> float:
    """Scaled distance from one request to the nearest point found whose score is high enough.

    A grid over each box, then finer ones around the best point so far. What is supported at a late
    state fits between two points of a grid over all data: `boxes_around` gives narrower boxes.

    Args:
        shield: Calibrated.
        state: [1, state_dim], raw.
        request: [1, 2], raw.
        least: Score that a point must have.
        boxes: Lowest and highest (horizon, return) of each, [2] and [2].

    Returns:
        The distance; infinite where no point of any grid has that score.
    """
    best = float("inf")
    for low, high in boxes:
        sizes = torch.tensor(_GRID)
        for _ in range(1 + _ROUNDS):
            points = _grid(torch.maximum(low, torch.tensor([1.0, -torch.inf])), high, sizes)
            found, point = _first_inside(shield, state, request, least, points, best)
            if found == float("inf"):  # no point, or none nearer than the best of another box
                break
            best, reach = min(best, found), (high - low) / (sizes - 1)
            low, high, sizes = point - reach, point + reach, torch.tensor(_ZOOM)
    return best


@torch.no_grad()
def boxes_around(
    shield: BaseShield, state: Tensor, request: Tensor, answer: Tensor, data: Box
) -> list[Box]:
    """Where to look: all data; what the shield draws at this state; from an answer to the request.

    Args:
        shield: Calibrated.
        state: [1, state_dim], raw.
        request: [1, 2], raw.
        answer: What a projection gave for it, [1, 2], raw.
        data: Lowest and highest command of all data.
    """
    samples = shield.common_samples(state, _SAMPLES)[0][0]
    drawn_low, drawn_high = samples.amin(dim=0), samples.amax(dim=0)
    margin = _WIDER * (drawn_high - drawn_low)
    ends = torch.cat([answer, request])
    reach = torch.maximum((answer - request).abs()[0], margin)
    return [
        data,
        (drawn_low - margin, drawn_high + margin),
        (ends.amin(dim=0) - margin, ends.amax(dim=0) + margin),
        (answer[0] - reach / 8, answer[0] + reach / 8),
    ]


def _grid(low: Tensor, high: Tensor, sizes: Tensor) -> Tensor:
    axes = [torch.linspace(float(low[i]), float(high[i]), int(sizes[i])) for i in (0, 1)]
    return torch.cartesian_prod(*axes)


def _first_inside(
    shield: BaseShield, state: Tensor, request: Tensor, least: float, points: Tensor, within: float
) -> tuple[float, Tensor]:
    """Distance and place of the nearest point with the score, if any is nearer than `within`."""
    weight = shield.projection.horizon_weight
    distance = scaled_distance(points, request, shield.command_standardizer, weight)
    order = distance.argsort()
    order = order[: int((distance < within).sum())]
    for start in range(0, len(order), _CHUNK):
        chunk = order[start : start + _CHUNK]
        inside = shield.scores(state, points[chunk].unsqueeze(0))[0] >= least
        if inside.any():
            index = chunk[inside.nonzero()[0, 0]]
            return float(distance[index]), points[index]
    return float("inf"), request[0]
