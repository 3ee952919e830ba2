"""How well a shield tells supported commands from impossible ones, and keeps its promise."""

__all__ = ["detection_scores", "evaluate_shield", "random_steps", "shield_scores"]

import math

import numpy as np
from numpy.typing import NDArray

from flowshield.data import TrajectoryDataset
from flowshield.errors import DataError
from flowshield.evaluation.contrast import impossible_commands
from flowshield.evaluation.metrics import auc_roc, f1_score
from flowshield.evaluation.promise import calibration_error, promised_scores
from flowshield.evaluation.scoring import shield_limits, shield_scores
from flowshield.models import BaseShield


def evaluate_shield(
    shield: BaseShield,
    test_dataset: TrajectoryDataset,
    threshold: float | None = None,
    *,
    n_states: int = 3000,
    margin: float | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Detection of impossible commands against the true ones, at random held-out steps.

    Args:
        shield: Calibrated, unless a threshold is given.
        test_dataset: Episodes that neither trained nor calibrated the shield.
        threshold: Least score that counts as supported; None = the calibrated one.
        n_states: Steps drawn (all, if there are fewer).
        margin: How far above the provable bound the impossible commands ask, raw reward; None =
            derived from the returns of the test dataset.
        seed: Of the draw of steps.

    Returns:
        detection_rate (impossible commands flagged), false_positive_rate (true commands flagged,
        of the same steps, whatever the calibration's unit), f1_score, auc_roc (1 = perfect),
        calibration_error (mean distance between realised and nominal false-alarm rate over
        `CALIBRATION_LEVELS`, of what was promised: per step or per episode, in each group; NaN for
        a shield never calibrated).

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
        "calibration_error": math.nan
        if shield.calibration is None
        else calibration_error(shield, promised_scores(shield, test_dataset, seed)),
    }


def detection_scores(
    shield: BaseShield,
    dataset: TrajectoryDataset,
    *,
    n_states: int,
    margin: float | None,
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
