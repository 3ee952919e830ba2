"""Tables in Markdown, and how the benchmark writes a number over its training seeds."""

__all__ = [
    "Table",
    "mean_text",
    "ordered",
    "percent_mean",
    "percent_text",
    "plain_text",
]

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flowshield.evaluation.wording import MISSING, all_equal, number, percent, plus_minus
from protocol.aggregate import Mean
from protocol.settings import Settings


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: Its heading.
        head: Names of the columns.
        rows: Cells.
        seeds: The training seeds that it was made from.
        note: A sentence below it, or nothing.
        align: Of all columns but the first, in Markdown.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    seeds: tuple[int, ...]
    note: str = ""
    align: str = "---:"

    def text(self, command: str, machine: str) -> str:
        """The table with the line that says where it is from."""
        lines = [
            list(self.head),
            ["---", *[self.align] * (len(self.head) - 1)],
            *map(list, self.rows),
        ]
        body = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        many = len(self.seeds) > 1
        seeds = f"training seed{'s' if many else ''} {', '.join(map(str, self.seeds))}"
        source = f"*`{command}`; {seeds}{'' if many else ' only'}; {machine}.*"
        note = f"{self.note}\n\n" if self.note else ""
        return f"### {self.title}\n\n{body}\n{note}{source}\n"


def ordered(models: Iterable[str], settings: Settings) -> list[str]:
    """Ours first, then peers, then controls, each once."""
    order = [*settings.shields, *settings.peers, *settings.controls]
    place = {name: i for i, name in enumerate(order)}
    return sorted(set(models), key=lambda n: (place.get(n.split(" ")[0], len(order)), n))


def mean_text(mean: Mean | None, decimals: int) -> str:
    """Mean and half its interval, where there are seeds for one."""
    if mean is None:
        return MISSING
    low, high = mean.value - mean.half_width, mean.value + mean.half_width
    text, equal = plus_minus(mean.value, low, high, decimals), all_equal(low, high)
    return f"{text} ({equal})" if equal else text


def plain_text(mean: Mean | None, decimals: int) -> str:
    """The mean alone."""
    return MISSING if mean is None else number(mean.value, decimals)


def percent_text(mean: Mean | None, decimals: int = 1) -> str:
    """The mean of a share, alone."""
    return MISSING if mean is None else percent(mean.value, decimals)


def percent_mean(mean: Mean | None) -> str:
    """The mean of a share and half its interval, in percentage points."""
    if mean is None or math.isnan(mean.half_width):
        return percent_text(mean)
    half = 100 * mean.half_width
    if equal := all_equal(100 * mean.value - half, 100 * mean.value + half):
        return f"{percent(mean.value, 1)} ({equal})"
    return f"{percent(mean.value, 1)} ±{number(half, 1 if half >= 0.05 else 2)}"
