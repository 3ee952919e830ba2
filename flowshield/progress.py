"""What the user sees while work goes on: a line a stage, and a bar where it takes time."""

__all__ = ["Bar", "Bars", "Reporter"]

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

_TABLE_WIDTH = 110
_PLAIN_SECONDS = 10.0  # between two progress lines where there is no terminal


def _is_terminal(console: Console) -> bool:
    """Whether bars can be drawn: a notebook's FORCE_COLOR asks for colours, in files too."""
    return console.is_terminal and console.file.isatty()


class Bar:
    """One running bar; without a terminal, a plain line now and then."""

    def __init__(self, progress: Progress, title: str, total: int) -> None:
        self._progress, self._title, self._total = progress, title, total
        self._task = progress.add_task(title, total=total, note="")
        self._done, self._last = 0, time.monotonic()

    def remove(self) -> None:
        """Shows it no longer."""
        self._progress.remove_task(self._task)

    def advance(self, note: str = "") -> None:
        """One unit is done.

        Args:
            note: What to show beside the bar.
        """
        self._done += 1
        self._progress.update(self._task, advance=1, note=note)
        now = time.monotonic()
        if not _is_terminal(self._progress.console) and now - self._last > _PLAIN_SECONDS:
            self._last = now
            self._progress.console.print(
                f"  {self._title}: {self._done}/{self._total} {note}", markup=False
            )


class Bars:
    """Bars that run at the same time; threads may share them."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Bar]:
        """Shows a bar of `total` units while the body runs."""
        bar = Bar(self._progress, title, total)
        try:
            yield bar
        finally:
            bar.remove()


class Reporter:
    """Prints stages, bars and tables to the terminal, or plain lines to a file.

    Args:
        console: Where to; None = standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True, emoji=False)
        self.named: Callable[[str], str] = str  # how what is printed calls the run's folder
        self.run_dir: str | None = None  # that folder, once there is one
        self.again: Callable[..., str] | None = None  # given options, what to type to go on with it
        self.told = set[str]()  # what stages said
        # a table cut off at 80 columns in a log file says nothing
        self.console.width = max(self.console.width, _TABLE_WIDTH)

    def line(self, text: str) -> None:
        """Prints one line as it is."""
        self.console.print(text, markup=False)

    def stage(self, name: str, text: str) -> None:
        """Says what a stage does, or what it did and where it wrote."""
        self.told.add(text)
        self.console.print(f"[bold]{name}[/bold]", end="  ")
        self.console.print(self.named(text), markup=False)

    def table(self, table: Table) -> None:
        """Prints a table."""
        self.console.print(table)

    @contextmanager
    def bars(self) -> Iterator["Bars"]:
        """Shows any number of bars, one below the other, while the body runs."""
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        terminal = _is_terminal(self.console)
        with Progress(*columns, console=self.console, transient=True, disable=not terminal) as bars:
            yield Bars(bars)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Bar]:
        """Shows a bar of `total` units while the body runs."""
        with self.bars() as bars, bars.bar(title, total) as bar:
            yield bar
