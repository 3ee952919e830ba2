"""Intervals and tests for comparing policies on few episodes.

Returns are skewed (one crash among a hundred landings), so intervals of means come from the
bootstrap, and rates, which may be 0 of n, from Clopper and Pearson's exact interval.
"""

__all__ = [
    "ConfidenceInterval",
    "Interval",
    "PairedTest",
    "clopper_pearson",
    "holm",
    "mcnemar_test",
    "non_inferiority_test",
    "non_inferiority_z",
    "paired_difference",
    "paired_t_test",
    "sign_flip_test",
    "wilcoxon_test",
]

import math
import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.stats import binom, binomtest, bootstrap, permutation_test  # type: ignore[attr-defined]  # its __all__ is computed

from flowshield.errors import ConfigError, DataError, ShapeError

Method = Literal["BCa", "percentile"]

_MAX_RESAMPLED = 2**22  # numbers held at once while resampling: 32 MiB
_NUISANCE = 101  # shares of differing pairs at which the exact test looks, twice
_NEGLECTED = 1e-13  # probability of either tail that is not summed but added
_ROUNDING = 1e-9  # of a score


@dataclass(frozen=True)
class Interval:
    """A mean and the interval that covers it.

    Attributes:
        estimate: The mean of the values, in their unit.
        low: Lower end, NaN where there was only one value.
        high: Upper end, NaN where there was only one value.
        confidence: Share of such intervals that cover the true mean.
        n: How many values (or pairs) it rests on.
    """

    estimate: float
    low: float
    high: float
    confidence: float
    n: int

    @property
    def mean(self) -> float:
        """The same as `estimate`."""
        return self.estimate

    @property
    def half_width(self) -> float:
        """Half of high - low: what stands after the plus-minus sign."""
        return (self.high - self.low) / 2

    def __contains__(self, value: float) -> bool:
        """Whether the value lies within the interval, its ends included."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class PairedTest:
    """A two-sided test of "a and b do not differ" on pairs.

    Attributes:
        statistic: t of the t-test, the smaller rank sum of Wilcoxon's, the mean difference whose
            signs are flipped, or McNemar's number of pairs in which it happened in a alone.
        p_value: Probability of a statistic at least this extreme if there were no difference.
        mean_difference: Mean of a - b.
        n: How many pairs.
    """

    statistic: float
    p_value: float
    mean_difference: float
    n: int


class ConfidenceInterval:
    """Bootstrap interval for a mean: bias-corrected and accelerated (Efron 1987), seeded.

    Args:
        confidence: Share of such intervals that shall cover the true mean, in (0, 1).
        n_bootstrap: How many resamples.
        seed: The same values and the same seed give the same interval.
        method: "BCa", which follows the skew of returns, or plain "percentile".

    Raises:
        ConfigError: `confidence`, `n_bootstrap` or `method` is out of range.

    Example:
        >>> interval = ConfidenceInterval(confidence=0.95)([280.0, 284.0, 291.0])
        >>> interval.low < interval.mean < interval.high
        True
    """

    def __init__(
        self,
        confidence: float = 0.95,
        n_bootstrap: int = 10_000,
        seed: int = 0,
        method: Method = "BCa",
    ) -> None:
        _check_confidence(confidence)
        if n_bootstrap < 1:
            raise ConfigError(f"expected n_bootstrap >= 1, got {n_bootstrap}: 10000 is usual")
        if method not in get_args(Method):
            raise ConfigError(f"expected method 'BCa' or 'percentile', got {method!r}")
        self.confidence = confidence
        self.n_bootstrap = n_bootstrap
        self.seed = seed
        self.method: Method = method

    def __call__(self, values: ArrayLike) -> Interval:
        """Mean and interval of the values.

        Equal values give an interval of no width. A single value gives NaN ends: it says nothing
        about how far the next would lie.

        Args:
            values: One number per independent unit (an episode, not a step), [n].

        Raises:
            DataError: `values` is empty or holds NaN or infinity.
            ShapeError: `values` has more than one dimension.
        """
        array = _finite("values", values)
        estimate = float(array.mean())
        if array.size == 1:
            return Interval(estimate, math.nan, math.nan, self.confidence, 1)
        if np.ptp(array) == 0:
            estimate = float(array[0])  # the mean of equal floats may differ in the last bit
            return Interval(estimate, estimate, estimate, self.confidence, array.size)
        low, high = self._resample(array, self.method)
        if not (math.isfinite(low) and math.isfinite(high)):
            low, high = self._resample(array, "percentile")
        return Interval(estimate, low, high, self.confidence, array.size)

    def _resample(self, array: NDArray[np.float64], method: Method) -> tuple[float, float]:
        with warnings.catch_warnings():
            # BCa is undefined for some tiny samples; then __call__ takes percentiles instead.
            warnings.simplefilter("ignore", category=RuntimeWarning)
            result = bootstrap(
                (array,),
                np.mean,
                n_resamples=self.n_bootstrap,
                batch=max(1, _MAX_RESAMPLED // array.size),
                confidence_level=self.confidence,
                method=method,
                vectorized=True,
                rng=np.random.default_rng(self.seed),
            )
        return float(result.confidence_interval.low), float(result.confidence_interval.high)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    confidence: float = 0.95,
    n_bootstrap: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of mean(a - b), where a[i] and b[i] share everything but the treatment.

    Episodes run from the same seeds are such pairs; what makes a seed easy or hard cancels.

    Args:
        a: Values with the treatment, [n].
        b: Values without it, in the same order, [n].
        confidence: Share of such intervals that shall cover the true difference, in (0, 1).
        n_bootstrap: How many resamples of pairs.
        seed: Of the resampling.

    Raises:
        ConfigError: `confidence` or `n_bootstrap` is out of range.
        DataError: The inputs are empty, of unequal lengths, or hold NaN or infinity.
        ShapeError: Either has more than one dimension.
    """
    return ConfidenceInterval(confidence, n_bootstrap, seed)(_differences(a, b, minimum=1))


