"""What a detector and a batch of episodes score, as plain numbers.

In every function here a *positive* is a command that should be flagged (one that the data do not
support) and a score is larger the more suspicious the command looks: -log p(g | s) is a score,
log p(g | s) is not.
"""

__all__ = ["MetricsTracker", "RocCurve", "auc_roc", "f1_score", "roc_curve", "worst_share_mean"]

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from flowshield.errors import ConfigError, DataError, ShapeError

NanPolicy = Literal["omit", "propagate", "raise"]


class RocCurve(NamedTuple):
    """The corners of a ROC curve, from "nothing flagged" at (0, 0) to "all flagged" at (1, 1).

    Attributes:
        false_positive_rate: Share of negatives flagged, rising, float64 [k].
        true_positive_rate: Share of positives flagged, rising, float64 [k].
        thresholds: Scores at or above which a command is flagged, falling, float64 [k]. The first
            is inf and stands for "nothing flagged".
    """

    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]
    thresholds: NDArray[np.float64]


def auc_roc(scores_positive: ArrayLike, scores_negative: ArrayLike) -> float:
    """Probability that a random positive scores above a random negative, a tie counting one half.

    This is the Mann-Whitney U statistic over n_positive * n_negative, so it is exact and depends
    on the order of the scores alone. Infinite scores are ordinary values.

    Args:
        scores_positive: Suspicion of what should be flagged, [n_positive].
        scores_negative: Suspicion of what should not, [n_negative].

    Raises:
        DataError: Either is empty or holds NaN.
        ShapeError: Either has more than one dimension.
    """
    positive = _scores("scores_positive", scores_positive)
    negative = _scores("scores_negative", scores_negative)
    ranks = stats.rankdata(np.concatenate([positive, negative]))
    u = ranks[: positive.size].sum() - positive.size * (positive.size + 1) / 2
    return float(u / (positive.size * negative.size))


def roc_curve(scores_positive: ArrayLike, scores_negative: ArrayLike) -> RocCurve:
    """Detection rate against false-alarm rate over every threshold.

    Points on a straight piece between two others are left out, so that the curve is exact and
    short: its trapezoidal area is `auc_roc`, ties included.

    Args:
        scores_positive: Suspicion of what should be flagged, [n_positive].
        scores_negative: Suspicion of what should not, [n_negative].

    Raises:
        DataError: Either is empty or holds NaN.
        ShapeError: Either has more than one dimension.
    """
    positive = np.sort(_scores("scores_positive", scores_positive))
    negative = np.sort(_scores("scores_negative", scores_negative))
    thresholds = np.unique(np.concatenate([positive, negative]))[::-1]
    hits = positive.size - np.searchsorted(positive, thresholds, side="left")
    alarms = negative.size - np.searchsorted(negative, thresholds, side="left")
    hits, alarms = np.append(0, hits), np.append(0, alarms)
    turns = (np.diff(hits, 2) != 0) | (np.diff(alarms, 2) != 0)
    corners = np.concatenate([[True], turns, [True]])
    return RocCurve(
        alarms[corners] / negative.size,
        hits[corners] / positive.size,
        np.append(np.inf, thresholds)[corners],
    )


def f1_score(flagged_positive: ArrayLike, flagged_negative: ArrayLike) -> float:
    """Harmonic mean of precision and detection rate, 2 TP / (2 TP + FP + FN).

    Unlike `auc_roc` it depends on how many negatives there are for each positive.

    Args:
        flagged_positive: Whether each command that should be flagged was, bool [n_positive].
        flagged_negative: Whether each command that should not be flagged was, bool [n_negative].

    Raises:
        DataError: Either is empty, or holds anything but True and False (1 and 0).
        ShapeError: Either has more than one dimension.
    """
    positive = _flags("flagged_positive", flagged_positive)
    negative = _flags("flagged_negative", flagged_negative)
    hits = int(positive.sum())
    return 2 * hits / (hits + int(negative.sum()) + positive.size)  # TP + FN = n_positive


