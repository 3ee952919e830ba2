"""Part 3: is the false-alarm rate that was promised the one that comes?"""

__all__ = ["measure"]

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from flowshield.data import TrajectoryDataset
from flowshield.data.one_step import one_step_per_episode
from flowshield.evaluation import clopper_pearson
from flowshield.models.shields import episodes_needed
from flowshield.models.shields.calibration import conformal_threshold
from protocol import contenders
from protocol.contenders import Contender
from protocol.data import fresh, parts_of
from protocol.schedule import Context
from protocol.store import Key

_FRESH_SEED = 11  # of the one step of each fresh episode
Collect = Callable[[TrajectoryDataset, int], NDArray[np.float64]]


def measure(context: Context, key: Key) -> dict[str, Any]:
    """Realised against nominal rates on fresh episodes, per step and per episode."""
    calibration = parts_of(context, key.dataset, key.seed)["calibration"]
    judged = fresh(context, key.dataset)
    contender = contenders.load(context, key)
    whole = judged.subset(np.arange(min(context.settings.n_whole, judged.n_episodes)))
    ways: dict[str, tuple[Collect, TrajectoryDataset]] = {
        "step": (lambda data, seed: _one_step(contender, data, seed), judged),
        "episode": (lambda data, seed: _worst_step(contender, data), whole),
    }
    rows = []
    for unit, (collect, data) in ways.items():
        own, new = collect(calibration, key.seed), collect(data, _FRESH_SEED)
        rows += [_row(unit, alpha, own, new) for alpha in context.settings.alphas]
    return {"rows": [row for row in rows if row], "starts": _starts(context, contender, key)}


def _row(
    unit: str, alpha: float, own: NDArray[np.float64], new: NDArray[np.float64]
) -> dict[str, Any] | None:
    if len(own) < episodes_needed(alpha):
        return None
    threshold = conformal_threshold(torch.from_numpy(own), alpha)
    count, n = int((~(new >= threshold)).sum()), len(new)
    return {"unit": unit, "groups": 1, "alpha": alpha, **rate_record(count, n, alpha, len(own))}


def rate_record(count: int, n: int, alpha: float, n_calibration: int) -> dict[str, Any]:
    """A realised rate with two judgements of whether the nominal one was kept.

    `covered`: the nominal rate lies within the Clopper-Pearson interval of this realised rate;
    that interval knows nothing of the calibration set's own luck. `promised`: the count lies in
    the central 95% of what split-conformal calibration promises, beta-binomial with
    (k, n_calibration + 1 - k), which knows of both.
    """
    low, high = clopper_pearson(count, n)
    k = int(np.floor(alpha * (n_calibration + 1) + 1e-9))
    least, most = stats.betabinom.interval(0.95, n, k, n_calibration + 1 - k)
    return {
        "rate": count / n,
        "count": count,
        "n": n,
        "n_calibration": n_calibration,
        "low": low,
        "high": high,
        "covered": bool(low <= alpha <= high),
        "promised_low": float(least) / n,
        "promised_high": float(most) / n,
        "promised": bool(least <= count <= most),
    }


def _starts(context: Context, contender: Contender, key: Key) -> dict[str, Any]:
    """The rate at initial states, under the threshold for a random step at 5%."""
    judged = fresh(context, key.dataset)
    calibration = parts_of(context, key.dataset, key.seed)["calibration"]
    threshold = contenders.threshold(contender, calibration, 0.05, key.seed)
    starts = judged.episode_starts
    scores = contender.score(judged.states[starts], judged.commands[starts])
    count = int((~(scores >= threshold)).sum())
    low, high = clopper_pearson(count, len(starts))
    return {"rate": count / len(starts), "low": low, "high": high, "n": len(starts)}


def _one_step(contender: Contender, data: TrajectoryDataset, seed: int) -> NDArray[np.float64]:
    steps = one_step_per_episode(data, seed)
    return contender.score(data.states[steps], data.commands[steps])


def _worst_step(contender: Contender, data: TrajectoryDataset) -> NDArray[np.float64]:
    scores = contender.score(data.states, data.commands)
    return np.minimum.reduceat(scores, data.episode_starts)
