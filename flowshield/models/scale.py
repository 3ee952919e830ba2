"""The scale of a column of numbers, and what follows from the scale of returns."""

__all__ = [
    "ReturnScale",
    "round_step",
    "search_tolerance",
    "spread",
    "warn_of_lost_digits",
    "warn_of_outliers",
]

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowshield.errors import DataWarning

_PAIRS = 2**15  # differences that are looked at
_NORMAL_MEDIAN = 0.9539  # median |x - y| of two standard normal numbers
_ROWS = 2**16  # returns on which a grid is looked for
_OFF_GRID = 1e-3  # of a grid step: what rounding in float32 explains
_ON_GRID_SHARE = 0.99  # of the returns: a few glitches do not hide a grid
_LEAST_STEP = 100.0  # numbers of float32 in a step of a grid: with fewer, all are near multiples
_FEW_STEPS = 4.0  # of a grid in a spread: with fewer, each return is an outcome of its own
_NOISE, _TOLERANCE, _STEP = 0.01, 0.001, 0.2  # shares of the spread
_MOST_NOISE = 0.1  # share of the spread at one horizon: it adds 0.5% to that deviation
_CLEAR = 4.0  # deviations of the noise, which it hardly ever reaches
_LEAST_DECIMALS = -3  # whole numbers of six digits are still written out
_FAR = 10.0  # spreads from the median: a value of another size
_LEAST_LEVELS = 10.0  # the same: below, they are float32's own
_FEW_LEVELS = 50.0  # numbers of float32 in a spread: below, a column has lost digits that may count


def spread(values: ArrayLike) -> float:
    """A deviation that neither ties nor rare values of another size change; 0 where all are equal.

    The median of |x - y| over pairs of unequal values, divided by what it is for a standard normal
    law: there it is the standard deviation. It is the idea of Rousseeuw & Croux (1993,
    "Alternatives to the median absolute deviation", J. Am. Stat. Assoc. 88(424), eq. 3.1) at the
    median, and without the pairs that tie: values that are nearly always 0 still have a scale. A
    share of 29% of values of another size leaves it of the size that the others have.

    Args:
        values: Finite numbers [n].
    """
    x = np.asarray(values, dtype=np.float64).ravel()
    if x.size < 2:
        return 0.0
    rng = np.random.default_rng(0)  # the same pairs for the same data
    first, second = rng.integers(x.size, size=(2, _PAIRS))
    differences = np.abs(x[first] - x[second])
    differences = differences[differences > 0.0]
    if not differences.size:
        return float(x.std())  # a value that no pair met
    return float(np.median(differences)) / _NORMAL_MEDIAN


def warn_of_outliers(name: str, values: NDArray[np.float64], size: float) -> None:
    """Warns that rare values of another size set the scale of a column.

    Args:
        name: What the column is called.
        values: [n].
        size: Their `spread`.
    """
    middle = float(np.median(values))
    share = float(np.mean(np.abs(values - middle) > _FAR * size))
    low, high = np.quantile(values, [0.05, 0.95])
    warnings.warn(
        f"{name}: {100 * share:.2g}% of the values are more than {_FAR:g} times as far from the "
        f"middle as the others differ (all: {values.min():.4g} to {values.max():.4g}; the middle "
        f"90%: {low:.4g} to {high:.4g}). They are kept, and do not set the scale. If they are "
        "errors of recording, remove their episodes and train again",
        DataWarning,
        stacklevel=3,
    )


def warn_of_lost_digits(name: str, values: NDArray[np.float64], size: float) -> None:
    """Warns that float32 tells few values of a column apart, because of a large offset.

    Args:
        name: What the column is called.
        values: [n].
        size: Their `spread`.
    """
    middle = float(np.median(values))
    resolution = float(np.spacing(np.float32(abs(middle))))
    if size < _FEW_LEVELS * resolution:
        warnings.warn(
            f"{name}: the values are near {middle:.4g}, where float32 knows one number in "
            f"{resolution:.2g}, and differ by {size:.2g}: most of their digits are lost. "
            f"Subtract {middle:.4g} from them in the environment or in the data",
            DataWarning,
            stacklevel=3,
        )