def worst_share_mean(values: ArrayLike, share: float = 0.05) -> float:
    """Mean of the lowest `share` of the values, of one value at least.

    The lower tail's expected shortfall: for returns, what the unlucky episodes bring.

    Args:
        values: Returns or other values of which a low one is bad, [n].
        share: How much of the lower tail to average, in (0, 1]. The count is rounded up.

    Raises:
        ConfigError: `share` is outside (0, 1].
        DataError: `values` is empty or holds NaN.
        ShapeError: `values` has more than one dimension.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"expected a share in (0, 1], got {share}: give 0.05 for the worst 5%")
    ordered = np.sort(_scores("values", values))
    count = math.ceil(share * ordered.size - 1e-9)  # 0.07 * 100 is 7.000000000000001
    return float(ordered[: max(count, 1)].mean())


class MetricsTracker:
    """Gathers metrics over many updates and averages each over the updates that gave it.

    A NaN means "not measured this time" (a batch without any crash test, say). It always stays in
    `history`; what it does to the mean is said once, here.

    Args:
        nan_policy: "omit" averages the others (a metric that was only ever NaN stays NaN),
            "propagate" lets the mean become NaN, "raise" refuses the update.

    Raises:
        ConfigError: `nan_policy` is none of the three.
    """

    def __init__(self, nan_policy: NanPolicy = "omit") -> None:
        if nan_policy not in get_args(NanPolicy):
            choices = ", ".join(map(repr, get_args(NanPolicy)))
            raise ConfigError(f"expected nan_policy to be one of {choices}, got {nan_policy!r}")
        self.nan_policy = nan_policy
        self._history: dict[str, list[float]] = {}

    @property
    def history(self) -> Mapping[str, list[float]]:
        """Every value of every metric in the order given, as a copy."""
        return {name: list(values) for name, values in self._history.items()}

    def update(self, **metrics: float) -> None:
        """Adds one value to each metric named.

        Args:
            **metrics: Numbers, or anything that `float` accepts (a tensor of one element).

        Raises:
            DataError: A value is no number, or is NaN under nan_policy "raise". Then none of the
                values of this update is kept.
        """
        values = {name: _number(name, value) for name, value in metrics.items()}
        missing = [name for name, value in values.items() if math.isnan(value)]
        if missing and self.nan_policy == "raise":
            raise DataError(
                f"expected numbers, got NaN for {', '.join(missing)}: look for the step that "
                "made it, or use nan_policy='omit' if NaN means 'not measured'"
            )
        for name, value in values.items():
            self._history.setdefault(name, []).append(value)

    def compute(self) -> dict[str, float]:
        """The mean of every metric; empty before the first update."""
        return {name: self._mean(values) for name, values in self._history.items()}

    def reset(self) -> None:
        """Forgets every value and every name."""
        self._history.clear()

    def _mean(self, values: list[float]) -> float:
        if self.nan_policy == "omit":
            values = [value for value in values if not math.isnan(value)]
        return float(np.mean(values)) if values else math.nan


def _number(name: str, value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # a tensor or a numpy scalar will do
    except (TypeError, ValueError, RuntimeError) as error:  # torch raises RuntimeError
        raise DataError(
            f"expected one number for the metric {name!r}, got {type(value).__name__}: "
            "reduce it to a mean first"
        ) from error


def _scores(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ShapeError(f"expected {name} of shape [n], got {list(array.shape)}: flatten it first")
    if array.size == 0:
        raise DataError(f"expected at least one value in {name}, got none")
    if np.isnan(array).any():
        count = int(np.isnan(array).sum())
        raise DataError(f"expected numbers in {name}, got {count} NaN of {array.size}: drop them")
    return array


def _flags(name: str, values: ArrayLike) -> NDArray[np.bool_]:
    array = _scores(name, values)
    if not np.isin(array, (0.0, 1.0)).all():
        raise DataError(f"expected True and False in {name}, got other numbers: apply a threshold")
    return array.astype(np.bool_)
