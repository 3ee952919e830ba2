"""The cells of an evaluation as a grid: shields down, commands across, the unshielded row first."""

__all__ = ["UNSHIELDED", "CellGrid", "Command"]

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flowshield.errors import DataError

UNSHIELDED = "none"

Command = tuple[float, float]


@dataclass(frozen=True)
class CellGrid:
    """Cells found by shield and command; an evaluation that was cut short leaves holes.

    Attributes:
        commands: (horizon in steps, return), in the order evaluated.
        shields: Names, "none" first if it was evaluated, the rest in the order evaluated.
    """

    commands: tuple[Command, ...]
    shields: tuple[str, ...]
    _cells: Mapping[tuple[str, Command], Mapping[str, Any]]

    @classmethod
    def from_cells(cls, cells: Iterable[Mapping[str, Any]]) -> "CellGrid":
        """Sorts the list `cells` of results.json into a grid.

        Raises:
            DataError: A cell lacks its command or shield, or two cells share both.
        """
        found: dict[tuple[str, Command], Mapping[str, Any]] = {}
        for cell in cells:
            key = _key(cell)
            if key in found:
                raise DataError(f"expected one cell for shield and command, got two of {key}")
            found[key] = cell
        shields = dict.fromkeys(shield for shield, _ in found)
        ordered = sorted(shields, key=lambda name: name != UNSHIELDED)  # a stable sort
        return cls(tuple(dict.fromkeys(command for _, command in found)), tuple(ordered), found)

    def cell(self, shield: str, command: Command) -> Mapping[str, Any] | None:
        """The cell, or None where that pair was not evaluated."""
        return self._cells.get((shield, command))

    def row(self, shield: str) -> Iterator[tuple[Command, Mapping[str, Any]]]:
        """The cells of one shield with their commands, holes left out."""
        for command in self.commands:
            cell = self.cell(shield, command)
            if cell is not None:
                yield command, cell

    @property
    def mean_returns(self) -> list[float | None]:
        """That of every cell; None where it is not known."""
        return [cell.get("return_mean") for cell in self]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """All cells, command by command."""
        for command in self.commands:
            for shield in self.shields:
                cell = self.cell(shield, command)
                if cell is not None:
                    yield cell


def _key(cell: Mapping[str, Any]) -> tuple[str, Command]:
    try:
        horizon, target = cell["command"]
        return str(cell["shield"]), (float(horizon), float(target))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            "expected a cell with 'shield' and 'command': [horizon, return], got one with "
            f"{sorted(cell)}: make the results again with `flowshield evaluate`"
        ) from error
