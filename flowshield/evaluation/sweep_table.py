"""The ranked trials of a sweep, for the terminal and for a file."""

__all__ = ["ranked", "sweep_markdown_table", "sweep_table"]

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from flowshield.evaluation.wording import MISSING, number, percent, shield_label

_STATUSES = ("finished", "stopped", "failed")


def ranked(trials: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sorts trials: the finished by their score, then the stopped, then the failed.

    A trial that was stopped early had lost against others at its last epoch; its score is that of
    a shorter training and is compared with its like alone.

    Args:
        trials: The list "trials" of the sweep's results.json.
    """
    return sorted((dict(trial) for trial in trials), key=_place)


def sweep_table(results: Mapping[str, Any]) -> Table:
    """One row a trial, the best first.

    Args:
        results: The content of the sweep's results.json; "trials" in the order of their rank.
    """
    heading, *rows = _rows(results["trials"])
    table = Table(
        title="Trials by score: AUROC of impossible commands, less undue false alarms",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        title_justify="left",
    )
    for name in heading:
        table.add_column(Text(name), justify="left" if name == "shield" else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def sweep_markdown_table(results: Mapping[str, Any]) -> str:
    """The same table in GitHub's Markdown, ending in a newline."""
    heading, *rows = _rows(results["trials"])
    rule = ["---" if name == "shield" else "---:" for name in heading]
    lines = [heading, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _rows(trials: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    keys = list(dict.fromkeys(key for trial in trials for key in trial["parameters"]))
    searched = [key for key in keys if key != "shield"]
    heading = ["#", "shield", *(key.removeprefix("shield.") for key in searched)]
    rows = [[*heading, "epochs", "score", "AUROC", "false alarms", "status"]]
    for rank, trial in enumerate(trials, start=1):
        parameters = trial["parameters"]
        rows.append(
            [
                str(rank),
                shield_label(parameters["shield"]),
                *(_value(parameters.get(key, MISSING)) for key in searched),
                str(trial["epochs"]),
                number(trial["score"], 4),
                number(trial["auc_roc"], 4),
                percent(trial["false_alarm_rate"], 1),
                trial["status"],
            ]
        )
    return rows


def _value(value: Any) -> str:
    if value is None:
        return "null"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _place(trial: Mapping[str, Any]) -> tuple[int, float, str]:
    score = trial["score"]
    return _STATUSES.index(trial["status"]), math.inf if score is None else -score, trial["trial"]
