"""The false alarms in words: what was promised, what came out, and what chance explains."""

__all__ = ["alarms_finding"]

from collections.abc import Iterable, Mapping
from typing import Any

from flowshield.evaluation.finding import Finding
from flowshield.evaluation.wording import (
    MISSING,
    alarm_basis,
    listed,
    percent,
    percent_interval,
    percent_range,
    shield_label,
)
from flowshield.models.shields.calibration import highest_expected_rate


def alarms_finding(shields: Mapping[str, Mapping[str, Any]], alpha: float | None) -> Finding:
    """At which false-alarm rate the shields stand, and how much of the impossible they flag.

    Args:
        shields: Their records in results.json, by name.
        alpha: The rate that was promised.
    """
    question = "At which false-alarm rate, and how much is detected?"
    if not shields:
        return Finding(question, "unknown", "no shield was calibrated")
    realised, starts = (
        _percents(entry.get(key) for entry in shields.values())
        for key in ("false_alarms", "start_states")
    )
    found = percent_range([_detected(entry) for entry in shields.values()], 1)
    counted = "; ".join(_alarm_text(name, entry) for name, entry in shields.items())
    promised = ". ".join(dict.fromkeys(_promise_text(entry) for entry in shields.values()))
    above = _above(shields, "false_alarms", "More than that")
    above += _above(shields, "start_states", "More than that at starts")
    return Finding(
        question,
        f"set to {percent(alpha)}; realised: {realised}; at starts of episodes: {starts}; "
        f"impossible commands flagged: {found}",
        f"{counted}. {promised}.{above} Nothing was promised of starts alone, where commands are "
        "given.",
        "bad" if any(_exceeds(entry, "false_alarms") for entry in shields.values()) else "plain",
    )


def _above(shields: Mapping[str, Mapping[str, Any]], key: str, told: str) -> str:
    names = [shield_label(name) for name, entry in shields.items() if _exceeds(entry, key)]
    return f" {told}: {listed(names)}." if names else ""


def _detected(entry: Mapping[str, Any]) -> float | None:
    rate: float | None = (entry.get("detection") or {}).get("detection_rate")
    return rate


def _percents(records: Iterable[Mapping[str, Any] | None]) -> str:
    return percent_range([(record or {}).get("rate") for record in records], 1)


def _alarm_text(name: str, entry: Mapping[str, Any]) -> str:
    alarms, starts = (_counted(entry.get(key) or {}) for key in ("false_alarms", "start_states"))
    found = percent(_detected(entry), 1)
    return f"{shield_label(name)} {alarms}, at starts {starts}, impossible {found}"


def _promise_text(entry: Mapping[str, Any]) -> str:
    basis, limit = f"Promised of {alarm_basis(entry)}", _chance(entry)
    if limit is None:
        return basis
    return (
        f"{basis}; {entry['n_calibration']} calibration and {entry['false_alarms']['n']} held-out "
        f"episodes leave up to {percent(limit, 1)} to chance"
    )


def _exceeds(entry: Mapping[str, Any], key: str) -> bool:
    limit = _chance(entry, key)
    return limit is not None and bool(entry[key]["rate"] > limit)


def _chance(entry: Mapping[str, Any], key: str = "false_alarms") -> float | None:
    """The rate that a kept promise exceeds once in 40 times; None for groups, which overlap."""
    alarms, n, alpha = entry.get(key) or {}, entry.get("n_calibration"), entry.get("alpha")
    groups = len((entry.get("calibration") or {}).get("thresholds") or ())
    if groups > 1 or not (n and alpha and alarms.get("n")):
        return None
    return highest_expected_rate(n, alpha, alarms["n"])


def _counted(alarms: Mapping[str, Any]) -> str:
    interval = percent_interval(alarms.get("low"), alarms.get("high"))
    return f"{alarms.get('count', MISSING)} of {alarms.get('n', MISSING)} ({interval})"