def round_step(value: float) -> float:
    """1, 2 or 5 times a power of ten: the nearest in ratio to a value above 0."""
    exponent = math.floor(math.log10(value))
    steps = [float(f"{digit}e{exponent + up}") for up in (0, 1) for digit in (1, 2, 5)]
    return min(steps, key=lambda step: abs(math.log(step / value)))


@dataclass(frozen=True)
class ReturnScale:
    """The size of the differences between returns, and what is derived from it.

    A reward that is paid at every step makes returns differ as the horizons do, whatever else they
    tell. What a command must be held to is how returns differ at one horizon; that does not change
    where a constant is added to every reward.

    Attributes:
        spread: See `spread`, raw reward; where all returns are equal their size, or 1.
        grid: The step of which all returns are multiples, raw reward, such as 1 for whole
            numbers; None where there is none.
        given_horizon: The spread of what a constant reward per step does not explain, raw reward,
            at most `spread`; None where the horizons are not known or explain everything.
        reward_per_step: That constant, raw reward.
    """

    spread: float
    grid: float | None
    given_horizon: float | None = None
    reward_per_step: float = 0.0

    @classmethod
    def of(cls, returns: ArrayLike, horizons: ArrayLike | None = None) -> "ReturnScale":
        """Measures raw returns [n], of every step of the data, and their horizons [n] in steps."""
        values = np.asarray(returns, dtype=np.float64).ravel()
        size = spread(values) or float(np.abs(values).max(initial=0.0)) or 1.0
        given, slope = (0.0, 0.0) if horizons is None else _given_horizon(values, horizons)
        return cls(size, _grid(values), min(size, given) if given else None, slope)

    @classmethod
    def of_commands(cls, commands: ArrayLike) -> "ReturnScale":
        """Measures raw commands [n, 2], of every step of the data."""
        pairs = np.asarray(commands, dtype=np.float64).reshape(-1, 2)
        return cls.of(pairs[:, 1], pairs[:, 0])

    @property
    def noise(self) -> float:
        """Standard deviation of the noise that makes returns continuous, raw reward.

        The power of ten nearest to 1% of the spread, but at most a tenth of the spread at one
        horizon. On a grid that is fine beside the latter it is at least one step, so that a model
        need not learn a comb; on a coarse one, such as returns of 0 or 1, every return stays an
        outcome of its own.
        """
        noise = _power_of_ten(_NOISE * self.spread)
        if self.given_horizon is not None:
            noise = min(noise, _power_of_ten_below(_MOST_NOISE * self.given_horizon))
        return max(noise, self._fine_grid)

    @property
    def tolerance(self) -> float:
        """How exact a searched return is, raw reward: a power of ten, near 0.1% of the spread."""
        return search_tolerance(self.spread)

    @property
    def step(self) -> float:
        """A difference that matters, raw reward: near a fifth of the spread.

        It is at most near the spread at one horizon. On a grid that is fine beside that it is at
        least one step of the grid. On a coarse one it tells every return from the next: 0.2 where
        returns are 0 or 1.
        """
        step = round_step(_STEP * self.spread)
        if self.given_horizon is not None:
            step = min(step, round_step(self.given_horizon))
        if self.coarse_grid is not None:
            step = min(step, self.coarse_grid / 2)
        return max(step, self._fine_grid)

    @property
    def margin(self) -> float:
        """What is clearly too much, raw reward: a step, and more than the noise explains."""
        return max(self.step, _CLEAR * self.noise)

    @property
    def decimals(self) -> int:
        """Decimals with which returns are written: to a hundredth of the spread, none needless.

        Negative where even thousands are needless: -4 where returns differ by a million.
        """
        decimals = -math.floor(math.log10(_power_of_ten(_NOISE * self.spread)))
        return decimals if decimals < _LEAST_DECIMALS else max(0, decimals)

    @property
    def coarse_grid(self) -> float | None:
        """The grid's step where a spread has few of them: every return is an outcome of its own."""
        size = self.given_horizon or self.spread
        return self.grid if self.grid is not None and size < _FEW_STEPS * self.grid else None

    @property
    def _fine_grid(self) -> float:
        """The grid's step where a spread has many of them, else 0."""
        return self.grid or 0.0 if self.coarse_grid is None else 0.0

    def __str__(self) -> str:
        """Says what the data's returns are like."""
        kind = "no common step" if self.grid is None else f"multiples of {self.grid:g}"
        given = self.given_horizon
        apart = "" if given is None else f" ({given:.3g} at one horizon)"
        return f"returns spread by {self.spread:.3g}{apart}, {kind}"


