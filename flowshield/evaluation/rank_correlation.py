"""Whether more asked brings more: rank correlations of what was commanded and achieved."""

__all__ = ["pooled_correlation", "same_start_correlations"]

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from flowshield.evaluation.statistics import Interval

Array = NDArray[np.float64]

_CONFIDENCE = 0.95
_RESAMPLES = 2000


def same_start_correlations(commanded: Array, achieved: Array) -> Array:
    """Spearman's correlation among the episodes of each start, [n_starts].

    What makes a start easy or hard is the same for all of them, so that only the command can bring
    about a correlation: an agent that ignores it gets 0, wherever it starts.

    Args:
        commanded: What was asked, [n_starts, n_commands].
        achieved: What came of it, [n_starts, n_commands].

    Returns:
        The correlations; 0 where everything achieved is equal, NaN where everything asked is.
    """
    return _correlations(commanded, achieved)


def pooled_correlation(commanded: Array, achieved: Array, seed: int = 0) -> Interval:
    """Spearman's correlation over the episodes of all starts together.

    Part of it may be due to the starts: where more is supported, an agent may achieve more without
    listening. The interval is the middle 95% of a bootstrap over starts, since episodes of one
    start depend on each other.

    Args:
        commanded: What was asked, [n_starts, n_commands].
        achieved: What came of it, [n_starts, n_commands].
        seed: Of the bootstrap.
    """
    n = len(commanded)
    estimate = float(_correlations(commanded.reshape(1, -1), achieved.reshape(1, -1))[0])
    if n < 2 or math.isnan(estimate):
        return Interval(estimate, math.nan, math.nan, _CONFIDENCE, n)
    starts = np.random.default_rng(seed).integers(n, size=(_RESAMPLES, n))
    resampled = _correlations(
        commanded[starts].reshape(_RESAMPLES, -1), achieved[starts].reshape(_RESAMPLES, -1)
    )
    tail = 100 * (1 - _CONFIDENCE) / 2
    low, high = np.nanpercentile(resampled, [tail, 100 - tail])
    return Interval(estimate, float(low), float(high), _CONFIDENCE, n)


def _correlations(commanded: Array, achieved: Array) -> Array:
    """Spearman's correlation of each row of [n, m], ties at their mean rank."""
    asked, got = (_centred_ranks(values) for values in (commanded, achieved))
    spread = (asked**2).sum(axis=1) * (got**2).sum(axis=1)
    products = (asked * got).sum(axis=1)
    found = (products / np.sqrt(np.where(spread > 0, spread, 1.0))).clip(-1.0, 1.0)
    known: Array = np.where((asked != 0).any(axis=1), found, np.nan)
    return known


def _centred_ranks(values: Array) -> Array:
    ranks = rankdata(values, axis=1).astype(np.float64)
    centred: Array = ranks - (values.shape[1] + 1) / 2
    return centred
