"""The distribution that a rising row of quantiles stands for: density, distribution, inverse."""

__all__ = [
    "inverse_distribution",
    "log_density",
    "log_distribution",
    "quantile_levels",
    "rising",
]

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_LEAST_GAP = 1e-4  # between neighbouring quantiles, standardized units: keeps the density finite


class _Cell(NamedTuple):
    """Where y lies between two neighbouring quantiles, each [rows, m].

    Attributes:
        start: The lower quantile.
        gap: Distance to the upper one.
        level: The lower one's level.
        mass: Probability of the cell.
        lower: Density at the lower quantile, in units of the cell's mean density.
        upper: Density at the upper quantile, likewise.
    """

    start: Tensor
    gap: Tensor
    level: Tensor
    mass: Tensor
    lower: Tensor
    upper: Tensor


def quantile_levels(n: int) -> Tensor:
    """Levels [n] in (0, 1), symmetric, denser in the tails than even ones.

    The mean of (k + 1/2) / n and of (1 - cos(pi (k + 1/2) / n)) / 2: a threshold at 5% lies in the
    tails, of which even levels would see nothing.
    """
    even = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return (0.5 * even + 0.25 * (1.0 - torch.cos(math.pi * even))).float()


def rising(raw: Tensor) -> Tensor:
    """Turns unconstrained rows [rows, K] into increasing ones."""
    gaps = functional.softplus(raw[:, 1:]) + _LEAST_GAP
    return torch.cat([raw[:, :1], gaps], dim=1).cumsum(dim=1)


def log_density(levels: Tensor, grid: Tensor, y: Tensor) -> Tensor:
    """Log-density, [rows, m]: the derivative of `log_distribution`, continuous everywhere.

    Args:
        levels: [K], rising, symmetric about 1/2.
        grid: Quantiles [rows, K], rising.
        y: [rows, m].
    """
    cell = _cell(levels, grid, _index(grid, y))
    x = (y - cell.start) / cell.gap
    inside = x.clamp(0.0, 1.0)
    both = inside * (1.0 - inside)
    bend = (cell.lower + cell.upper - 2.0) * both
    top = torch.lerp(cell.lower, cell.upper, inside) - bend
    bottom = 1.0 + bend
    density = cell.mass * top / (cell.gap * bottom * bottom)
    return density.log() - _outside(levels, cell, x - inside)


def log_distribution(levels: Tensor, grid: Tensor, y: Tensor) -> Tensor:
    """log P(Y <= y), float64 [rows, m].

    Between quantiles a rational-quadratic spline (Gregory & Delbourgo 1982; as in Durkan et al.
    2019, arXiv 1906.04032, eq. 4) through them, whose slope at each is the mean slope over its two
    neighbouring cells. Beyond the outermost ones exponential tails that continue value and slope.

    Args:
        levels: [K], rising, symmetric about 1/2.
        grid: Quantiles [rows, K], rising.
        y: [rows, m].
    """
    levels, grid, y = levels.double(), grid.double(), y.double()
    cell = _cell(levels, grid, _index(grid, y))
    x = (y - cell.start) / cell.gap
    inside = x.clamp(0.0, 1.0)
    both = inside * (1.0 - inside)
    bottom = 1.0 + (cell.lower + cell.upper - 2.0) * both
    share = ((inside * inside + cell.lower * both) / bottom).clamp(0.0, 1.0)
    tail = levels[0].log() - _outside(levels, cell, x - inside)
    between = (cell.level + cell.mass * share).log()
    return torch.where(x < 0.0, tail, torch.where(x > 1.0, torch.log1p(-tail.exp()), between))


def inverse_distribution(levels: Tensor, grid: Tensor, u: Tensor) -> Tensor:
    """Quantiles [rows, m] at levels u [rows, m]: the inverse of `log_distribution`.

    Args:
        levels: [K], rising, symmetric about 1/2.
        grid: Quantiles [rows, K], rising.
        u: [rows, m], in [0, 1].
    """
    index = (torch.searchsorted(levels, u.contiguous()) - 1).clamp(0, len(levels) - 2)
    cell = _cell(levels, grid, index)
    share = ((u - cell.level) / cell.mass).clamp(0.0, 1.0)
    curve = (cell.lower + cell.upper - 2.0) * share
    linear = cell.lower - curve
    root = (linear * linear + 4.0 * (1.0 - cell.lower + curve) * share).clamp(min=0.0).sqrt()
    # where both are 0 the level is that of the lower quantile itself
    x = 2.0 * share / (linear + root).clamp(min=1e-30)
    below = (u / levels[0]).clamp(1e-12, 1.0).log() / cell.lower
    above = ((1.0 - u) / levels[0]).clamp(1e-12, 1.0).log() / cell.upper
    return cell.start + cell.gap * (x + (below - above) * levels[0] / cell.mass)


def _index(grid: Tensor, y: Tensor) -> Tensor:
    """Of the quantile below y, [rows, m]; of the outermost cell where y is outside."""
    index = torch.searchsorted(grid.contiguous(), y.contiguous())
    return (index - 1).clamp(0, grid.shape[1] - 2)


def _outside(levels: Tensor, cell: _Cell, excess: Tensor) -> Tensor:
    """How far beyond the outermost quantiles, in scales of the tail there; 0 between them.

    Args:
        levels: [K].
        cell: Where y lies.
        excess: How far, in gaps: negative below, positive above. NaN stays NaN.
    """
    slope = torch.where(excess < 0.0, -cell.lower, cell.upper)
    return excess * slope * cell.mass / levels[0]


def _cell(levels: Tensor, grid: Tensor, index: Tensor) -> _Cell:
    """The cells that start at quantiles `index` [rows, m]."""
    knots = _fours(grid).gather(1, index.unsqueeze(2).expand(-1, -1, 4))
    heights = _fours(levels.unsqueeze(0))[0][index]
    start, level = knots[..., 1], heights[..., 1]
    gap, mass = knots[..., 2] - start, heights[..., 2] - level
    over_two = (heights[..., 2:] - heights[..., :2]) / (knots[..., 2:] - knots[..., :2])
    lower, upper = (over_two * (gap / mass).unsqueeze(2)).unbind(2)
    return _Cell(start, gap, level, mass, lower, upper)


def _fours(rows: Tensor) -> Tensor:
    """Each cell's two ends and the next knot on either side, [rows, K - 1, 4], of rows [rows, K].

    An outermost knot is its own neighbour: it has one neighbouring cell.
    """
    return torch.cat([rows[:, :1], rows, rows[:, -1:]], dim=1).unfold(1, 4, 1)
