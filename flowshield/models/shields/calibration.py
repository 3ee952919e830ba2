"""Split-conformal thresholds: a false-alarm rate that holds for any score and any distribution."""

__all__ = ["conformal_threshold", "episodes_needed"]

import math

import torch
from torch import Tensor

from flowshield.errors import DataError


def episodes_needed(alpha: float) -> int:
    """The fewest calibration scores for which a rate of `alpha` can be promised."""
    return math.ceil(1.0 / alpha - 1e-9) - 1


def conformal_threshold(scores: Tensor, alpha: float) -> float:
    """The score below which a new exchangeable score falls with probability at most `alpha`.

    The k-th smallest calibration score, k = floor(alpha (n + 1)) (Vovk et al. 2005; Lei et al.
    2018, arXiv 1604.04173, sec. 2.2). The probability is over calibration set and new score
    together; for one given calibration set the realised rate is Beta(k, n + 1 - k).

    Args:
        scores: Calibration scores [n], exchangeable with the new one; low means suspicious.
        alpha: The false-alarm rate, in (0, 1).

    Returns:
        The threshold. A score is an alarm when it lies strictly below.

    Raises:
        DataError: alpha is outside (0, 1), a score is NaN, there are too few scores for alpha, or
            more than alpha of them could not be computed (-inf): that threshold would pass all.
    """
    if not 0.0 < alpha < 1.0:
        raise DataError(f"expected a false-alarm rate alpha in (0, 1), got {alpha}")
    if bool(torch.isnan(scores).any()):
        raise DataError(f"{int(torch.isnan(scores).sum())} of {len(scores)} scores are NaN")
    k = math.floor(alpha * (len(scores) + 1) + 1e-9)
    if k < 1:
        raise DataError(
            f"a false-alarm rate of {alpha:g} needs at least {episodes_needed(alpha)} calibration "
            f"episodes, got {len(scores)}: collect more episodes or raise alpha"
        )
    threshold = float(scores.double().sort().values[k - 1])
    if threshold == -math.inf:
        raise DataError(
            f"{int((scores == -math.inf).sum())} of {len(scores)} calibration scores are -inf, so "
            f"that no threshold promises a false-alarm rate of {alpha:g}: the model's log_prob is "
            "not finite there; train it again or look at the data's extremes"
        )
    return threshold
