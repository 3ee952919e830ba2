"""Single numbers out of records."""

__all__ = ["of_latency", "of_rung"]

from collections.abc import Mapping
from typing import Any


def of_rung(record: Mapping[str, Any], where: str, distance: float, what: str) -> float | None:
    """A number of one rung of a detection record."""
    for rung in record["rungs"]:
        if (rung["where"], rung["distance"]) == (where, distance):
            return float(rung[what])
    return None


def of_latency(record: Mapping[str, Any], what: str) -> float | None:
    """The faster path's p50 of "check" or "projection", milliseconds."""
    times = [record[path][what] for path in ("eager", "compiled") if record.get(path)]
    known = [time["p50"] for time in times if time]
    return min(known) if known else None
