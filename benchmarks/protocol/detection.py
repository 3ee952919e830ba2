"""Part 2: impossible commands against the true ones, rung by rung; held-out likelihood."""

__all__ = ["measure"]

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowshield.data import TrajectoryDataset
from flowshield.evaluation import auc_roc
from protocol import contenders
from protocol.contenders import Contender
from protocol.data import parts_of
from protocol.rungs import Rung, questions
from protocol.schedule import Context
from protocol.store import Key

_ALPHA = 0.05
_NOISE_SEED = 7  # one noise for every model: their likelihoods are compared row by row


def measure(context: Context, key: Key) -> dict[str, Any]:
    """AUROC and detection at the calibrated 5% on every rung, and the likelihood of test rows."""
    parts = parts_of(context, key.dataset, key.seed)
    contender = contenders.load(context, key)
    threshold = contenders.threshold(contender, parts["calibration"], _ALPHA, key.seed)
    rungs = questions(parts["test"], context.settings.n_states, key.seed)
    true = _true_scores(contender, parts["test"], rungs)
    return {
        "threshold": threshold,
        "rungs": [_judge(contender, parts["test"], rung, true, threshold) for rung in rungs],
        "nll_rows": _likelihood(contender, parts["test"], rungs[0].steps),
    }


def _judge(
    contender: Contender,
    test: TrajectoryDataset,
    rung: Rung,
    true: dict[str, NDArray[np.float64]],
    threshold: float,
) -> dict[str, Any]:
    impossible = contender.score(test.states[rung.steps], rung.commands)
    supported = true[rung.where]
    return {
        "where": rung.where,
        "distance": rung.distance,
        "n": len(rung.steps),
        "auroc": auc_roc(-impossible, -supported),
        "detected": float((~(impossible >= threshold)).mean()),
        "false_alarms": float((~(supported >= threshold)).mean()),
    }


def _true_scores(
    contender: Contender, test: TrajectoryDataset, rungs: list[Rung]
) -> dict[str, NDArray[np.float64]]:
    """Scores of what really followed, once per set of states."""
    places = {rung.where: rung.steps for rung in rungs}
    return {
        where: contender.score(test.states[steps], test.commands[steps])
        for where, steps in places.items()
    }


def _likelihood(
    contender: Contender, test: TrajectoryDataset, steps: NDArray[np.int64]
) -> list[float] | None:
    """-log p of each dequantised command, raw nats; None where there is no density."""
    if contender.log_prob is None:
        return None
    rng = np.random.default_rng(_NOISE_SEED)
    noise = np.stack(
        [rng.uniform(-0.5, 0.5, len(steps)), rng.normal(size=len(steps))], axis=1
    ).astype(np.float32)
    rows = -contender.log_prob(test.states[steps], test.commands[steps] + noise)
    return [round(float(row), 4) for row in rows]
