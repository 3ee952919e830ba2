"""Plain record of how a policy follows supported commands: an entry of results.json."""

__all__ = ["followed_record"]

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowshield.evaluation.agent import EvaluatedEpisode
from flowshield.evaluation.follow import Followed
from flowshield.evaluation.rank_correlation import pooled_correlation, same_start_correlations
from flowshield.evaluation.statistics import ConfidenceInterval, Interval, clopper_pearson

Array = NDArray[np.float64]


def followed_record(followed: Followed, return_tolerance: float) -> dict[str, Any]:
    """Achieved against commanded, in all and by the level of the returns asked.

    "return_rank" and "horizon_rank" are Spearman's correlations of commanded and achieved among
    the episodes of one start, averaged over starts; "..._pooled" those over all episodes.
    "coverage" is the share of episodes with |achieved - commanded return| <= return_tolerance.
    What was achieved counts to the episode's end. Intervals are 95%, over starts.

    Args:
        followed: The episodes.
        return_tolerance: Half the width of the band about the return asked, raw reward.
    """
    record: dict[str, Any] = {
        "n_starts": followed.n_starts,
        "n_starts_left_out": followed.n_starts_left_out,
        "n_uncomputed": followed.n_uncomputed,
        "n_commands": len(followed.quantiles),
        "n_episodes": len(followed.episodes),
        "return_tolerance": return_tolerance,
    }
    if not followed.episodes:
        return record
    asked, got = followed.commanded, followed.achieved
    covered = np.abs(got[..., 1] - asked[..., 1]) <= return_tolerance
    for column, name in enumerate(("horizon", "return")):
        pair = asked[..., column], got[..., column]
        record[f"{name}_rank"] = _mean(same_start_correlations(*pair))
        record[f"{name}_rank_pooled"] = _ends(pooled_correlation(*pair))
    return {
        **record,
        "coverage": _mean(covered.mean(axis=1)),
        "crash_rate": _crash_rate(followed.episodes),
        "levels": [_level(followed, i, covered[:, i]) for i in range(len(followed.quantiles))],
        "commanded": asked.reshape(-1, 2).tolist(),
        "achieved": got.reshape(-1, 2).tolist(),
        "ends": [_end(episode) for episode in followed.episodes],
    }


def _level(followed: Followed, index: int, covered: NDArray[np.bool_]) -> dict[str, Any]:
    """The episodes that were asked for one quantile of the supported returns: one a start."""
    asked, got = followed.commanded[:, index], followed.achieved[:, index]
    low, high = clopper_pearson(int(covered.sum()), len(covered))
    return {
        "quantile": float(followed.quantiles[index]),
        "n_episodes": len(asked),
        "commanded_horizon": float(asked[:, 0].mean()),
        "commanded_return": float(asked[:, 1].mean()),
        "achieved_horizon": _mean(got[:, 0]),
        "achieved_return": _mean(got[:, 1]),
        "coverage": {"mean": float(covered.mean()), "low": low, "high": high},
        "crash_rate": _crash_rate(followed.episodes[index :: len(followed.quantiles)]),
    }


def _mean(values: Array) -> dict[str, float | None]:
    """Mean over starts and its interval; starts that say nothing (NaN) left out."""
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return {"mean": None, "low": None, "high": None}
    return _ends(ConfidenceInterval()(known))


def _ends(interval: Interval) -> dict[str, float | None]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def _crash_rate(episodes: Sequence[EvaluatedEpisode]) -> float | None:
    flags = [episode.crashed for episode in episodes if episode.crashed is not None]
    return float(np.mean(flags)) if len(flags) == len(episodes) else None


def _end(evaluated: EvaluatedEpisode) -> str:
    if evaluated.crashed:
        return "crashed"
    return "ended" if evaluated.episode.terminated else "out of time"
