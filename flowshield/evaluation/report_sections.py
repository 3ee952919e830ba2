"""The sections of the report in their order: which figures and which tables stand in each."""

__all__ = ["FIGURES", "Section", "report_sections"]

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from flowshield.evaluation.cell_grid import CellGrid
from flowshield.evaluation.dataset_card import dataset_tables, return_decimals
from flowshield.evaluation.follow_wording import followed_tables
from flowshield.evaluation.harm import compare
from flowshield.evaluation.harm_wording import guard_tables
from flowshield.evaluation.outcome_record import outcome_tables
from flowshield.evaluation.report_table import ReportTable
from flowshield.evaluation.report_tables import (
    calibration_table,
    detection_table,
    projection_table,
    returns_table,
    seeds_table,
    start_states_table,
    training_table,
)

FIGURES = {
    "returns": "Return by command and shield, with 95% intervals, and the share that crashed.",
    "command_plane": "What is supported at four moments of a held-out episode (the one with the "
    "median return), and where requests go. A request later in the episode is what is left of it: "
    "the horizon less the steps, the return less the rewards so far.",
    "detection": "Impossible commands flagged against true commands flagged. Impossible is more "
    "than the environment's bound on the return, which is provable; where it gives none, the "
    "return that followed plus the whole range of the data's returns, which nothing came near.",
    "calibration": "Realised against nominal rate of the false alarms that the promise is about.",
    "followed": "Achieved against commanded: the agent alone on commands that the shield supports.",
    "training": "Training and held-out loss by epoch.",
}


class Section(NamedTuple):
    """A part of the report.

    Attributes:
        anchor: Its name in links.
        title: Its heading.
        figures: Names of figures.
        tables: Those that have a row.
    """

    anchor: str
    title: str
    figures: tuple[str, ...]
    tables: tuple[ReportTable, ...]


def report_sections(
    results: Mapping[str, Any], grid: CellGrid, drawn: Iterable[str]
) -> list[Section]:
    """Every section that holds something.

    Args:
        results: The content of results.json.
        grid: Its cells.
        drawn: Names of the figures that there are; those not in `FIGURES` come last.
    """
    names = list(drawn)
    others = tuple(name for name in names if name not in FIGURES)
    dataset = results.get("dataset") or {}
    decimals = return_decimals(dataset, grid.mean_returns)
    guard = results.get("guard") or {}
    changed = guard_tables(compare(results, grid), guard, grid, decimals + 1)
    every = (
        Section("returns", "Returns and crashes", ("returns",), (returns_table(grid, decimals),)),
        Section("guard", "What the guard changes", (), changed),
        Section(
            "outcome",
            "Are the predictions of the policy's outcome true?",
            (),
            outcome_tables(guard.get("outcome") or {}),
        ),
        Section("plane", "What is supported, moment by moment", ("command_plane",), ()),
        Section(
            "detection",
            "Detection of impossible commands",
            ("detection",),
            (detection_table(results), start_states_table(results)),
        ),
        Section(
            "calibration",
            "Calibration of the false-alarm rate",
            ("calibration",),
            (calibration_table(results),),
        ),
        Section("projection", "Projection", (), (projection_table(results),)),
        Section("followed", "Commanded and achieved", ("followed",), followed_tables(results)),
        Section("training", "Training", ("training",), (training_table(results),)),
        Section("more", "More figures", others, ()),
        Section("data", "The data", (), dataset_tables(dataset)),
        Section("seeds", "Seeds", (), (seeds_table(results),)),
    )
    shown = (
        section._replace(
            figures=tuple(name for name in section.figures if name in names),
            tables=tuple(table for table in section.tables if table.rows),
        )
        for section in every
    )
    return [section for section in shown if section.figures or section.tables]
