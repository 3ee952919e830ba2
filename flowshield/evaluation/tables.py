"""The tables that `flowshield run` prints and that the README carries."""

__all__ = ["detection_table", "markdown_table", "results_table"]

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from flowshield.evaluation.cell_grid import CellGrid
from flowshield.evaluation.dataset_card import return_decimals
from flowshield.evaluation.wording import (
    MISSING,
    alarm_basis,
    all_equal,
    command_label,
    is_known,
    number,
    percent,
    percent_interval,
    plus_minus,
)


def results_table(results: Mapping[str, Any]) -> Table:
    """One row per shield, the unshielded one first, and one column per command.

    Args:
        results: The content of results.json; "cells" and "dataset" are read.

    Returns:
        A table of cells "mean return ± half the interval's width" over "share crashed"; six
        commands fit 100 columns. Where all returns are equal a line says so instead.

    Raises:
        DataError: Two cells share shield and command, or a cell has neither.
    """
    grid = CellGrid.from_cells(results.get("cells", []))
    decimals = _decimals(results, grid)
    table = Table(
        title="Mean return ± half its interval, by shield and command (horizon, return)",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        title_justify="left",
    )
    table.add_column("shield", no_wrap=True)
    for command in grid.commands:
        table.add_column(Text(command_label(command)), justify="right", no_wrap=True)
    for shield in grid.shields:
        texts = [_lines(grid.cell(shield, command), decimals) for command in grid.commands]
        table.add_row(Text(shield), *(Text("\n".join(lines)) for lines in texts))
    return table


def markdown_table(results: Mapping[str, Any]) -> str:
    """The same table in GitHub's Markdown, ending in a newline.

    Args:
        results: The content of results.json; "cells" and "dataset" are read.

    Raises:
        DataError: Two cells share shield and command, or a cell has neither.
    """
    grid = CellGrid.from_cells(results.get("cells", []))
    decimals = _decimals(results, grid)
    rows = [["shield", *map(command_label, grid.commands)], ["---", *["---:"] * len(grid.commands)]]
    for shield in grid.shields:
        texts = [", ".join(_lines(grid.cell(shield, c), decimals)) for c in grid.commands]
        rows.append([shield.replace("|", "\\|"), *texts])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def detection_table(results: Mapping[str, Any]) -> Table:
    """One row per shield: how well it detects, and how often it cries wolf.

    What is impossible and what is true are flagged at the same random steps, so that the two shares
    are a point of the ROC curve; the false alarms that were promised are another sample's.

    Args:
        results: The content of results.json; "shields" and "alpha" are read.

    Returns:
        A table that fits 100 columns; what was not measured is a dash.
    """
    shields = results.get("shields", {})
    bases = ", ".join(dict.fromkeys(map(alarm_basis, shields.values())))
    table = Table(
        title="Impossible and true commands flagged, at the same random held-out steps;\n"
        f"false alarms as promised: {percent(results.get('alpha'))}, {bases}",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        title_justify="left",
    )
    table.add_column("shield", no_wrap=True)
    headings = ("impossible", "true", "AUROC", "F1", "false alarms (interval)", "projects", "NLL")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, entry in shields.items():
        table.add_row(Text(name), *_detection_row(entry))
    return table


def _detection_row(entry: Mapping[str, Any]) -> list[str]:
    detection = entry.get("detection") or {}
    alarms = entry.get("false_alarms") or {}
    projection = entry.get("projection") or {}
    interval = percent_interval(alarms.get("low"), alarms.get("high"))
    realised = percent(alarms.get("rate"), 1)
    return [
        percent(detection.get("detection_rate"), 1),
        percent(detection.get("false_positive_rate"), 1),
        number(detection.get("auc_roc"), 3),
        number(detection.get("f1_score"), 3),
        realised if interval == MISSING else f"{realised} ({interval})",
        percent(projection.get("projection_success"), 1),
        number(entry.get("test_nll"), 2),
    ]


def _lines(cell: Mapping[str, Any] | None, decimals: int) -> list[str]:
    if cell is None:
        return [MISSING]
    mean, low, high = (cell.get(f"return_{end}") for end in ("mean", "low", "high"))
    equal = all_equal(low, high, cell.get("n_episodes"))
    lines = [plus_minus(mean, low, high, decimals), *filter(None, [equal])]
    if is_known(cell.get("crash_rate")):
        lines.append(f"{percent(cell['crash_rate'])} crash")
    return lines


def _decimals(results: Mapping[str, Any], grid: CellGrid) -> int:
    return return_decimals(results.get("dataset") or {}, grid.mean_returns)