def paired_t_test(a: ArrayLike, b: ArrayLike) -> PairedTest:
    """Student's t-test on a - b, two-sided.

    Where every pair differs by the same amount the statistic is infinite and p is 0, and where no
    pair differs they are 0 and 1.

    Args:
        a: Values with the treatment, [n], n >= 2.
        b: Values without it, in the same order, [n].

    Raises:
        DataError: Fewer than two pairs, unequal lengths, NaN or infinity.
        ShapeError: Either has more than one dimension.
    """
    difference = _differences(a, b, minimum=2)
    mean = float(difference.mean())
    if np.ptp(difference) == 0:
        mean = float(difference[0])
        statistic, p_value = (math.copysign(math.inf, mean), 0.0) if mean else (0.0, 1.0)
    else:
        result = stats.ttest_1samp(difference, 0.0)
        statistic, p_value = float(result.statistic), float(result.pvalue)
    return PairedTest(statistic, p_value, mean, difference.size)


def wilcoxon_test(a: ArrayLike, b: ArrayLike) -> PairedTest:
    """Wilcoxon's signed-rank test on a - b, two-sided: as the t-test, but deaf to outliers.

    Pairs that do not differ are dropped, as Wilcoxon did; if none differs, p is 1.

    Args:
        a: Values with the treatment, [n], n >= 1.
        b: Values without it, in the same order, [n].

    Raises:
        DataError: The inputs are empty, of unequal lengths, or hold NaN or infinity.
        ShapeError: Either has more than one dimension.
    """
    difference = _differences(a, b, minimum=1)
    mean = float(difference.mean())
    if not difference.any():
        return PairedTest(0.0, 1.0, mean, difference.size)
    result = stats.wilcoxon(difference[difference != 0])
    return PairedTest(float(result.statistic), float(result.pvalue), mean, difference.size)


