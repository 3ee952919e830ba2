"""Tables of part 5: what the agent brings, guarded by each and by nobody."""

__all__ = ["behaviour", "cell_records", "differences", "guards"]

from collections.abc import Mapping
from typing import Any

from flowshield.evaluation.wording import MISSING, command_label, number
from protocol.aggregate import mean_over_seeds, paired_returns
from protocol.behaviour import command_name
from protocol.markdown import Table, mean_text, percent_text, plain_text
from protocol.results import Results, seeds_of
from protocol.store import Records


def behaviour(results: Results, dataset: str) -> Table | None:
    """Return, worst 5%, crashes and achieved minus commanded, mean over the training seeds."""
    records, commands = results.of("behaviour", dataset), results.settings.commands
    rows = [
        [guard, *(_cell(records, guard, command) for command in commands)]
        for guard in guards(results, dataset)
    ]
    head = ["guard", *map(command_label, commands)]
    title = (
        f"{dataset}: mean return ± t-interval over training seeds; mean of the worst 5%; crashes; "
        "achieved minus commanded"
    )
    return Table(title, head, rows, seeds_of(records)) if rows else None


def differences(results: Results, dataset: str) -> Table | None:
    """Paired with the unguarded agent at the same starts."""
    records, commands = results.of("behaviour", dataset), results.settings.commands
    rows = []
    for guard in guards(results, dataset):
        if guard == "none":
            continue
        found = [paired_returns(records, dataset, guard, command_name(c)) for c in commands]
        texts = [
            f"{number(i.mean, 0)} ({number(i.low, 0)} to {number(i.high, 0)})" if i else MISSING
            for i in found
        ]
        rows.append([guard, *texts])
    head = ["guard", *map(command_label, commands)]
    title = (
        f"{dataset}: return less the unguarded agent's at the same starts (95% bootstrap over "
        "starts, training seeds averaged first)"
    )
    return Table(title, head, rows, seeds_of(records)) if rows else None


def guards(results: Results, dataset: str) -> list[str]:
    """Those that there are cells of, in the order of the settings."""
    here = {key.model for key in results.of("behaviour", dataset)}
    return [guard for guard in results.settings.guards if guard in here]


def cell_records(
    records: Records, guard: str, command: tuple[float, float]
) -> list[Mapping[str, Any]]:
    """One guard's cells of a command, one a seed."""
    wanted = (guard, command_name(command))
    return [record for key, record in records.items() if (key.model, key.detail) == wanted]


def _cell(records: Records, guard: str, command: tuple[float, float]) -> str:
    mine = cell_records(records, guard, command)
    mean = mean_over_seeds(r["return_mean"] for r in mine)
    if mean is None:
        return MISSING
    worst = mean_over_seeds(r["worst_5_percent"] for r in mine)
    crashed = mean_over_seeds(r["crash_rate"] for r in mine)
    return (
        f"{mean_text(mean, 0)}; {plain_text(worst, 0)}; {percent_text(crashed)}; "
        f"{number(mean.value - command[1], 0)}"
    )
