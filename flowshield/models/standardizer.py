"""The map of raw states and commands to numbers of the size that networks learn from."""

__all__ = ["COMMAND_NAMES", "CommandStandardizer", "Standardizer", "state_names"]

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor, nn

from flowshield.errors import DataError
from flowshield.models.scale import ReturnScale, spread, warn_of_lost_digits, warn_of_outliers

COMMAND_NAMES = ("horizon", "return")
_FLOAT32 = 2.0**-23  # of a number's size: the distance to the next number that float32 knows
# A deviation of so many spreads collapses what most values differ by. The columns of the
# environments in configs/env reach 3.1 (20,000 steps each).
_COLLAPSED = 5.0
# Of the quantiles through which a bent column's curve goes; the ends are the extremes.
_LEVELS = np.array(
    [2e-4, 1e-3, 3e-3, 0.01, 0.02, 0.05, *np.arange(0.1, 0.91, 0.05), 0.95, 0.98, 0.99, 0.997]
    + [0.999, 0.9998]
)
# Returns of which a constant reward per step leaves so small a share are told apart by the rest.
# The environments in configs/env leave 0.048 (Hopper), 0.14 (highway) and more.
_EXPLAINED = 0.1
_LEAST_GAP = 0.02  # spreads between neighbouring quantiles: values that tie are one
_MOST_BEYOND = 60.0  # standardized units beyond the extremes: e^60 is a number of float32


class Standardizer(nn.Module):
    """Monotone map of each column to zero mean and unit deviation, stored with its model.

    The map is affine, but where rare values of another size make a column's deviation much larger
    than what most of its values differ by (`spread`). Such a column is *bent*: a curve takes its
    quantiles to those of a standard normal law, so that neither the many close values nor the few
    far ones collapse. Between the quantiles it is a rational-quadratic spline (Gregory & Delbourgo
    1982; as in Durkan et al. 2019, arXiv 1906.04032, eq. 4-8), beyond the extremes a logarithm with
    the same slope. Inverse and Jacobian are exact in both cases.

    A column that never varies, as far as float32 can tell, is only shifted.

    Args:
        dim: Size of the vectors.

    Attributes:
        mean: What standardizes to 0, raw [dim]: the mean, or the median of a bent column.
        std: The raw size of one standardized unit about there, [dim].
        knots: Raw quantiles of bent columns, rising, then infinite [dim, 27]; infinite elsewhere.
        heights: What they standardize to [dim, 27].
        bent: The bent columns.
    """

    mean: Tensor
    std: Tensor
    knots: Tensor
    heights: Tensor
    bent: tuple[int, ...]

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("knots", torch.full((dim, len(_LEVELS)), math.inf))
        self.register_buffer("heights", torch.full((dim, len(_LEVELS)), math.inf))
        self.bent = ()
        self.register_load_state_dict_post_hook(  # type: ignore[no-untyped-call]
            _find_bent_columns
        )

    def fit(self, x: Tensor, names: Sequence[str] = ()) -> None:
        """Takes the statistics of raw vectors [n, dim].

        Args:
            x: [n, dim].
            names: What the columns are called in warnings; () = by their number.

        Raises:
            DataError: There are no rows, or some are not finite.

        Warns:
            DataWarning: A column is bent, or float32 keeps few of its digits.
        """
        if len(x) == 0 or not bool(torch.isfinite(x).all()):
            raise DataError(
                f"expected at least one row of finite numbers to standardize, got shape "
                f"{tuple(x.shape)} with {int((~torch.isfinite(x)).sum())} non-finite values"
            )
        x64 = x.double()  # float32 sums over a million rows lose digits
        mean, std = x64.mean(dim=0), x64.std(dim=0, correction=0)
        constant = std <= _FLOAT32 * x64.abs().amax(dim=0)
        std = torch.where(constant, torch.ones_like(std), std)
        self.knots.fill_(math.inf)
        self.heights.fill_(math.inf)
        for i in (x64 != x64[0]).any(dim=0).nonzero().flatten().tolist():
            column = x64[:, i].cpu().numpy()
            name, size = names[i] if names else f"column {i}", spread(column)
            if not constant[i] and float(std[i]) > _COLLAPSED * size:
                warn_of_outliers(name, column, size)
                mean[i], std[i] = float(np.median(column)), size
                self._bend(i, column, size)
            warn_of_lost_digits(name, column, size)
        self.mean.copy_(mean)
        self.std.copy_(std)
        _find_bent_columns(self, None)

    def forward(self, x: Tensor) -> Tensor:
        """Raw [..., dim] to standardized [..., dim]."""
        z = (x - self.mean) / self.std
        if not self.bent:
            return z
        columns = list(z.unbind(dim=-1))
        for i in self.bent:
            columns[i] = self._curve(i)(x[..., i])[0]
        return torch.stack(columns, dim=-1)

    def inverse(self, z: Tensor) -> Tensor:
        """Standardized [..., dim] to raw [..., dim]."""
        x = z * self.std + self.mean
        if not self.bent:
            return x
        columns = list(x.unbind(dim=-1))
        for i in self.bent:
            columns[i] = self._curve(i).inverse(z[..., i])
        return torch.stack(columns, dim=-1)

    def log_abs_det(self, x: Tensor | None = None) -> Tensor:
        """log |det d raw / d standardized|: what a log-density in raw units loses.

        Args:
            x: Where, raw [..., dim]; None is enough where no column is bent.

        Returns:
            [...], or a scalar where it is the same everywhere.

        Raises:
            DataError: A column is bent, and there is no x.
        """
        if not self.bent:
            return self.std.log().sum()
        if x is None:
            raise DataError(
                "expected the raw rows at which the Jacobian is wanted, got none: the slope of a "
                "column with rare values of another size changes from place to place"
            )
        columns = list(self.std.log().expand(x.shape).unbind(dim=-1))
        for i in self.bent:
            columns[i] = -self._curve(i)(x[..., i])[1]
        return torch.stack(columns, dim=-1).sum(dim=-1)

    def _bend(self, i: int, column: NDArray[np.float64], size: float) -> None:
        """Takes the quantiles of a column; neighbours that tie become one."""
        quantiles = np.quantile(column, [0.0, *_LEVELS[1:-1], 1.0])
        places = np.unique((quantiles / (_LEAST_GAP * size)).round(), return_inverse=True)[1]
        count = np.bincount(places)
        knots = np.bincount(places, quantiles) / count
        knots[0], knots[-1] = quantiles[0], quantiles[-1]
        self.knots[i, : len(count)] = torch.from_numpy(knots)
        heights = np.bincount(places, ndtri(_LEVELS)) / count
        self.heights[i, : len(count)] = torch.from_numpy(heights)

    def _curve(self, i: int) -> "_Curve":
        n = int(torch.isfinite(self.knots[i]).sum())
        x, z = self.knots[i, :n].double(), self.heights[i, :n].double()
        secants = z.diff() / x.diff()
        inner = (secants[1:] + secants[:-1]) / 2
        return _Curve(x, z, secants, torch.cat([secants[:1], inner, secants[-1:]]))


