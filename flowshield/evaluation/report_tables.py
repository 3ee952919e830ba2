"""The tables of the report, as texts: everything that results.json says, with dashes for gaps.

Those of the commands that are followed stand in `follow_wording`, those of the data in
`dataset_card`. A table without rows is left out of the report.
"""

__all__ = [
    "calibration_table",
    "detection_table",
    "projection_table",
    "returns_table",
    "seeds_table",
    "start_states_table",
    "training_table",
]

from collections.abc import Mapping
from typing import Any

from flowshield.evaluation.cell_grid import CellGrid
from flowshield.evaluation.report_table import ReportTable
from flowshield.evaluation.wording import (
    MISSING,
    alarm_basis,
    command_label,
    interval_words,
    number,
    percent,
    percent_interval,
    shield_label,
)
from flowshield.evaluation.yardstick import margin_text


def returns_table(grid: CellGrid, decimals: int) -> ReportTable:
    """Every command under every shield, returns with so many decimals."""
    rows = tuple(
        (
            command_label(cell["command"]),
            shield_label(cell["shield"]),
            _with_interval(cell, "return_", decimals, cell.get("n_episodes")),
            _with_interval(cell.get("vs_none") or {}, "", decimals, cell.get("n_episodes")),
            number(cell.get("worst_5_percent"), decimals),
            number(cell.get("return_std"), decimals),
            percent(cell.get("crash_rate"), 1),
            number(cell.get("length_mean"), 0),
            number(cell.get("commanded_minus_achieved"), decimals),
            percent(cell.get("flagged_at_start"), 1),
            percent(cell.get("flagged_rate"), 1),
            str(cell.get("n_episodes", MISSING)),
        )
        for cell in grid
    )
    return ReportTable(
        "Returns",
        "A command is (horizon in steps, return). Every cell runs the same environment seeds; "
        "the difference is paired by seed.",
        (
            "command",
            "shield",
            "mean return (interval)",
            "minus no shield",
            "worst 5%",
            "std",
            "crashed",
            "steps",
            "asked − got",
            "flagged at start",
            "steps flagged",
            "episodes",
        ),
        rows,
        n_labels=2,
    )


def detection_table(results: Mapping[str, Any]) -> ReportTable:
    """What each shield detects, and what it flags in vain."""
    rows = []
    for name, entry in _shields(results):
        found = entry.get("detection") or {}
        rows.append(
            (
                shield_label(name),
                percent(found.get("detection_rate"), 1),
                percent(found.get("false_positive_rate"), 1),
                number(found.get("f1_score"), 3),
                number(found.get("auc_roc"), 3),
                number(found.get("calibration_error"), 4),
                number(entry.get("test_nll"), 3),
                str(entry.get("n_uncomputed", MISSING)),
                _uncomputed_in_episodes(results, name),
            )
        )
    return ReportTable(
        "Detection",
        "Unsupported commands against the true commands of held-out episodes, at random steps. NLL "
        "in nats on held-out commands: lower is better. What could not be computed was taken for "
        "unsupported, and counted: here, and over all commands and episodes above."
        f"{_margin(results)}",
        (
            "shield",
            "detected",
            "true commands flagged",
            "F1",
            "AUROC",
            "calibration error",
            "NLL",
            "not computed",
            "in episodes",
        ),
        tuple(rows),
    )


def _margin(results: Mapping[str, Any]) -> str:
    told = margin_text(results.get("yardstick"))
    return f" {told[0].upper()}{told[1:]}." if told else ""


def _uncomputed_in_episodes(results: Mapping[str, Any], shield: str) -> str:
    records = [cell for cell in results.get("cells") or () if cell.get("shield") == shield]
    records.append((results.get("followed") or {}).get(shield) or {})
    counts = [record["n_uncomputed"] for record in records if "n_uncomputed" in record]
    return str(sum(counts)) if counts else MISSING


