"""Is there a failure to fix, and which shield fixes it? Read off the cells, by one stated rule.

The rule: a policy that can bring the return `reference` (its best unshielded cell) is at fault
when it brings neither that nor what it was asked for. A cell *fails* if more than 2% of its
episodes crash, or if even the upper end of its interval misses min(asked, reference) by more
than 5% of |reference|. A shield *fixes* a command that fails without it and no longer fails with
it, and *breaks* one where it is the other way round.
"""

__all__ = ["MAX_CRASH_RATE", "SHORTFALL", "ShieldVerdict", "Verdict", "judge"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowshield.evaluation.cell_grid import UNSHIELDED, CellGrid, Command
from flowshield.evaluation.wording import is_known

MAX_CRASH_RATE = 0.02
SHORTFALL = 0.05


@dataclass(frozen=True)
class ShieldVerdict:
    """What one shield did to the commands that fail without it, and to the others.

    Attributes:
        shield: Its name.
        fixed: Commands that failed and no longer do.
        unfixed: Commands that failed and still do, or were not tried with this shield.
        broken: Commands that fail only with this shield.
        mean_return: Mean over all its cells.
    """

    shield: str
    fixed: tuple[Command, ...]
    unfixed: tuple[Command, ...]
    broken: tuple[Command, ...]
    mean_return: float


@dataclass(frozen=True)
class Verdict:
    """The answer of an evaluation.

    Attributes:
        reference: The best mean return of an unshielded cell.
        failures: Commands that fail without a shield.
        n_commands: How many commands were tried without a shield.
        shields: The best first: most fixed, least broken, highest mean return.
    """

    reference: float
    failures: tuple[Command, ...]
    n_commands: int
    shields: tuple[ShieldVerdict, ...]


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
    shields.sort(key=lambda v: (-len(v.fixed), len(v.broken), -v.mean_return))
    return Verdict(reference, failures, len(unshielded), tuple(shields))


def _judge_shield(
    grid: CellGrid, shield: str, failures: tuple[Command, ...], reference: float
) -> ShieldVerdict:
    row = dict(grid.row(shield))
    still = {command for command, cell in row.items() if _fails(cell, reference)}
    fixed = tuple(c for c in failures if c in row and c not in still)
    return ShieldVerdict(
        shield=shield,
        fixed=fixed,
        unfixed=tuple(c for c in failures if c not in fixed),
        broken=tuple(c for c in row if c in still and c not in failures),
        mean_return=sum(float(cell["return_mean"]) for cell in row.values()) / len(row),
    )


def _fails(cell: Mapping[str, Any], reference: float) -> bool:
    crash_rate = cell.get("crash_rate")
    if is_known(crash_rate) and crash_rate > MAX_CRASH_RATE:
        return True
    high = cell.get("return_high")
    best_case = high if is_known(high) else cell["return_mean"]
    goal = min(float(cell["command"][1]), reference)
    return bool(best_case < goal - SHORTFALL * abs(reference))
