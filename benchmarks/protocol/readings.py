"""Single numbers out of records."""

__all__ = ["of_calibration", "of_latency", "of_rung", "of_search"]

from collections.abc import Mapping
from typing import Any


def of_rung(record: Mapping[str, Any], where: str, distance: float, what: str) -> float | None:
    """A number of one rung of a detection record."""
    for rung in record["rungs"]:
        if (rung["where"], rung["distance"]) == (where, distance):
            return float(rung[what])
    return None


def of_calibration(record: Mapping[str, Any], unit: str, alpha: float) -> Mapping[str, Any] | None:
    """The row of one threshold for all states."""
    for row in record["rows"]:
        if (row["unit"], row["groups"], row["alpha"]) == (unit, 1, alpha):
            return dict(row)
    return None


def of_search(record: Mapping[str, Any], word: str) -> float | None:
    """A mean over all requests of a projection record that were compared with brute force."""
    searches = [s for s in record["search"].values() if s.get(word) is not None]
    n = sum(search["n"] for search in searches)
    return sum(search[word] * search["n"] for search in searches) / n if n else None


def of_latency(record: Mapping[str, Any], path: str, what: str) -> float | None:
    """The p50 of "check" or "projection" on the "eager" or "compiled" path, milliseconds."""
    times = (record.get(path) or {}).get(what)
    return times["p50"] if times else None
