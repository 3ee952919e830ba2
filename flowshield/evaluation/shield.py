"""How well a shield tells supported commands from impossible ones, and keeps its promise."""

__all__ = ["FalseAlarms", "evaluate_shield", "false_alarms", "shield_scores"]

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from flowshield.data import TrajectoryDataset
from flowshield.errors import DataError
from flowshield.evaluation.contrast import impossible_commands
from flowshield.evaluation.metrics import auc_roc, f1_score
from flowshield.evaluation.statistics import clopper_pearson
from flowshield.models import BaseShield

CALIBRATION_LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_BATCH = 2048


@dataclass(frozen=True)
class FalseAlarms:
    """How often commands that were fulfilled are flagged.

    Attributes:
        rate: Share flagged.
        count: Number flagged.
        n: Number asked.
        low: Lower end of the 95% Clopper-Pearson interval of the rate.
        high: Upper end.
    """

    rate: float
    count: int
    n: int
    low: float
    high: float


def shield_scores(
    shield: BaseShield, states: NDArray[np.float32], commands: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Scores of raw commands [n, 2] at raw states [n, state_dim], in batches, [n]."""
    device = shield.device
    scores = [
        shield.score(
            torch.as_tensor(states[i : i + _BATCH], dtype=torch.float32, device=device),
            torch.as_tensor(commands[i : i + _BATCH], dtype=torch.float32, device=device),
        )
        for i in range(0, len(states), _BATCH)
    ]
    return torch.cat(scores).double().cpu().numpy()


def shield_limits(
    shield: BaseShield,
    states: NDArray[np.float32],
    threshold: float | None = None,
    alpha: float | None = None,
) -> NDArray[np.float64]:
    """The least supported score at raw states [n, state_dim], [n]. See `BaseShield.limits`."""
    rows = torch.as_tensor(states, dtype=torch.float32, device=shield.device)
    return shield.limits(rows, threshold, alpha).cpu().numpy()


def evaluate_shield(
    shield: BaseShield,
    test_dataset: TrajectoryDataset,
    threshold: float | None = None,
    *,
    n_states: int = 3000,
    margin: float = 20.0,
    seed: int = 0,
) -> dict[str, float]:
    """Detection of impossible commands against the true ones, at random held-out steps.

    Args:
        shield: Calibrated, unless a threshold is given.
        test_dataset: Episodes that neither trained nor calibrated the shield.
        threshold: Least score that counts as supported; None = the calibrated one.
        n_states: Steps drawn (all, if there are fewer).
        margin: How far above the provable bound the impossible commands ask, raw reward.
        seed: Of the draw of steps.

    Returns:
        detection_rate (impossible commands flagged), false_positive_rate (true commands flagged),
        f1_score, auc_roc (1 = perfect), calibration_error (mean distance between realised and
        nominal false-alarm rate over `CALIBRATION_LEVELS`; NaN for a shield never calibrated).

    Raises:
        DataError: The dataset is empty.
        NotCalibratedError: No threshold was given and the shield has none.
    """
    true_scores, impossible_scores = detection_scores(
        shield, test_dataset, n_states=n_states, margin=margin, seed=seed
    )
    states = test_dataset.states[random_steps(test_dataset, n_states, seed)]
    limits = shield_limits(shield, states, threshold)
    # not `<`: a threshold that is no number flags everything, as is_ood does
    flagged, alarms = ~(impossible_scores >= limits), ~(true_scores >= limits)
    return {
        "detection_rate": float(flagged.mean()),
        "false_positive_rate": float(alarms.mean()),
        "f1_score": f1_score(flagged, alarms),
        "auc_roc": auc_roc(-impossible_scores, -true_scores),
        "calibration_error": _calibration_error(shield, states, true_scores),
    }


def detection_scores(
    shield: BaseShield,
    dataset: TrajectoryDataset,
    *,
    n_states: int,
    margin: float,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores of true and of impossible commands at the same random steps, [n] each."""
    steps = random_steps(dataset, n_states, seed)
    states = dataset.states[steps]
    return (
        shield_scores(shield, states, dataset.commands[steps]),
        shield_scores(shield, states, impossible_commands(dataset, steps, margin)),
    )


def random_steps(dataset: TrajectoryDataset, n_states: int, seed: int) -> NDArray[np.int64]:
    """Different steps at random, [n]: all, if there are fewer than asked for."""
    if len(dataset) == 0:
        raise DataError("expected held-out steps to evaluate on, got an empty dataset")
    rng = np.random.default_rng(seed)
    return rng.choice(len(dataset), size=min(n_states, len(dataset)), replace=False)


def false_alarms(
    scores: NDArray[np.float64], threshold: float | NDArray[np.float64]
) -> FalseAlarms:
    """Counts the scores of true commands that lie below a threshold, or each below its own.

    The interval is only right for scores that are independent of each other: one step an episode.
    """
    count = int((scores < threshold).sum())
    low, high = clopper_pearson(count, len(scores))
    return FalseAlarms(count / len(scores), count, len(scores), low, high)


def promised_levels(shield: BaseShield) -> list[float]:
    """The levels for which the shield has calibration scores enough, in every group."""
    calibration = shield.calibration
    return [a for a in CALIBRATION_LEVELS if calibration is not None and calibration.suffices(a)]


def _calibration_error(
    shield: BaseShield, states: NDArray[np.float32], true_scores: NDArray[np.float64]
) -> float:
    levels = promised_levels(shield)
    if not levels:
        return float("nan")
    rates = [(true_scores < shield_limits(shield, states, alpha=a)).mean() for a in levels]
    return float(np.abs(np.array(rates) - levels).mean())
