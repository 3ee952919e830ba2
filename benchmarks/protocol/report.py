"""One results file, the tables and the figures of what a call asked for."""

__all__ = ["write_report"]

import dataclasses
import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from flowshield import __version__
from flowshield.atomic import atomic_write
from flowshield.evaluation.wording import percent
from flowshield.machine import machine
from protocol.figures import draw
from protocol.results import Results, asked_for
from protocol.schedule import Context
from protocol.settings import SPLIT
from protocol.tables import all_tables

_ROW_WISE = ("nll_rows", "history", "returns", "crashed")  # in the parts, too long for the merged
_DIGITS = 6  # significant ones, in the merged file


def write_report(context: Context, parts: Sequence[str], command: str) -> str:
    """Writes results.json, tables.md and figures/ of what this call asked for.

    Args:
        context: Settings and folder.
        parts: Of the call.
        command: What the user typed, without paths of this machine: the files are to be shown.

    Returns:
        The text of tables.md.
    """
    folder, results = context.folder, asked_for(context, parts)
    where = f"{machine()}, torch {version('torch')}"
    text = _introduction(results) + all_tables(results, command, where)
    with atomic_write(folder / "results.json") as file:
        file.write(_merged(results, command).encode())
    with atomic_write(folder / "tables.md") as file:
        file.write(text.encode())
    draw(results, folder / "figures")
    return text


def _introduction(results: Results) -> str:
    """How many episodes each table rests on, for the datasets that there are tables of."""
    settings, collected = results.settings, {key.dataset for key in results.of("data")}
    shares = ", ".join(f"{name} {percent(share)}" for name, share in SPLIT.items())
    sizes = []
    if collected & set(settings.datasets):
        sizes.append(f"{settings.n_episodes:,} episodes in each of the LunarLander datasets")
    if collected & set(settings.known):
        sizes += [f"{settings.n_collected(env):,} of {env}" for env in settings.known]
    text = f"# Achievability\n\n{', '.join(sizes)}, split by episode into {shares}, anew for each "
    text += "training seed. "
    if results.of("calibration"):
        text += (
            f"Realised false alarms are those of {settings.n_fresh:,} fresh episodes a dataset, "
            f"per whole episode of {settings.n_whole:,} of them; further calibration episodes are "
            f"{settings.n_more:,}. "
        )
    return (
        f"{text}± is half a 95% t-interval over the training seeds; where all gave the same "
        "number, there is none.\n\n"
    )


def _merged(results: Results, command: str) -> str:
    """All records in JSON, one a line."""
    about = {
        "command": command,
        "machine": machine(),
        "versions": {"flowshield": __version__, "torch": version("torch")},
        "settings": dataclasses.asdict(results.settings),
    }
    parts = [
        f"{json.dumps(part)}: [\n"
        + ",\n".join(_line({"key": list(key), **record}) for key, record in records.items())
        + "\n]"
        for part, records in results.parts.items()
    ]
    head = ",\n".join(f"{json.dumps(word)}: {_line(value)}" for word, value in about.items())
    return f'{{{head},\n"results": {{\n' + ",\n".join(parts) + "\n}}\n"


def _line(value: Any) -> str:
    return json.dumps(_short(value), allow_nan=False)


def _short(value: Any) -> Any:
    """Without what is row by row, to six digits; what is not a finite number as null."""
    if isinstance(value, dict):
        return {key: _short(entry) for key, entry in value.items() if key not in _ROW_WISE}
    if isinstance(value, (list, tuple)):
        return [_short(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if abs(value) < float("inf") else None
    return value
