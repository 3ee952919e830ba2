"""One results file, the tables and the figures of whatever is on file."""

__all__ = ["write_report"]

import dataclasses
from importlib.metadata import version
from typing import Any

from flowshield import __version__
from flowshield.atomic import atomic_write
from flowshield.evaluation.wording import percent
from flowshield.run_folder import machine, write_json
from protocol.figures import draw
from protocol.schedule import Context
from protocol.settings import PARTS, SPLIT
from protocol.tables import all_tables

_ROW_WISE = ("nll_rows", "history", "returns", "crashed")  # in the parts, too long for the merged


def write_report(context: Context, command: str) -> str:
    """Writes results.json, tables.md and figures/.

    Args:
        context: Settings and folder.
        command: What the user typed.

    Returns:
        The text of tables.md.
    """
    store, settings = context.store, context.settings
    about = {
        "command": command,
        "machine": machine(),
        "versions": {"flowshield": __version__, "torch": version("torch")},
        "settings": dataclasses.asdict(settings),
    }
    results = {
        part: [{"key": list(key), **_short(record)} for key, record in store.records(part).items()]
        for part in ("data", *PARTS)
    }
    write_json(store.folder / "results.json", {**about, "results": results})
    seeds = ", ".join(map(str, settings.seeds))
    source = f"*`{command}`; training seeds {seeds}; {machine()}, torch {version('torch')}.*"
    text = (
        f"# Achievability\n\n{settings.n_episodes:,} episodes a dataset, split by episode into "
        + ", ".join(f"{name} {percent(share)}" for name, share in SPLIT.items())
        + ", anew for each training seed. ± is half a 95% t-interval over the training seeds.\n\n"
        + all_tables(settings, store, source)
    )
    with atomic_write(store.folder / "tables.md") as file:
        file.write(text.encode())
    draw(settings, store)
    return text


def _short(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in _ROW_WISE}