def calibration_table(results: Mapping[str, Any]) -> ReportTable:
    """The false-alarm rates that were promised and those measured."""
    rows = []
    for name, entry in _shields(results):
        label = shield_label(name)
        alarms, starts = entry.get("false_alarms"), entry.get("start_states")
        told, basis = percent(entry.get("alpha"), 1), alarm_basis(entry)
        if alarms:
            rows.append(_alarms(label, basis, told, alarms))
        groups = entry.get("false_alarms_by_group") or ()
        for index, group in enumerate(groups if len(groups) > 1 else (), start=1):
            rows.append(_alarms(label, f"{basis}: group {index}", told, group))
        if starts:
            rows.append(_alarms(label, "start of episode", told, starts))
        for level in entry.get("false_alarms_by_level") or ():
            told = percent(level.get("alpha"), 1)
            rows.append(_alarms(label, f"{basis}, by level", told, level))
    thresholds = "; ".join(
        f"{shield_label(name)} {number(entry.get('threshold'), 3)} nats from "
        f"{entry.get('n_calibration', MISSING)} episodes"
        for name, entry in _shields(results)
    )
    return ReportTable(
        "Calibration",
        "How often the true commands of held-out episodes are flagged, with Clopper and Pearson's "
        "exact interval (groups together have none: an episode visits several). The start of an "
        "episode is not what was promised, but is where commands are given. "
        f"Thresholds: {thresholds}.",
        ("shield", "measured on", "nominal", "realised", "interval", "episodes"),
        tuple(rows),
        n_labels=2,
    )


def start_states_table(results: Mapping[str, Any]) -> ReportTable:
    """Which commands are flagged where episodes start."""
    shares: dict[tuple[float, ...], dict[str, float]] = {}
    for name, entry in _shields(results):
        for row in entry.get("flagged_at_start") or ():
            shares.setdefault(tuple(row["command"]), {})[name] = row.get("rate")
    names = [name for name, _ in _shields(results)]
    return ReportTable(
        "Commands flagged at the start",
        "Share of held-out start states at which each command of the grid is flagged.",
        ("command", *map(shield_label, names)),
        tuple(
            (command_label(command), *(percent(found.get(name), 1) for name in names))
            for command, found in shares.items()
        ),
    )


def projection_table(results: Mapping[str, Any]) -> ReportTable:
    """What becomes of unsupported commands."""
    rows = tuple(
        (
            shield_label(name),
            percent(entry["projection"].get("projection_success"), 1),
            number(entry["projection"].get("mean_distance"), 3),
            number(entry["projection"].get("mean_log_prob"), 3),
        )
        for name, entry in _shields(results)
        if entry.get("projection")
    )
    return ReportTable(
        "Projection",
        "What becomes of unsupported commands: the share that checks as supported afterwards, "
        "how far it moved in scaled units, and its log-density in nats.",
        ("shield", "supported after", "distance", "log p"),
        rows,
    )


def training_table(results: Mapping[str, Any]) -> ReportTable:
    """How the training of each model went."""
    rows = tuple(
        (
            shield_label(name),
            f"{model.get('best_epoch', MISSING)} of {model.get('epochs', MISSING)}",
            number(model.get("validation_loss"), 4),
            number(model.get("seconds"), 1),
        )
        for name, model in (results.get("models") or {}).items()
    )
    return ReportTable(
        "Training",
        "The weights of the best epoch on held-out episodes are the ones used.",
        ("model", "best epoch", "held-out loss", "seconds"),
        rows,
    )


def seeds_table(results: Mapping[str, Any]) -> ReportTable:
    """What each draw comes from."""
    data = (results.get("dataset") or {}).get("seed")
    run = results.get("seed")
    told = {
        "collection": data,
        "split, training, calibration": run,
        "starts of evaluated episodes": run,
    }
    return ReportTable(
        "Seeds",
        "Episode i, of a collection or of a cell, draws everything from child i of "
        "numpy.random.SeedSequence(seed): the same for any number of workers, and the same starts "
        "in every cell.",
        ("used for", "seed"),
        tuple((use, str(seed)) for use, seed in told.items() if seed is not None),
    )


def _alarms(label: str, where: str, told: str, rate: Mapping[str, Any]) -> tuple[str, ...]:
    interval = percent_interval(rate.get("low"), rate.get("high"))
    n = rate.get("n", MISSING)
    return label, where, told, percent(rate.get("rate"), 1), interval, str(n)


def _with_interval(record: Mapping[str, Any], prefix: str, decimals: int, n: int | None) -> str:
    mean, low, high = (record.get(f"{prefix}{name}") for name in ("mean", "low", "high"))
    ends = interval_words(low, high, decimals, n)
    told = number(mean, decimals)
    return told if ends == MISSING else f"{told} ({ends})"


def _shields(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return list((results.get("shields") or {}).items())
