"""Tables of part 3: realised false alarms of every seed, over the seeds, and by group."""

__all__ = ["by_group", "by_seed", "over_seeds"]

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flowshield.evaluation.wording import MISSING, percent
from protocol.aggregate import label, mean_over_seeds
from protocol.markdown import Table, ordered, percent_mean, percent_text
from protocol.readings import of_calibration
from protocol.results import Results, seeds_of
from protocol.store import Records

UNITS = {
    "step": "one random step",
    "step_of_many": "one random step, further calibration episodes",
    "episode": "whole episode",
}

Row = Mapping[str, Any]


def by_seed(results: Results, dataset: str) -> Table | None:
    """Realised rates with the intervals of all seeds, and how many seeds kept the promise."""
    records, rows = results.of("calibration", dataset), []
    for name, mine in _models(records, results):
        for unit, words in UNITS.items():
            cells = [
                _rates(of_calibration(m, unit, alpha) for m in mine)
                for alpha in results.settings.alphas
            ]
            starts = mean_over_seeds(m["starts"]["rate"] for m in mine)
            if set(cells) != {MISSING}:
                rows.append([name, words, *cells, percent_text(starts) if unit == "step" else ""])
    title = (
        f"{dataset}: realised false alarms on fresh episodes, a seed each (Clopper-Pearson 95%); "
        "in how many seeds the nominal rate lies in it; in how many the count is within what "
        "split-conformal calibration promises (95%, beta-binomial)"
    )
    head = [*_head(results), "initial states at 5% a step"]
    return Table(title, head, rows, seeds_of(records)) if rows else None


def over_seeds(results: Results, dataset: str) -> Table | None:
    """The mean realised rate, and whether the nominal one lies in its interval."""
    records, rows = results.of("calibration", dataset), []
    for name, mine in _models(records, results):
        for unit, words in UNITS.items():
            cells = [_pooled(mine, unit, alpha) for alpha in results.settings.alphas]
            if set(cells) != {MISSING}:
                rows.append([name, words, *cells])
    title = (
        f"{dataset}: realised false alarms on fresh episodes, mean ± t-interval over training "
        "seeds, each with a split and a calibration set of its own; whether the nominal rate lies "
        "within"
    )
    return Table(title, _head(results), rows, seeds_of(records)) if rows else None


def by_group(results: Results, dataset: str) -> Table | None:
    """Realised rates in groups of states: one threshold for all beside one each."""
    records, rows = results.of("calibration", dataset), []
    for name, mine in _models(records, results):
        grouped = [row for m in mine for row in m["rows"] if row["groups"] > 1]
        for unit, words in UNITS.items():
            any_of_it = any(row["unit"] == unit for row in grouped)
            for shared in (True, False) if any_of_it else ():
                rows.append([name, words, "one for all" if shared else "one each"])
                for alpha in results.settings.alphas:
                    wanted = (unit, shared, alpha)
                    rows[-1].append(_spread([r for r in grouped if _about(r) == wanted]))
    name, unit, *levels = _head(results)
    title = (
        f"{dataset}: realised false alarms by group of states: least and greatest over groups and "
        "seeds; how many of them are within what split-conformal calibration promises (95%)"
    )
    head = [name, unit, "threshold", *levels]
    return Table(title, head, rows, seeds_of(records)) if rows else None


def _head(results: Results) -> list[str]:
    return ["model", "alarm unit", *(f"nominal {percent(a)}" for a in results.settings.alphas)]


def _models(records: Records, results: Results) -> list[tuple[str, list[Row]]]:
    """Every model with its records, one a seed."""
    return [
        (name, [record for key, record in records.items() if label(key) == name])
        for name in ordered(map(label, records), results.settings)
    ]


def _pooled(mine: Iterable[Row], unit: str, alpha: float) -> str:
    rows = [of_calibration(m, unit, alpha) for m in mine]
    mean = mean_over_seeds(row["rate"] for row in rows if row)
    if mean is None:
        return MISSING
    within = mean.holds(alpha)
    return percent_mean(mean) + ("" if within is None else ", within" if within else ", NOT within")


def _rates(rows: Iterable[Row | None]) -> str:
    known = [row for row in rows if row]
    if not known:
        return MISSING
    each = "; ".join(
        f"{percent(r['rate'], 1)} ({percent(r['low'], 1)} to {percent(r['high'], 1)})"
        for r in known
    )
    covered, kept = (sum(bool(r[word]) for r in known) for word in ("covered", "promised"))
    return f"{each}; {covered}/{len(known)}; {kept}/{len(known)}"


def _about(row: Row) -> tuple[str, bool, float]:
    return row["unit"], row["shared"], row["alpha"]


def _spread(rows: Sequence[Row]) -> str:
    if not rows:
        return MISSING
    rates, kept = [row["rate"] for row in rows], sum(bool(row["promised"]) for row in rows)
    return f"{percent(min(rates), 1)} to {percent(max(rates), 1)}; {kept}/{len(rows)}"
