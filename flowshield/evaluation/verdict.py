"""Is there a failure to fix, and which shield fixes it? Read off the cells, by one stated rule.

The rule: a policy that can bring the return `reference` (its best unshielded cell) is at fault
when it brings neither that nor what it was asked for. A cell *fails* if chance explains it no
more: if even the lower end of the exact interval of its crashes is above 2%, or even the upper end
of its return's interval misses min(asked, reference) by more than 5% of |reference|. A shield
*fixes* a command that fails without it and no longer fails with it, and *breaks* one where it is
the other way round; in either case the same starts with and without it must differ beyond chance,
in mean return (sign-flip test) or in crashes (McNemar's exact test), each at 5% and by itself: of
twenty comparisons in which nothing differs one is taken for a difference.
"""

__all__ = ["MAX_CRASH_RATE", "SHORTFALL", "ShieldVerdict", "Verdict", "judge"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flowshield.evaluation.cell_grid import UNSHIELDED, CellGrid, Command
from flowshield.evaluation.statistics import (
    PairedTest,
    clopper_pearson,
    mcnemar_test,
    sign_flip_test,
)
from flowshield.evaluation.wording import is_known

MAX_CRASH_RATE = 0.02
SHORTFALL = 0.05
_LEVEL = 0.05


@dataclass(frozen=True)
class ShieldVerdict:
    """What one shield did to the commands that fail without it, and to the others.

    Attributes:
        shield: Its name.
        fixed: Commands that failed and, beyond chance, no longer do.
        unsure: Commands that failed and no longer do, which may be chance.
        unfixed: Commands that failed and still do, or were not tried with this shield.
        broken: Commands that fail only with this shield, beyond chance.
        worsened: Commands that fail either way, and with it do worse beyond chance.
        mean_return: Mean over all its cells.
    """

    shield: str
    fixed: tuple[Command, ...]
    unsure: tuple[Command, ...]
    unfixed: tuple[Command, ...]
    broken: tuple[Command, ...]
    worsened: tuple[Command, ...]
    mean_return: float

    @property
    def tally(self) -> tuple[int, int, int]:
        """By which shields are put in order, the lowest first."""
        return -len(self.fixed), len(self.broken) + len(self.worsened), -len(self.unsure)

    @property
    def effects(self) -> tuple[tuple[Command, ...], ...]:
        """What it did to which commands: where that is the same, shields are alike."""
        return self.fixed, self.unsure, self.broken, self.worsened


@dataclass(frozen=True)
class Verdict:
    """The answer of an evaluation.

    Attributes:
        reference: The best mean return of an unshielded cell.
        failures: Commands that fail without a shield.
        n_commands: How many commands were tried without a shield.
        shields: The best first: most fixed, least broken, most that may be fixed, and, for an
            order, highest mean return.
    """

    reference: float
    failures: tuple[Command, ...]
    n_commands: int
    shields: tuple[ShieldVerdict, ...]

    @property
    def best(self) -> tuple[ShieldVerdict, ...]:
        """The first and those that only a mean return tells from it; none if it fixes none."""
        return tuple(s for s in self.shields if s.fixed and s.effects == self.shields[0].effects)


def judge(grid: CellGrid) -> Verdict | None:
    """Applies the rule of this module; None where nothing was evaluated without a shield."""
    unshielded = dict(grid.row(UNSHIELDED))
    if not unshielded:
        return None
    reference = max(float(cell["return_mean"]) for cell in unshielded.values())
    failures = tuple(c for c, cell in unshielded.items() if _fails(cell, reference))
    shields = [
        _judge_shield(grid, name, failures, reference)
        for name in grid.shields
        if name != UNSHIELDED
    ]
    shields.sort(key=lambda v: (*v.tally, -v.mean_return))
    return Verdict(reference, failures, len(unshielded), tuple(shields))


def _judge_shield(
    grid: CellGrid, shield: str, failures: tuple[Command, ...], reference: float
) -> ShieldVerdict:
    row = dict(grid.row(shield))
    still = {command for command, cell in row.items() if _fails(cell, reference)}
    mended = tuple(c for c in failures if c in row and c not in still)
    differs = {
        c: _difference(cell, grid.cell(UNSHIELDED, c))
        for c, cell in row.items()
        if c in failures or c in still  # nothing is asked of the others, and each takes a while
    }
    return ShieldVerdict(
        shield=shield,
        fixed=tuple(c for c in mended if differs[c] > 0),
        unsure=tuple(c for c in mended if differs[c] <= 0),
        unfixed=tuple(c for c in failures if c not in mended),
        broken=tuple(c for c in row if c in still and c not in failures and differs[c] < 0),
        worsened=tuple(c for c in failures if c in still and differs[c] < 0),
        mean_return=sum(float(cell["return_mean"]) for cell in row.values()) / len(row),
    )


def _fails(cell: Mapping[str, Any], reference: float) -> bool:
    if _crashes_at_least(cell) > MAX_CRASH_RATE:
        return True
    high = cell.get("return_high")
    goal = min(float(cell["command"][1]), reference)
    return is_known(high) and bool(high < goal - SHORTFALL * abs(reference))


def _crashes_at_least(cell: Mapping[str, Any]) -> float:
    rate, n = cell.get("crash_rate"), cell.get("n_episodes")
    if not is_known(rate):
        return 0.0
    return clopper_pearson(round(rate * n), n)[0] if n else rate


def _difference(cell: Mapping[str, Any], unshielded: Mapping[str, Any] | None) -> int:
    """1 where the shield is better beyond chance, -1 where it is worse, 0 where neither.

    A shield that brings more return and crashes more is worse.
    """
    pair = (cell, unshielded or {})
    signs = (-_sign(mcnemar_test, "crashed", *pair), _sign(sign_flip_test, "returns", *pair))
    return -1 if -1 in signs else max(signs)


def _sign(
    test: Callable[[Any, Any], PairedTest],
    key: str,
    cell: Mapping[str, Any],
    unshielded: Mapping[str, Any],
) -> int:
    values, without = cell.get(key), unshielded.get(key)
    if not values or not without:
        return 0
    found = test(values, without)
    return 0 if found.p_value >= _LEVEL else 1 if found.mean_difference > 0 else -1
