"""How true the predictions of an outcome model are, on episodes that it has not seen."""

__all__ = ["outcome_record", "outcome_tables", "outcome_text", "rows_of"]

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowshield.evaluation.agent import EvaluatedEpisode
from flowshield.evaluation.report_table import ReportTable
from flowshield.evaluation.statistics import clopper_pearson
from flowshield.evaluation.wording import percent, percent_interval
from flowshield.models import OutcomeModel
from flowshield.models.outcome import OutcomeRows, outcome_rows

_BINS = np.array([0.0, 0.02, 0.1, 0.3, 0.7, 0.9, 0.98, 1.0])  # of the predicted failure


def rows_of(episodes: Sequence[EvaluatedEpisode], seed: int, n_rows: int = 10) -> OutcomeRows:
    """Steps of episodes as an outcome model reads them.

    Args:
        episodes: Of the policy alone.
        seed: Of the choice of steps.
        n_rows: Steps per episode, its first among them.
    """
    return outcome_rows(
        [evaluated.episode for evaluated in episodes],
        [evaluated.command for evaluated in episodes],
        [bool(evaluated.crashed) for evaluated in episodes],
        n_rows=n_rows,
        seed=seed,
    )


def outcome_record(
    model: OutcomeModel, episodes: Sequence[EvaluatedEpisode], seed: int
) -> dict[str, Any]:
    """Holds predictions at the start and at one random later step against what came.

    Args:
        model: Fitted.
        episodes: That it has not seen.
        seed: Of the choice of the later step.

    Returns:
        "n_episodes"; "coverage": of the 90% interval, with its own interval, for "start" and
        "later"; "failure": predicted and realised rates in bins of the prediction, at the start;
        None where the environment knows no failure.
    """
    rows = rows_of(episodes, seed, n_rows=2)
    first = np.unique(rows.episodes.numpy(), return_index=True)[1]
    start = np.zeros(len(rows.episodes), dtype=bool)
    start[first] = True
    with torch.no_grad():
        told = model.predict(rows.states, rows.commands)
    inside = ((told.low <= rows.returns) & (rows.returns <= told.high)).numpy()
    known = episodes[0].crashed is not None
    return {
        "n_episodes": len(episodes),
        "coverage": {"start": _share(inside[start]), "later": _share(inside[~start])},
        "mean_error": float((told.mean - rows.returns).abs()[torch.from_numpy(start)].mean()),
        "failure": _failures(told.failure.numpy()[start], rows.failed.numpy()[start])
        if known
        else None,
    }


def outcome_text(record: dict[str, Any]) -> str:
    """The record in a line."""
    covered = record["coverage"]["start"]
    text = f"its 90% intervals hold {percent(covered['rate'])} of {covered['n']} unseen episodes"
    bins = record["failure"]
    if not bins:
        return text
    wrong = [b for b in bins if not b["low"] <= b["predicted"] <= b["high"]]
    return f"{text}, failures as predicted in {len(bins) - len(wrong)} of {len(bins)} bins"


def outcome_tables(record: Mapping[str, Any]) -> tuple[ReportTable, ReportTable]:
    """Whether predictions are true, for the report: intervals of the return, and failures.

    Args:
        record: From `outcome_record`; empty where there is no outcome model.
    """
    covered = record.get("coverage") or {}
    intervals = tuple(
        (where, "90%", percent(found["rate"], 1), _ends(found), str(found["n"]))
        for where, found in (
            ("start of episode", covered.get("start")),
            ("one later step", covered.get("later")),
        )
        if found
    )
    failures = tuple(
        (
            percent(found["predicted"], 1),
            percent(found["rate"], 1),
            _ends(found),
            str(found["n"]),
            "yes" if found["low"] <= found["predicted"] <= found["high"] else "no",
        )
        for found in record.get("failure") or ()
    )
    return (
        ReportTable(
            "Predicted returns",
            "How many unseen episodes of the agent alone got a return within the predicted 90% "
            "interval.",
            ("predicted at", "should hold", "held", "interval", "episodes"),
            intervals,
        ),
        ReportTable(
            "Predicted failures",
            "Unseen episodes by their predicted probability of failure. The prediction is true "
            "where it is within the interval of the share that failed.",
            ("predicted", "failed", "interval", "episodes", "true"),
            failures,
        ),
    )


def _ends(found: Mapping[str, float]) -> str:
    return percent_interval(found["low"], found["high"])


def _share(hits: NDArray[np.bool_]) -> dict[str, float]:
    if not len(hits):
        return {"n": 0, "rate": float("nan"), "low": 0.0, "high": 1.0}
    low, high = clopper_pearson(int(hits.sum()), len(hits))
    return {"n": len(hits), "rate": float(hits.mean()), "low": low, "high": high}


def _failures(predicted: NDArray[np.float64], failed: NDArray[np.bool_]) -> list[dict[str, float]]:
    place = np.digitize(predicted, _BINS[1:-1])
    return [
        {"predicted": float(predicted[place == k].mean()), **_share(failed[place == k])}
        for k in np.unique(place)
    ]