class CommandStandardizer(Standardizer):
    """The standardizer of commands (H, R), which knows that R grows with H.

    Where a constant reward per step explains nearly all of the returns, what tells commands apart
    at one horizon is a small part of a return's deviation, and no network learns it. There the
    second column is R - c H, c the constant (`ReturnScale.reward_per_step`): a shear, whose
    Jacobian is 1. Adding a constant to every reward then changes c and nothing else.

    It is for models of commands. An agent is asked for commands far from the data, too, and there
    this map would be a hundred deviations off where the plain one is two: measured on Hopper, an
    agent with it fell at once when it was asked for (1000, 3000), which it stood without.

    Attributes:
        reward_per_step: c, raw reward; 0 where returns are taken as they are.
        sheared: Whether it is another than 0.
    """

    reward_per_step: Tensor
    sheared: bool

    def __init__(self, dim: int = 2) -> None:
        super().__init__(dim)
        self.register_buffer("reward_per_step", torch.zeros(()))
        self.sheared = False

    def fit(self, x: Tensor, names: Sequence[str] = COMMAND_NAMES) -> None:
        """Takes the statistics of raw commands [n, 2]; see `Standardizer.fit`."""
        self.reward_per_step.zero_()
        if len(x) and bool(torch.isfinite(x).all()):
            scale = ReturnScale.of_commands(x.detach().cpu().numpy())
            given = scale.given_horizon
            if given is not None and given < _EXPLAINED * scale.spread:
                self.reward_per_step.fill_(scale.reward_per_step)
        self.sheared = bool(self.reward_per_step != 0.0)
        super().fit(self.shear(x.double()), names)

    def forward(self, x: Tensor) -> Tensor:
        """Raw [..., 2] to standardized [..., 2]."""
        return super().forward(self.shear(x))

    def inverse(self, z: Tensor) -> Tensor:
        """Standardized [..., 2] to raw [..., 2]."""
        return self.unshear(super().inverse(z))

    def log_abs_det(self, x: Tensor | None = None) -> Tensor:
        """See `Standardizer.log_abs_det`: the shear changes no volume."""
        return super().log_abs_det(None if x is None else self.shear(x))

    def shear(self, commands: Tensor) -> Tensor:
        """(H, R) to (H, R - c H), [..., 2]: what is left of a return at any horizon."""
        return self._with_rewards(commands, -1.0) if self.sheared else commands

    def unshear(self, commands: Tensor) -> Tensor:
        """(H, R - c H) to (H, R), [..., 2]."""
        return self._with_rewards(commands, 1.0) if self.sheared else commands

    def returns_at(self, horizons: Tensor | float, rest: Tensor) -> Tensor:
        """The returns R that R - c H stands for at horizons of its shape, or at one."""
        return rest + self.reward_per_step * horizons if self.sheared else rest

    def _with_rewards(self, commands: Tensor, times: float) -> Tensor:
        horizon, ret = commands.double().unbind(dim=-1)  # large beside what they differ by
        ret = ret + times * self.reward_per_step.double() * horizon
        return torch.stack([horizon, ret], dim=-1).to(commands)