def _given_horizon(returns: NDArray[np.float64], horizons: ArrayLike) -> tuple[float, float]:
    """The spread of R - c H and c, the median slope of pairs (Theil-Sen); 0 without such pairs.

    Sen (1968, "Estimates of the regression coefficient based on Kendall's tau", J. Am. Stat. Assoc.
    63(324)). What is added to every reward is added to c, and nothing else changes.
    """
    steps = np.asarray(horizons, dtype=np.float64).ravel()
    if steps.size < 2:
        return 0.0, 0.0
    first, second = np.random.default_rng(0).integers(steps.size, size=(2, _PAIRS))
    apart = steps[first] != steps[second]
    first, second = first[apart], second[apart]
    if not first.size:
        return spread(returns), 0.0
    slope = np.median((returns[first] - returns[second]) / (steps[first] - steps[second]))
    size = spread(returns - slope * steps)
    dust = float(np.spacing(np.float32(np.abs(returns).max())))  # what float32 left of the returns
    return (size if size > _LEAST_LEVELS * dust else 0.0), float(slope)


def search_tolerance(size: float) -> float:
    """How exact a return is searched for, raw reward: a power of ten near 0.1% of a deviation."""
    return _power_of_ten(_TOLERANCE * size)


def _power_of_ten(value: float) -> float:
    return float(f"1e{round(math.log10(value))}")


def _power_of_ten_below(value: float) -> float:
    return float(f"1e{math.floor(math.log10(value))}")


def _grid(values: NDArray[np.float64]) -> float | None:
    """The largest step that nearly all returns are multiples of."""
    taken = values[np.linspace(0, len(values) - 1, min(len(values), _ROWS)).astype(np.intp)]
    low, high = np.quantile(taken, [0.005, 0.995]) if len(taken) else (0.0, 0.0)
    if low < high:  # a success in 300 is no outlier among zeros
        taken = taken[(taken >= low) & (taken <= high)]
    distinct, counts = np.unique(taken, return_counts=True)
    largest = float(np.abs(distinct).max(initial=0.0))
    known = float(np.spacing(np.float32(largest)))  # what float32 knows a return to
    gaps = np.diff(distinct)
    gaps = gaps[gaps > _LEAST_STEP * known]
    if not gaps.size:
        return None
    # the most frequent return counts once: where nearly all are 0, the others decide
    most = distinct[counts.argmax()]
    others = taken[taken != most]
    for part in range(1, 13):
        step = _shortest(gaps.min() / part, 2 * known / part)
        if step < _LEAST_STEP * known:
            return None
        on_grid = _on_grid(others, step, known)
        if _on_grid(most, step, known) and np.mean(on_grid) >= _ON_GRID_SHARE:
            return step
    return None


def _shortest(value: float, error: float) -> float:
    """The number of fewest digits, at most 4, within an error: what float32 left of 0.1."""
    for digits in (1, 2, 3):
        short = float(f"{value:.{digits}g}")
        if abs(short - value) <= error:
            return short
    return float(f"{value:.4g}")


def _on_grid(values: NDArray[np.float64], step: float, known: float) -> NDArray[np.bool_]:
    steps = values / step
    on_grid: NDArray[np.bool_] = np.abs(steps - np.round(steps)) <= _OFF_GRID + known / step
    return on_grid
