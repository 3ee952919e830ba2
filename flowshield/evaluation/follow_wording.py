"""What is said about how the policy follows supported commands, the same everywhere."""

__all__ = [
    "followed_lines",
    "followed_markdown_table",
    "followed_measured",
    "followed_tables",
    "followed_verdict",
]

from collections.abc import Mapping
from typing import Any

from flowshield.evaluation.dataset_card import return_decimals
from flowshield.evaluation.report_table import ReportTable
from flowshield.evaluation.wording import (
    MISSING,
    all_equal,
    interval_words,
    is_known,
    number,
    percent,
    percent_interval,
    shield_label,
    short_number,
)
from flowshield.evaluation.yardstick import tolerance_text

FOLLOWS = 0.9  # rank correlation and coverage from which on a policy follows
IGNORES = 0.5  # rank correlation below which it does not

_HEADER = ("ranks of returns", "of horizons", "returns over all", "within", "crashed", "episodes")
_RULE = (
    f"Followed: rank correlation of returns and share within the tolerance both {FOLLOWS:g} at "
    f"least; not followed: rank correlation below {IGNORES:g}; else in part."
)


def followed_verdict(record: Mapping[str, Any]) -> str:
    """In how far the policy follows what a shield supports: by the rule that the report states.

    Args:
        record: An entry of "followed" in results.json.
    """
    rank, coverage = (_mean(record, key) for key in ("return_rank", "coverage"))
    if not (is_known(rank) and is_known(coverage)):
        return "unknown"
    if rank < IGNORES:
        return "not followed"
    return "followed" if min(rank, coverage) >= FOLLOWS else "followed in part"


def followed_lines(results: Mapping[str, Any]) -> list[str]:
    """One line a shield, for the terminal.

    Args:
        results: The content of results.json; only "followed" is read.
    """
    return [_line(name, record) for name, record in _followed(results)]


def followed_markdown_table(results: Mapping[str, Any]) -> str:
    """How the policy follows what each shield supports, in GitHub's Markdown.

    Args:
        results: The content of results.json; only "followed" is read.

    Returns:
        A table ending in a newline; "" where nothing was measured.
    """
    entries = _followed(results)
    if not entries:
        return ""
    header = ["supported by", *_header(entries[0][1])]
    rows = [header, ["---", *["---:"] * len(_HEADER)]]
    rows += [[name.replace("|", "\\|"), *_row(record)] for name, record in entries]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def followed_tables(results: Mapping[str, Any]) -> tuple[ReportTable, ReportTable]:
    """The report's tables: in all, and by the level of the returns asked.

    Args:
        results: The content of results.json; "followed", "dataset" and "yardstick" are read.
    """
    entries = _followed(results)
    return _summary_table(results, entries), _level_table(results, entries)


def followed_measured(record: Mapping[str, Any]) -> str:
    """What was measured of the commands that a shield supports, in a few words.

    Args:
        record: An entry of "followed" in results.json.
    """
    if not record.get("n_episodes"):
        return "not measured, at none of the starts are commands enough supported"
    crashed = record.get("crash_rate")
    return (
        f"rank correlation {_rank(record, 'return_rank')}, "
        f"{percent(_mean(record, 'coverage'))} within ±{_tolerance(record)} of what was asked"
        f"{f', {percent(crashed)} crash' if is_known(crashed) else ''}"
    )


def _line(name: str, record: Mapping[str, Any]) -> str:
    told = f"policy on the returns that {shield_label(name)} supports: {followed_measured(record)}"
    if not record.get("n_episodes"):
        return told
    return f"{told}: supported is {_told(followed_verdict(record))}"


def _told(verdict: str) -> str:
    return "perhaps followed, perhaps not" if verdict == "unknown" else verdict


