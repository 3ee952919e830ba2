"""Tables of part 2: held-out likelihood, and detection rung by rung."""

__all__ = ["likelihoods", "rung_columns", "rungs"]

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from protocol.aggregate import Mean, by_model, mean_over_seeds
from protocol.markdown import Table, mean_text, ordered, percent_text, plain_text
from protocol.readings import of_rung
from protocol.results import Results, seeds_of
from protocol.rungs import DISTANCES, FACTORS
from protocol.store import Records

PLACES = {
    "random": "random test states",
    "start": "starts of test episodes",
    "tight": "test states whose true slack UB - R is under 10",
    "half": "starts of test episodes above 250, the same return in a share of the horizon",
}
_NOTE = (
    "The threshold promises 5% for one random step of an episode. Here every drawn step counts "
    'alike, so that long episodes weigh more: "true commands flagged" may exceed 5% for that alone.'
)


def likelihoods(results: Results, dataset: str) -> Table | None:
    """Training and held-out likelihood, the latter also as paired differences to the best."""
    detection = results.of("detection", dataset)
    nll = by_model(detection, dataset, _nll)
    if not nll:
        return None
    best = min(nll, key=lambda name: nll[name].value)
    train = results.of("train", dataset)
    seconds = by_model(train, dataset, lambda r: r.get("training_seconds"))
    best_at = by_model(train, dataset, lambda r: r.get("best_share"))
    rows = [
        [
            name,
            plain_text(seconds.get(name), 0),
            percent_text(best_at.get(name)),
            mean_text(nll[name], 3),
            _paired_nll(detection, name, best),
        ]
        for name in ordered(nll, results.settings)
    ]
    head = ["model", "training s", "best weights after", "test NLL, raw nats"]
    head.append(f"less {best}'s, paired")
    title = f"{dataset}: held-out likelihood of dequantised commands"
    return Table(title, head, rows, seeds_of(detection))


def _nll(record: Mapping[str, Any]) -> float | None:
    rows = record.get("nll_rows")
    return None if rows is None else float(np.mean(rows))


def _paired_nll(detection: Records, name: str, best: str) -> str:
    """Mean over seeds of the mean difference on the same rows, and its t-interval."""
    if name == best:
        return "0"
    differences = []
    for key, record in detection.items():
        other = detection.get(key._replace(model=best))
        if (key.model, key.detail) == (name, "") and other:
            rows = np.subtract(record["nll_rows"], other["nll_rows"])
            differences.append(float(rows.mean()))
    return mean_text(mean_over_seeds(differences), 3)


def rung_columns(
    detection: Records, dataset: str, columns: Sequence[tuple[str, str, float]]
) -> list[dict[str, Mean]]:
    """Means of (place, what, distance), a dict of models each."""
    return [
        by_model(detection, dataset, partial(of_rung, where=where, distance=distance, what=what))
        for where, what, distance in columns
    ]


def rungs(results: Results, dataset: str, where: str) -> Table | None:
    """AUROC and detection at the calibrated 5%, a column a rung."""
    detection = results.of("detection", dataset)
    distances = FACTORS if where == "half" else DISTANCES
    columns = [(where, what, d) for what in ("auroc", "detected") for d in distances]
    found = rung_columns(detection, dataset, columns)
    if not found[0]:
        return None
    (alarms,) = rung_columns(detection, dataset, [(where, "false_alarms", distances[0])])
    size = mean_over_seeds(of_rung(r, where, distances[0], "n") for r in detection.values())
    rows = [
        [name, *(mean_text(means.get(name), 3) for means in found), percent_text(alarms.get(name))]
        for name in ordered(found[0], results.settings)
    ]
    signs = [f"{d:g} H" if where == "half" else f"d={d:g}" for d in distances]
    head = ["model", *(f"AUROC {sign}" for sign in signs)]
    head += [*(f"detected {sign}" for sign in signs), "true commands flagged"]
    title = f"{dataset}: detection at {PLACES[where]} ({plain_text(size, 0)} a seed)"
    return Table(title, head, rows, seeds_of(detection), _NOTE if where == "random" else "")