def sign_flip_test(
    a: ArrayLike, b: ArrayLike, n_resamples: int = 9_999, seed: int = 0
) -> PairedTest:
    """Fisher's randomisation test (1935) of the mean of a - b, two-sided.

    If the treatment did nothing each difference had either sign alike. Unlike a bootstrap interval
    it keeps its level for few pairs and skewed differences, and unlike Wilcoxon's test it is about
    the mean. Exact where 2^n is at most `n_resamples`.

    Args:
        a: Values with the treatment, [n], n >= 1.
        b: Values without it, in the same order, [n].
        n_resamples: How many ways to flip the signs are drawn, if there are more.
        seed: Of the draw.

    Raises:
        DataError: The inputs are empty, of unequal lengths, or hold NaN or infinity.
        ShapeError: Either has more than one dimension.
    """
    difference = _differences(a, b, minimum=1)
    mean = float(difference.mean())
    if difference.size == 1 or not difference.any():  # one pair says nothing
        return PairedTest(mean, 1.0, mean, difference.size)
    result = permutation_test(
        (difference,),
        np.mean,
        permutation_type="samples",  # of one sample: its signs
        n_resamples=n_resamples,
        batch=max(1, _MAX_RESAMPLED // difference.size),
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return PairedTest(mean, float(result.pvalue), mean, difference.size)


def mcnemar_test(a: ArrayLike, b: ArrayLike) -> PairedTest:
    """McNemar's exact test (1947) of whether something happens as often in a as in b, two-sided.

    Only pairs in which it happened in one alone say anything: under "no difference" each is as
    likely to be a's as b's. If there is none, p is 1.

    Args:
        a: Whether it happened with the treatment, bool [n], n >= 1.
        b: Whether it happened without it, in the same order, bool [n].

    Raises:
        DataError: The inputs are empty, of unequal lengths, or hold anything but True and False.
        ShapeError: Either has more than one dimension.
    """
    difference, only_a, only_b = _disagreements(a, b)
    p_value = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return PairedTest(float(only_a), float(p_value), float(difference.mean()), difference.size)


def non_inferiority_z(
    more: ArrayLike, less: ArrayLike, n: int, margin: float
) -> NDArray[np.float64]:
    """Tango's score statistic of "it happens more often with the treatment, by the margin".

    About a standard normal number where the rate rises by just the margin; the lower, the clearer
    it rises by less (Tango 1998, Statistics in Medicine 17, section 3).

    Args:
        more: Pairs in which it happened with the treatment only [...].
        less: Pairs in which it happened without it only [...].
        n: Pairs.
        margin: Rise of the rate under the null hypothesis, in (0, 1).
    """
    a, b = np.asarray(more, dtype=np.float64), np.asarray(less, dtype=np.float64)
    # likeliest probability of `less` where that of `more` is greater by the margin: a root of
    # 2n q^2 - linear q - b margin (1 - margin)
    linear = (a + b) * (1 - margin) - 2 * margin * (n - a)
    rarer = (linear + np.sqrt(linear**2 + 8 * n * b * margin * (1 - margin))) / (4 * n)
    variance = n * (2 * rarer + margin - margin**2)
    return np.asarray((a - b - n * margin) / np.sqrt(variance))


def non_inferiority_test(a: ArrayLike, b: ArrayLike, margin: float) -> PairedTest:
    """Exact test of "it happens more often in a than in b, by the margin or more", one-sided.

    The p-value is the probability of a score (`non_inferiority_z`) as low as the one seen, at the
    share of pairs that differ for which it is greatest: the exact unconditional test of Hsueh, Liu
    & Chen (2001, Biometrics 57(2)). Valid for any n that was fixed beforehand.

    Args:
        a: Whether it happened with the treatment, bool [n], n >= 1.
        b: Whether it happened without it, in the same order, bool [n].
        margin: Rise of the rate under the null hypothesis, in (0, 1).

    Raises:
        DataError: The inputs are empty, of unequal lengths, or hold anything but True and False.
        ShapeError: Either has more than one dimension.
    """
    difference, more, less = _disagreements(a, b)
    n = difference.size
    seen = float(non_inferiority_z(more, less, n, margin))
    most = _most_within(n, margin, seen)
    shares = margin + (1 - margin) * np.linspace(0.0, 1.0, _NUISANCE) ** 2
    for _ in range(2):  # the second time more finely, beside the greatest
        found = [_probability_within(most, n, margin, share) for share in shares]
        best = int(np.argmax(found))
        ends = shares[max(best - 1, 0)], shares[min(best + 1, _NUISANCE - 1)]
        shares = np.linspace(*ends, _NUISANCE)
    return PairedTest(seen, min(max(found), 1.0), float(difference.mean()), n)


def _disagreements(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], int, int]:
    """Differences [n] of yes and no, and how many pairs have a yes in a only, and in b only."""
    difference = _differences(a, b, minimum=1)
    if not np.isin(np.concatenate([_finite("a", a), _finite("b", b)]), (0.0, 1.0)).all():
        raise DataError("expected True and False in a and b, got other numbers")
    return difference, int((difference > 0).sum()), int((difference < 0).sum())


def _most_within(n: int, margin: float, seen: float) -> NDArray[np.int64]:
    """For each number m of pairs that differ, how many may be `more` for a score <= seen [n + 1].

    -1 where none may. The score rises with `more` at every m.
    """
    differ = np.arange(n + 1)
    low, high = np.full(n + 1, -1), differ.copy()  # bisection: `low` is within
    while (low < high).any():
        middle = (low + high + 1) // 2
        within = non_inferiority_z(middle, differ - middle, n, margin) <= seen + _ROUNDING
        low, high = np.where(within, middle, low), np.where(within, high, middle - 1)
    return low


def _probability_within(most: NDArray[np.int64], n: int, margin: float, differing: float) -> float:
    """Probability of `most` where pairs differ in that share, and the rate rises by the margin."""
    first, last = (int(binom.ppf(q, n, differing)) for q in (_NEGLECTED, 1 - _NEGLECTED))
    m = np.arange(first, last + 1)
    of_more = binom.cdf(most[m], m, (1 + margin / differing) / 2)
    return float(binom.pmf(m, n, differing) @ of_more) + 2 * _NEGLECTED


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval for a probability (Clopper and Pearson 1934); it never covers too rarely.

    Args:
        successes: How often it happened, 0 <= successes <= trials.
        trials: How often it was tried, independently, >= 1.
        confidence: Share of such intervals that shall cover the true probability, in (0, 1).

    Returns:
        Lower and upper end, within [0, 1].

    Raises:
        ConfigError: `confidence` is outside (0, 1).
        DataError: The counts are not whole or out of range.
    """
    _check_confidence(confidence)
    if successes != int(successes) or trials != int(trials) or not 0 <= successes <= trials:
        raise DataError(f"expected whole 0 <= successes <= trials, got {successes} of {trials}")
    if trials == 0:
        raise DataError("expected at least one trial, got none: there is no rate to bound")
    result = binomtest(int(successes), int(trials))
    interval = result.proportion_ci(confidence_level=confidence, method="exact")
    return float(interval.low), float(interval.high)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down adjustment (1979): p-values for the whole family, whatever their dependence.

    Where those at most q are called findings, the probability of any false one is at most q.

    Args:
        p_values: One per test [n], n >= 1.

    Returns:
        The adjusted p-values [n], in the order given, at most 1.

    Raises:
        DataError: There is none, or one is outside [0, 1].
        ShapeError: They have more than one dimension.
    """
    given = _finite("p_values", p_values)
    if ((given < 0) | (given > 1)).any():
        raise DataError("expected p-values in [0, 1], got others")
    order = np.argsort(given, kind="stable")
    stepped = np.maximum.accumulate(given[order] * np.arange(given.size, 0, -1))
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def _differences(a: ArrayLike, b: ArrayLike, minimum: int) -> NDArray[np.float64]:
    first, second = _finite("a", a), _finite("b", b)
    if first.size != second.size:
        raise DataError(
            f"expected pairs, got {first.size} values in a and {second.size} in b: run both on "
            "the same seeds"
        )
    if first.size < minimum:
        raise DataError(f"expected at least {minimum} pairs, got {first.size}: run more episodes")
    return first - second


def _finite(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ShapeError(f"expected {name} of shape [n], got {list(array.shape)}: flatten it first")
    if array.size == 0:
        raise DataError(f"expected at least one value in {name}, got none: run some episodes")
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise DataError(
            f"expected finite numbers in {name}, got {bad} NaN or infinite of {array.size}: "
            "find the episodes that made them"
        )
    return array


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ConfigError(f"expected a confidence in (0, 1), got {confidence}: 0.95 is usual")
