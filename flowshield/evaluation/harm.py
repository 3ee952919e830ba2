"""Does a guard help or harm? Read off the cells: utility and crashes, paired with no guard.

Every episode's utility is computed by the run's intent (see `flowshield.models.intent`). In each
cell the same starts with and without the guard are compared: mean utility by the sign-flip test,
crashes by McNemar's exact test. All tests of an evaluation are one family, adjusted by Holm: with
probability 95% none of the differences that are called beyond chance is chance.
"""

__all__ = ["LEVEL", "Change", "Changes", "compare", "intent_of"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from flowshield.evaluation.cell_grid import UNSHIELDED, CellGrid, Command
from flowshield.evaluation.statistics import PairedTest, holm, mcnemar_test, sign_flip_test
from flowshield.models.intent import Intent

LEVEL: Final = 0.05


@dataclass(frozen=True)
class Change:
    """What a guard changed in one cell.

    Attributes:
        shield: Whose guard.
        command: The request.
        utility: Mean utility with it minus without it, raw reward.
        utility_sign: 1 where the utility is higher beyond chance, -1 where it is lower, else 0.
        crash_rate: Share that crashed with it minus without it; None where that is unknown.
        crash_sign: 1 where fewer crash beyond chance, -1 where more do, else 0.
    """

    shield: str
    command: Command
    utility: float
    utility_sign: int
    crash_rate: float | None
    crash_sign: int

    @property
    def sign(self) -> int:
        """-1 where either is worse beyond chance, 1 where one is better and none worse, else 0."""
        signs = (self.utility_sign, self.crash_sign)
        return -1 if -1 in signs else max(signs)


@dataclass(frozen=True)
class Changes:
    """All cells that could be compared with no guard.

    Attributes:
        intent: By which utility was computed.
        cells: In the order of the grid's shields and commands.
        n_left_out: Cells that lack the episodes' returns or lengths, or have nothing to be
            compared with.
        can_tell: Whether so few episodes can show anything: the strongest difference would be
            beyond chance.
    """

    intent: Intent
    cells: tuple[Change, ...]
    n_left_out: int
    can_tell: bool

    @property
    def harmed(self) -> tuple[Change, ...]:
        """Cells that are worse beyond chance."""
        return tuple(cell for cell in self.cells if cell.sign < 0)

    @property
    def helped(self) -> tuple[Change, ...]:
        """Cells that are better beyond chance, and in nothing worse."""
        return tuple(cell for cell in self.cells if cell.sign > 0)

    @property
    def worst(self) -> Change | None:
        """The cell whose mean utility fell most; None where it fell in none."""
        lowest = min(self.cells, key=lambda cell: cell.utility, default=None)
        return lowest if lowest is not None and lowest.utility < 0 else None


def compare(results: Mapping[str, Any], grid: CellGrid) -> Changes:
    """Compares every cell with a guard with the one without.

    Args:
        results: The content of results.json; of an older release, which had no entry "guard", the
            intent is at_least.
        grid: Its cells.
    """
    intent = intent_of(results)
    pairs = [
        (shield, command, cell, grid.cell(UNSHIELDED, command))
        for shield in grid.shields
        if shield != UNSHIELDED
        for command, cell in grid.row(shield)
    ]
    found = [
        (shield, command, *pair)
        for shield, command, cell, alone in pairs
        if alone is not None and (pair := _tests(intent, command, cell, alone)) is not None
    ]
    tests = [test for *_, utility, crash in found for test in (utility, crash) if test is not None]
    signs = iter(_signs(tests))
    cells = [
        Change(
            shield,
            command,
            utility.mean_difference,
            next(signs),
            None if crash is None else crash.mean_difference,
            0 if crash is None else -next(signs),
        )
        for shield, command, utility, crash in found
    ]
    fewest = min((test.n for test in tests), default=0)
    # of n differences the strongest has p = 2 / 2^n in either test
    can_tell = bool(tests) and len(tests) * 2.0 ** (1 - fewest) <= LEVEL
    return Changes(intent, tuple(cells), len(pairs) - len(cells), can_tell)


def intent_of(results: Mapping[str, Any]) -> Intent:
    """The intent by which a run was guarded, with its cost of a step."""
    guard = results.get("guard") or {}
    kind = guard.get("intent", "at_least")
    return Intent(kind, float(guard.get("step_cost", 0.0)) if kind == "exact" else 0.0)


def _tests(
    intent: Intent, command: Command, cell: Mapping[str, Any], alone: Mapping[str, Any]
) -> tuple[PairedTest, PairedTest | None] | None:
    """Of utility and of crashes, each guarded minus unguarded; None where utility is unknown."""
    with_it, without = (_utilities(intent, command, one) for one in (cell, alone))
    if with_it is None or without is None:
        return None
    crashed, before = cell.get("crashed"), alone.get("crashed")
    crash = mcnemar_test(crashed, before) if crashed and before else None
    return sign_flip_test(with_it, without), crash


def _utilities(intent: Intent, command: Command, cell: Mapping[str, Any]) -> list[float] | None:
    returns = cell.get("returns")
    steps = cell.get("lengths") if intent.step_cost else [0.0] * len(returns or ())
    if not returns or not steps:
        return None
    numbers = (torch.tensor(one, dtype=torch.float64) for one in (returns, steps, command))
    found: list[float] = intent.utility(*numbers).tolist()
    return found


def _signs(tests: list[PairedTest]) -> list[int]:
    """The direction of each difference that is beyond chance, else 0."""
    if not tests:
        return []
    adjusted = holm([test.p_value for test in tests])
    return [
        0 if p > LEVEL else 1 if test.mean_difference > 0 else -1
        for p, test in zip(adjusted, tests, strict=True)
    ]
