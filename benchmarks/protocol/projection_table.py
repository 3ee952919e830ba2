"""The table of part 4."""

__all__ = ["projections"]

from collections.abc import Iterable, Mapping
from typing import Any

from flowshield.evaluation.wording import MISSING
from protocol.aggregate import mean_over_seeds
from protocol.markdown import Table, mean_text, ordered
from protocol.results import Results, seeds_of

_HEAD = (
    "shield",
    "requests",
    "n",
    "recheck as supported",
    "above UB(s)",
    "bound lent: recheck; above UB(s)",
    "idempotent",
    "supported requests unchanged",
    "distance / brute force's, each at least 1, mean",
    "median, as it is",
    "p95, as it is",
    "share within 5%",
    "share where brute force did worse by 5%",
    "compared; without any point found",
)


def projections(results: Results, dataset: str) -> Table | None:
    """Counts of all seeds together; ratios of distances as means over the seeds."""
    records, rows = results.of("projection", dataset), []
    for name in ordered({key.model for key in records}, results.settings):
        mine = [record for key, record in records.items() if key.model == name]
        rows += [_row(name, kind, mine) for kind in mine[0]["requests"]]
    title = f"{dataset}: projection, all seeds together"
    return Table(title, _HEAD, rows, seeds_of(records)) if rows else None


def _row(name: str, kind: str, mine: list[Mapping[str, Any]]) -> list[str]:
    checks = [record["requests"][kind] for record in mine]
    bounded = [record["with_bound"][kind] for record in mine]
    searches = [record["search"][kind] for record in mine]
    identity = [record["identity"] for record in mine]
    words = ("ratio_floored", "ratio_p50", "ratio_p95", "within_5_percent", "beaten")
    return [
        name,
        kind,
        _sum(checks, "n"),
        _sum(checks, "supported"),
        _sum(checks, "over_bound"),
        f"{_sum(bounded, 'supported')}; {_sum(bounded, 'over_bound')}",
        _sum(checks, "idempotent"),
        f"{_sum(identity, 'unchanged')}/{_sum(identity, 'n')}",
        *(mean_text(mean_over_seeds(s.get(word) for s in searches), 3) for word in words),
        f"{_sum(searches, 'n')}; {_sum(searches, 'none_found')}",
    ]


def _sum(records: Iterable[Mapping[str, Any]], word: str) -> str:
    values = [record[word] for record in records if record[word] is not None]
    return str(sum(values)) if values else MISSING
