"""Plain records of what was measured: the content of results.json."""

__all__ = ["cell_record", "shield_record"]

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowshield.data import TrajectoryDataset
from flowshield.evaluation.agent import Cell
from flowshield.evaluation.contrast import impossible_commands
from flowshield.evaluation.metrics import roc_curve, worst_share_mean
from flowshield.evaluation.projection import evaluate_projection
from flowshield.evaluation.promise import (
    false_alarms,
    pooled,
    promised_alarms,
    promised_levels,
    promised_scores,
)
from flowshield.evaluation.scoring import shield_limits, shield_log_probs, shield_scores
from flowshield.evaluation.shield import detection_scores, evaluate_shield
from flowshield.evaluation.statistics import ConfidenceInterval, paired_difference
from flowshield.models import BaseShield
from flowshield.models.shields import Calibration

_PROJECTED = 200  # impossible commands whose projection is measured
_ROC_POINTS = 200


def cell_record(cell: Cell, unshielded_returns: Sequence[float] | None) -> dict[str, Any]:
    """One command under one shield.

    Args:
        cell: Its episodes.
        unshielded_returns: Returns of the same starts without a shield, for the paired
            difference; None for the unshielded cell itself.
    """
    returns, crashed = cell.returns, cell.crashed
    interval = ConfidenceInterval()(returns)
    shielded = cell.shield != "none"
    steps = sum(e.episode.length for e in cell.episodes)
    difference = None
    if unshielded_returns is not None:
        paired = paired_difference(returns, unshielded_returns)
        difference = {"mean": paired.mean, "low": paired.low, "high": paired.high}
    return {
        "command": list(cell.command),
        "shield": cell.shield,
        "n_episodes": len(returns),
        "return_mean": interval.mean,
        "return_low": interval.low,
        "return_high": interval.high,
        "return_std": float(np.std(returns)),
        "worst_5_percent": worst_share_mean(returns),
        "crash_rate": None if crashed is None else float(np.mean(crashed)),
        "commanded_minus_achieved": cell.command[1] - interval.mean,
        "length_mean": steps / len(returns),
        "flagged_rate": sum(e.flagged_steps for e in cell.episodes) / steps if shielded else None,
        "flagged_at_start": float(np.mean([e.flagged_at_start for e in cell.episodes]))
        if shielded
        else None,
        "n_uncomputed": cell.n_uncomputed if shielded else None,
        "first_command_mean": np.mean([e.first_command for e in cell.episodes], axis=0).tolist(),
        "vs_none": difference,
        "replaced": float(np.mean([e.flagged_steps > 0 for e in cell.episodes]))
        if shielded
        else None,
        "returns": returns,
        "lengths": [e.episode.length for e in cell.episodes],
        "crashed": crashed,
    }


def shield_record(
    shield: BaseShield,
    test: TrajectoryDataset,
    commands: Sequence[tuple[float, float]],
    *,
    n_states: int,
    margin: float,
    seed: int,
) -> dict[str, Any]:
    """Detection, calibration and projection of one shield on held-out episodes.

    "false_alarms" is the rate that was promised: of one random step of each episode, or of whole
    episodes where the calibration's unit is "episode"; with groups of states that of every visit of
    an episode to a group, and each group's own stands in "false_alarms_by_group".

    Args:
        shield: Calibrated.
        test: Episodes that neither trained nor calibrated it.
        commands: The grid's requests, asked at every held-out start.
        n_states: Random steps on which detection is measured.
        margin: How far above the provable bound the impossible commands ask, raw reward.
        seed: Of every random draw.
    """
    before = shield.n_uncomputed
    calibration = shield.calibration_in_force()
    true_scores, impossible_scores = detection_scores(
        shield, test, n_states=n_states, margin=margin, seed=seed
    )
    promised = promised_scores(shield, test, seed)
    alarms = promised_alarms(promised, calibration)
    starts = test.episode_starts
    start_scores = shield_scores(shield, test.states[starts], test.commands[starts])
    start_limits = shield_limits(shield, test.states[starts])
    roc = roc_curve(-impossible_scores, -true_scores)
    return {
        **_promise(calibration),
        "detection": evaluate_shield(shield, test, n_states=n_states, margin=margin, seed=seed),
        "false_alarms": asdict(pooled(alarms)),
        "false_alarms_by_group": [asdict(group) for group in alarms],
        "false_alarms_by_level": _by_level(promised, promised_levels(shield), calibration),
        "start_states": asdict(false_alarms(start_scores, start_limits)),
        "flagged_at_start": _flagged_at(shield, test.states[starts], commands),
        "projection": _projection(shield, test, margin, seed),
        "test_nll": _test_nll(shield, test, n_states, seed),
        "n_uncomputed": shield.n_uncomputed - before,
        "roc": _thinned(roc.false_positive_rate, roc.true_positive_rate),
    }


def _promise(calibration: Calibration) -> dict[str, Any]:
    """What the calibration promises; the threshold is the lowest, where groups have their own."""
    return {
        "threshold": min(calibration.thresholds),
        "alpha": calibration.alpha,
        "n_calibration": min(calibration.n),
        "calibration": {
            "unit": calibration.unit,
            "score": calibration.score,
            "thresholds": list(calibration.thresholds),
            "n": list(calibration.n),
            "intervals": [list(interval) for interval in calibration.intervals],
            "promise": str(calibration),
        },
    }


def _by_level(
    scores: Sequence[NDArray[np.float64]], levels: Sequence[float], calibration: Calibration
) -> list[dict[str, float]]:
    return [
        {"alpha": a, **asdict(pooled(promised_alarms(scores, calibration.at(a))))} for a in levels
    ]


def _flagged_at(
    shield: BaseShield, states: NDArray[np.float32], commands: Sequence[tuple[float, float]]
) -> list[dict[str, Any]]:
    limits = shield_limits(shield, states)
    records = []
    for command in commands:
        requests = np.tile(np.asarray(command, dtype=np.float32), (len(states), 1))
        flagged = shield_scores(shield, states, requests) < limits
        records.append({"command": list(command), "rate": float(flagged.mean())})
    return records


def _projection(
    shield: BaseShield, test: TrajectoryDataset, margin: float, seed: int
) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    steps = rng.choice(len(test), size=min(_PROJECTED, len(test)), replace=False)
    return evaluate_projection(shield, impossible_commands(test, steps, margin), test.states[steps])


def _test_nll(shield: BaseShield, test: TrajectoryDataset, n_states: int, seed: int) -> float:
    """Mean negative log-likelihood of dequantised held-out commands, raw nats."""
    rng = np.random.default_rng(seed)
    steps = rng.choice(len(test), size=min(n_states, len(test)), replace=False)
    device = shield.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        noisy = shield.dequantize(torch.as_tensor(test.commands[steps], device=device))
    return float(-shield_log_probs(shield, test.states[steps], noisy.cpu().numpy()).mean())


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> dict[str, list[float]]:
    """At most `_ROC_POINTS` points of a curve, its ends among them."""
    keep = np.unique(np.linspace(0, len(x) - 1, min(_ROC_POINTS, len(x))).astype(int))
    return {"false_positive_rate": x[keep].tolist(), "true_positive_rate": y[keep].tolist()}