def _summary_table(
    results: Mapping[str, Any], entries: list[tuple[str, Mapping[str, Any]]]
) -> ReportTable:
    met = tolerance_text(results.get("yardstick"))
    rows = tuple(
        (
            shield_label(name),
            followed_verdict(record),
            *_row(record),
            str(record.get("n_starts_left_out", MISSING)),
        )
        for name, record in entries
    )
    header = _header(entries[0][1]) if entries else _HEADER
    return ReportTable(
        "Does the policy follow what is supported?",
        "The agent alone, without a shield, on commands that each shield supports at the episode's "
        "own start: supported by the data is not yet followed by the policy. Rank correlation "
        "(Spearman) of commanded and achieved among the episodes of one start, where only the "
        "command differs, averaged over starts; then of returns over all episodes, where the "
        "starts have their part in it. Within: |achieved − commanded return| at most the "
        f"tolerance{f': {met}' if met else ''}. Intervals are bootstrapped over starts. {_RULE}",
        ("supported by", "is", *header, "starts left out"),
        rows,
    )


def _level_table(
    results: Mapping[str, Any], entries: list[tuple[str, Mapping[str, Any]]]
) -> ReportTable:
    dataset = results.get("dataset") or {}
    rows = tuple(
        (shield_label(name), *_level_row(level, dataset))
        for name, record in entries
        for level in record.get("levels") or ()
    )
    return ReportTable(
        "Achieved against commanded",
        "By the quantile of the returns that the shield supports at the start; one episode a "
        "start in each row. Where the data hold crashes a low return is one, so that a crash "
        "may be just what was asked.",
        (
            "supported by",
            "quantile",
            "return asked",
            "achieved",
            "interval",
            "within",
            "interval",
            "horizon asked",
            "achieved",
            "interval",
            "crashed",
            "episodes",
        ),
        rows,
        n_labels=2,
    )


def _level_row(level: Mapping[str, Any], dataset: Mapping[str, Any]) -> tuple[str, ...]:
    means = level.get("commanded_return"), _mean(level, "achieved_return")
    decimals = return_decimals(dataset, means)
    coverage = level.get("coverage") or {}
    return (
        percent(level.get("quantile")),
        number(level.get("commanded_return"), decimals),
        number(_mean(level, "achieved_return"), decimals),
        _to(level.get("achieved_return") or {}, decimals),
        percent(coverage.get("mean")),
        percent_interval(coverage.get("low"), coverage.get("high"), 0),
        number(level.get("commanded_horizon"), 0),
        number(_mean(level, "achieved_horizon"), 0),
        _to(level.get("achieved_horizon") or {}, 0),
        percent(level.get("crash_rate")),
        str(level.get("n_episodes", MISSING)),
    )


def _header(record: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"within ±{_tolerance(record)}" if name == "within" else name for name in _HEADER)


def _row(record: Mapping[str, Any]) -> tuple[str, ...]:
    coverage = record.get("coverage") or {}
    inside = percent(coverage.get("mean"))
    interval = percent_interval(coverage.get("low"), coverage.get("high"), 0)
    return (
        _rank(record, "return_rank"),
        _rank(record, "horizon_rank"),
        _rank(record, "return_rank_pooled"),
        inside if interval == MISSING else f"{inside} ({interval})",
        percent(record.get("crash_rate")),
        str(record.get("n_episodes", MISSING)),
    )


def _rank(record: Mapping[str, Any], key: str) -> str:
    """A correlation and its interval: "0.43 [0.31, 0.54]"."""
    found = record.get(key) or {}
    mean, low, high = (number(found.get(end), 2) for end in ("mean", "low", "high"))
    if equal := all_equal(found.get("low"), found.get("high")):
        return f"{mean} ({equal})"
    return mean if MISSING in (low, high) else f"{mean} [{low}, {high}]"


def _to(interval: Mapping[str, Any], decimals: int) -> str:
    return interval_words(interval.get("low"), interval.get("high"), decimals)


def _tolerance(record: Mapping[str, Any]) -> str:
    tolerance = record.get("return_tolerance")
    return short_number(tolerance) if is_known(tolerance) else MISSING


def _mean(record: Mapping[str, Any], key: str) -> float | None:
    found = record.get(key) or {}
    mean: float | None = found.get("mean")
    return mean


def _followed(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return list((results.get("followed") or {}).items())
