"""What the trials of a sweep are ranked by, whatever the type of their shield."""

__all__ = ["WORST_SCORE", "ShieldJudge", "sweep_score"]

import copy
import math
from collections.abc import Callable, Sequence

from flowshield.data import TrajectoryDataset
from flowshield.errors import DataError
from flowshield.evaluation.contrast import impossible_commands
from flowshield.evaluation.metrics import auc_roc
from flowshield.evaluation.promise import FalseAlarms, pooled, promised_alarms, promised_scores
from flowshield.evaluation.scoring import shield_scores
from flowshield.evaluation.shield import random_steps
from flowshield.models import BaseShield
from flowshield.models.shields import Calibration
from flowshield.models.shields.calibration import highest_expected_rate

WORST_SCORE = -1.0
"""No shield's score is lower: an AUROC of 0, and false alarms where none were allowed."""

_STATES = 1000  # held-out steps: enough for two digits of an AUROC, and cheap beside an epoch


class ShieldJudge:
    """Scores a shield after an epoch, by detection and by the false alarms it was calibrated to.

    The loss is no part of it: a density, a grid of quantiles and a denoiser have losses that say
    nothing about each other. `sweep_score` says what is taken instead.

    Args:
        calibrate: Calibrates a shield, on episodes that trained nothing.
        held_out: Episodes that neither trained nor calibrated: the validation's, so that those of
            the test decide nothing.
        n_states: Steps at which commands are scored; of more than 1000, 1000.
        margin: How far above the provable bound the impossible commands ask, raw reward; None =
            derived from the returns of the episodes.
        seed: Of the draw of steps.
    """

    def __init__(
        self,
        calibrate: Callable[[BaseShield], Calibration],
        held_out: TrajectoryDataset,
        *,
        n_states: int,
        margin: float | None,
        seed: int,
    ) -> None:
        self.calibrate, self.held_out, self.seed = calibrate, held_out, seed
        steps = random_steps(held_out, min(n_states, _STATES), seed)
        self.states, self.true = held_out.states[steps], held_out.commands[steps]
        self.impossible = impossible_commands(held_out, steps, margin)

    def __call__(self, shield: BaseShield) -> dict[str, float]:
        """Scores a shield, which stays as it is.

        Returns:
            "score", "auc_roc" and "false_alarm_rate", the realised one of all groups together. A
            shield that cannot be calibrated yet has `WORST_SCORE`, and a rate of NaN.
        """
        judged = copy.deepcopy(shield)
        auroc = auc_roc(
            -shield_scores(judged, self.states, self.impossible),
            -shield_scores(judged, self.states, self.true),
        )
        try:
            calibration = self.calibrate(judged)
        except DataError:  # an early epoch's may still become one that can
            return {"score": WORST_SCORE, "auc_roc": auroc, "false_alarm_rate": math.nan}
        alarms = promised_alarms(promised_scores(judged, self.held_out, self.seed), calibration)
        return {
            "score": sweep_score(auroc, alarms, calibration),
            "auc_roc": auroc,
            "false_alarm_rate": pooled(alarms).rate,
        }


def sweep_score(auroc: float, alarms: Sequence[FalseAlarms], calibration: Calibration) -> float:
    """AUROC, less what the false alarms exceed the rate that was calibrated.

    The AUROC is the probability that a command that is provably impossible looks more suspicious
    than one that was fulfilled. It depends on the order of the scores alone, and so means the same
    for every type of shield. A calibration that keeps its promise costs nothing: false alarms
    count above `highest_expected_rate`, which allows for how few episodes there are on both sides.

    Args:
        auroc: Of impossible against fulfilled commands, at the same held-out steps.
        alarms: False alarms of each group of states on held-out episodes.
        calibration: What was promised.

    Returns:
        The score, from `WORST_SCORE` to 1.
    """
    n = sum(group.n for group in alarms)
    excess = 0.0
    for group, n_calibration in zip(alarms, calibration.n, strict=True):
        if group.n:
            limit = highest_expected_rate(n_calibration, calibration.alpha, group.n)
            excess += max(0.0, group.rate - limit) * group.n / n
    return auroc - excess
