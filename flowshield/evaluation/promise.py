"""Whether a calibration keeps its promise on episodes that it never saw."""

__all__ = [
    "CALIBRATION_LEVELS",
    "FalseAlarms",
    "calibration_error",
    "false_alarms",
    "pooled",
    "promised_alarms",
    "promised_levels",
    "promised_scores",
]

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowshield.data import TrajectoryDataset
from flowshield.evaluation.scoring import shield_scores
from flowshield.evaluation.statistics import clopper_pearson
from flowshield.models import BaseShield
from flowshield.models.shields import Calibration
from flowshield.models.shields.calibration import calibration_scores

CALIBRATION_LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True)
class FalseAlarms:
    """How often commands that were fulfilled are flagged.

    Attributes:
        rate: Share flagged.
        count: Number flagged.
        n: Number asked.
        low: Lower end of the 95% Clopper-Pearson interval of the rate; NaN where there is none.
        high: Upper end.
    """

    rate: float
    count: int
    n: int
    low: float
    high: float


def false_alarms(
    scores: NDArray[np.float64], threshold: float | NDArray[np.float64]
) -> FalseAlarms:
    """Counts the scores of true commands that lie below a threshold, or each below its own.

    The interval is only right for scores that are independent of each other: one an episode.
    """
    if len(scores) == 0:
        return FalseAlarms(math.nan, 0, 0, math.nan, math.nan)
    count = int((scores < threshold).sum())
    low, high = clopper_pearson(count, len(scores))
    return FalseAlarms(count / len(scores), count, len(scores), low, high)


def promised_scores(
    shield: BaseShield, episodes: TrajectoryDataset, seed: int
) -> list[NDArray[np.float64]]:
    """The scores for which the calibration gives its promise, of held-out episodes.

    They are taken just as the calibration's own: for the unit "step" that of one random step of
    each episode, for "episode" the lowest of each; with groups one in each group that the episode
    visits.

    Args:
        shield: Calibrated.
        episodes: Held-out.
        seed: Of the draw of steps.

    Returns:
        One array a group.
    """
    calibration = shield.calibration_in_force()
    states = torch.as_tensor(episodes.states, dtype=torch.float32, device=shield.device)
    assigned = calibration.groups.assign(shield.state_standardizer(states)).cpu().numpy()

    def score(steps: NDArray[np.int64]) -> Tensor:
        rows = shield_scores(shield, episodes.states[steps], episodes.commands[steps])
        return torch.from_numpy(rows)

    groups = len(calibration.groups)
    found = calibration_scores(score, assigned, episodes, calibration.unit, groups, seed)
    return [scores.numpy() for scores in found]


def promised_alarms(
    scores: Sequence[NDArray[np.float64]], calibration: Calibration
) -> list[FalseAlarms]:
    """The realised rate of each group, each with its exact interval: one score an episode.

    Args:
        scores: Those of each group, from `promised_scores`.
        calibration: Whose thresholds apply.
    """
    pairs = zip(scores, calibration.thresholds, strict=True)
    return [false_alarms(group, threshold) for group, threshold in pairs]


def pooled(groups: Sequence[FalseAlarms]) -> FalseAlarms:
    """All groups' alarms together; of several groups there is no exact interval.

    An episode that visits two groups is in it twice, and its two scores depend on each other.
    """
    if len(groups) == 1:
        return groups[0]
    count, n = sum(g.count for g in groups), sum(g.n for g in groups)
    return FalseAlarms(count / n if n else math.nan, count, n, math.nan, math.nan)


def promised_levels(shield: BaseShield) -> list[float]:
    """The levels for which the shield has calibration scores enough, in every group."""
    calibration = shield.calibration
    return [a for a in CALIBRATION_LEVELS if calibration is not None and calibration.suffices(a)]


def calibration_error(shield: BaseShield, scores: Sequence[NDArray[np.float64]]) -> float:
    """Mean distance between realised and nominal rate over the levels, groups pooled.

    Args:
        shield: Calibrated.
        scores: From `promised_scores`: as many as there are episodes, so that with few of them
            the distance is chance for the greater part.

    Returns:
        The distance; NaN where no level has scores enough.
    """
    levels, calibration = promised_levels(shield), shield.calibration_in_force()
    if not levels:
        return math.nan
    rates = [pooled(promised_alarms(scores, calibration.at(alpha))).rate for alpha in levels]
    return float(np.abs(np.array(rates) - levels).mean())
