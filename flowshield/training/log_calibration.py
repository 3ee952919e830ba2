"""What a calibration found, among the curves of the shield that it calibrated."""

__all__ = ["log_calibration"]

import numpy as np

from flowshield.models.shields import Calibration
from flowshield.training.logger import Logger


def log_calibration(logger: Logger, calibration: Calibration, step: int) -> None:
    """Logs the calibration scores and thresholds, of each group of states where there are several.

    Args:
        logger: The shield's.
        calibration: In force.
        step: Epoch of the shield's weights.
    """
    logger.log_scalar("calibration/alpha", calibration.alpha, step)
    several = len(calibration.thresholds) > 1
    pairs = zip(calibration.thresholds, calibration.scores, strict=True)
    for group, (threshold, scores) in enumerate(pairs):
        of_group = f"_group_{group}" if several else ""
        logger.log_scalar(f"calibration/threshold{of_group}", threshold, step)
        finite = scores.numpy()[np.isfinite(scores.numpy())]
        if finite.size:
            logger.log_histogram(f"scores/calibration{of_group}", finite, step)