class _Curve(NamedTuple):
    """A monotone curve through points, float64.

    Attributes:
        x: Raw [k], rising.
        z: Standardized [k], rising.
        secants: Slopes between neighbours [k - 1].
        slopes: Slopes at the points [k], above 0: any such make the spline monotone.
    """

    x: Tensor
    z: Tensor
    secants: Tensor
    slopes: Tensor

    def __call__(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Standardized values and the logarithm of the slope at raw ones, each of their shape."""
        value = raw.double()
        inside = value.clamp(self.x[0], self.x[-1])
        k = self._cell(self.x, inside)
        secant, left, right = self.secants[k], self.slopes[k], self.slopes[k + 1]
        share = (inside - self.x[k]) / (self.x[k + 1] - self.x[k])
        both = share * (1.0 - share)
        bottom = secant + (left + right - 2.0 * secant) * both
        rise = (secant * share**2 + left * both) / bottom
        z = self.z[k] + (self.z[k + 1] - self.z[k]) * rise
        top = right * share**2 + 2.0 * secant * both + left * (1.0 - share) ** 2
        log_slope = 2.0 * (secant.log() - bottom.log()) + top.log()
        beyond = value - inside
        grown = (self._end_slope(beyond) * beyond.abs()).log1p()
        return (z + beyond.sign() * grown).to(raw), (log_slope - grown).to(raw)

    def inverse(self, standardized: Tensor) -> Tensor:
        """Raw values of standardized ones, of their shape."""
        value = standardized.double()
        inside = value.clamp(self.z[0], self.z[-1])
        k = self._cell(self.z, inside)
        height = self.z[k + 1] - self.z[k]
        # seen from the nearer end: from the other one digits are lost where the curve is flat
        mirrored = inside - self.z[k] > height / 2
        near, far = torch.where(mirrored, k + 1, k), torch.where(mirrored, k, k + 1)
        risen = (inside - self.z[near]).abs()
        secant, slope = self.secants[k], self.slopes[near]
        bend = slope + self.slopes[far] - 2.0 * secant
        a = height * (secant - slope) + risen * bend
        b = height * slope - risen * bend
        c = -secant * risen
        root = (b * b - 4.0 * a * c).clamp(min=0.0).sqrt()
        share = (-2.0 * c / (b + root)).clamp(0.0, 1.0)
        x = self.x[near] + share * (self.x[far] - self.x[near])
        beyond = value - inside
        grown = beyond.abs().clamp(max=_MOST_BEYOND).expm1() / self._end_slope(beyond)
        return (x + beyond.sign() * grown).to(standardized)

    def _cell(self, edges: Tensor, inside: Tensor) -> Tensor:
        return (torch.searchsorted(edges, inside.contiguous()) - 1).clamp(0, len(edges) - 2)

    def _end_slope(self, beyond: Tensor) -> Tensor:
        return torch.where(beyond < 0.0, self.slopes[0], self.slopes[-1])


def state_names(state_dim: int) -> list[str]:
    """What the columns of a state are called in warnings."""
    return [f"states[:, {i}]" for i in range(state_dim)]


def _find_bent_columns(module: nn.Module, incompatible_keys: object) -> None:
    finite = torch.isfinite(module.knots[:, 0])  # type: ignore[index]
    module.bent = tuple(finite.nonzero().flatten().tolist())  # type: ignore[assignment]
    if isinstance(module, CommandStandardizer):
        module.sheared = bool(module.reward_per_step != 0.0)
