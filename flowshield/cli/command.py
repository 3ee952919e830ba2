"""What a command of the command line is."""

__all__ = ["Command"]

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from flowshield.progress import Reporter


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds nothing."""


@dataclass(frozen=True)
class Command:
    """One command. Its function imports what it needs itself, so that `--help` is quick.

    Attributes:
        name: What the user types after `flowshield`.
        summary: One line for the list of commands.
        examples: Command lines with a word on each, for its help.
        run: Does it, given the parsed arguments, where to report, and the line as typed. It raises
            a FlowshieldError for what the user can mend.
        add_arguments: Adds its arguments to its parser; `--debug` is there already.
        shows_groups: Whether its help lists the config groups.
    """

    name: str
    summary: str
    examples: str
    run: Callable[[argparse.Namespace, Reporter, str], None]
    add_arguments: Callable[[argparse.ArgumentParser], None] = _no_arguments
    shows_groups: bool = False
