"""The verdict in words: what fails without a shield, and what the shields change."""

__all__ = ["failure_finding", "fix_finding"]

from collections.abc import Mapping
from typing import Any

from flowshield.counted import counted
from flowshield.evaluation.cell_grid import UNSHIELDED, CellGrid, Command
from flowshield.evaluation.finding import Finding
from flowshield.evaluation.harm import Changes
from flowshield.evaluation.statistics import clopper_pearson
from flowshield.evaluation.verdict import MAX_CRASH_RATE, SHORTFALL, ShieldVerdict, Verdict
from flowshield.evaluation.wording import (
    MISSING,
    command_label,
    interval_words,
    is_known,
    listed,
    number,
    percent,
    percent_interval,
    shield_label,
)


def failure_finding(verdict: Verdict | None, grid: CellGrid, decimals: int) -> Finding:
    """What fails without a shield, by which rule, and what may fail.

    Args:
        verdict: None where nothing was evaluated without a shield.
        grid: The cells that it was read off.
        decimals: With which returns are written.
    """
    question = "Is there a failure to fix?"
    if verdict is None:
        return Finding(question, "unknown", "nothing was evaluated without a shield")
    best = verdict.reference
    rule = (
        f"A command fails if even the lower end of the interval of its crashes is above "
        f"{percent(MAX_CRASH_RATE)}, or if even "
        "the upper end of its return's interval is below the lower of what was asked and the best "
        f"cell without a shield ({number(best, decimals + 1)}) by more than {percent(SHORTFALL)} "
        f"of that cell ({number(SHORTFALL * abs(best), decimals + 1)})."
    )
    doubtful = [c for c in _crashing(grid, UNSHIELDED) if c not in verdict.failures]
    doubts = "; ".join(_cell_text(grid, UNSHIELDED, command, decimals) for command in doubtful)
    doubts = f" Not shown to fail, but above {percent(MAX_CRASH_RATE)}: {doubts}." if doubts else ""
    if not verdict.failures:
        commands = counted(verdict.n_commands, "command")
        answer = f"none of {commands} is shown to fail without a shield"
        return Finding(question, answer, f"{rule}{doubts}", "plain" if doubtful else "good")
    told = "; ".join(
        _cell_text(grid, UNSHIELDED, command, decimals) for command in verdict.failures
    )
    n = len(verdict.failures)
    count = f"{n} of {counted(verdict.n_commands, 'command')}"
    answer = f"yes: {count} {'fails' if n == 1 else 'fail'} without a shield"
    return Finding(question, answer, f"{told}. {rule}{doubts}", "bad")


def fix_finding(
    verdict: Verdict | None, grid: CellGrid, decimals: int, changes: Changes
) -> Finding:
    """Which shields fix it, alike, and what they break.

    Args:
        verdict: None where nothing was evaluated without a shield.
        grid: The cells that it was read off.
        decimals: With which returns are written.
        changes: What the guards change: where one does harm, there is something to fix.
    """
    question = "Which shield fixes it?"
    if verdict is None or not verdict.shields:
        return Finding(question, "unknown", "no shield was compared with none")
    if not verdict.failures:
        broken = "; ".join(_broken(shield) for shield in verdict.shields if shield.broken)
        if broken or changes.harmed:
            harmful = dict.fromkeys(s.shield for s in verdict.shields if s.broken)
            harmful |= dict.fromkeys(change.shield for change in changes.harmed)
            names = listed([shield_label(name) for name in harmful])
            answer = f"no command fails without one, and {names} {_does(len(harmful))} harm"
            return Finding(question, answer, broken, "bad")
        return Finding(
            question, "nothing to fix", "no shield makes a command fail beyond chance either"
        )
    first, total = verdict.shields[0], len(verdict.failures)
    told = "; ".join(
        _cell_text(grid, first.shield, command, decimals) for command in verdict.failures
    )
    detail = (
        f"With {shield_label(first.shield)}: {told}. All: "
        f"{'; '.join(_tally(shield, total) for shield in verdict.shields)}. A fix or a break is "
        "counted where the same starts with and without the shield differ beyond chance, at 5% "
        "each."
    )
    if not verdict.best:
        return Finding(question, _none(verdict), detail, "bad")
    names = listed([shield_label(shield.shield) for shield in verdict.best])
    alike = " alike" if len(verdict.best) > 1 else ""
    answer = f"{names}{alike}: {len(first.fixed)} of {total}{_and_more(first)}"
    crashing = {c for s in verdict.best for c in _crashing(grid, s.shield)}
    good = len(first.fixed) == total and not first.broken and not crashing
    return Finding(question, answer, detail, "good" if good else "plain")


def _none(verdict: Verdict) -> str:
    """That no shield fixes anything, and which do harm."""
    names = [shield_label(shield.shield) for shield in verdict.shields]
    harmful = [shield_label(s.shield) for s in verdict.shields if s.broken or s.worsened]
    chance = " beyond chance" if any(shield.unsure for shield in verdict.shields) else ""
    if len(names) == 1:
        return f"{names[0]} does not{chance}{', and does harm' if harmful else ''}"
    none = f"none{chance or ' of them'}"
    if not harmful:
        return none
    return f"{none}; {f'{harmful[0]} does' if len(harmful) == 1 else 'some do'} harm"


def _does(n: int) -> str:
    return "does" if n == 1 else "do"


def _crashing(grid: CellGrid, shield: str) -> list[Command]:
    """The commands of which more crashed than may, whether chance explains it or not."""
    return [c for c, cell in grid.row(shield) if (cell.get("crash_rate") or 0) > MAX_CRASH_RATE]


def _cell_text(grid: CellGrid, shield: str, command: Command, decimals: int) -> str:
    cell = grid.cell(shield, command)
    if cell is None:
        return f"{command_label(command)} was not tried"
    mean, low, high = (cell.get(f"return_{end}") for end in ("mean", "low", "high"))
    ends = interval_words(low, high, decimals, cell.get("n_episodes"))
    returns = number(mean, decimals) + ("" if ends == MISSING else f" ({ends})")
    return f"{command_label(command)} returns {returns}{_crashed(cell)}"


def _crashed(cell: Mapping[str, Any]) -> str:
    """The share that crashed, with Clopper and Pearson's interval."""
    rate, n = cell.get("crash_rate"), cell.get("n_episodes")
    if not is_known(rate):
        return ""
    if not n:
        return f", {percent(rate)} crash"
    return f", {percent(rate)} crash ({percent_interval(*clopper_pearson(round(rate * n), n), 0)})"


def _tally(shield: ShieldVerdict, total: int) -> str:
    return f"{shield_label(shield.shield)} fixes {len(shield.fixed)} of {total}{_and_more(shield)}"


def _and_more(shield: ShieldVerdict) -> str:
    unsure = f", {len(shield.unsure)} perhaps by chance" if shield.unsure else ""
    harm = [
        f"{verb} {len(commands)}"
        for verb, commands in (("breaks", shield.broken), ("worsens", shield.worsened))
        if commands
    ]
    return f"{unsure}, but {' and '.join(harm)}" if harm else unsure


def _broken(shield: ShieldVerdict) -> str:
    commands = ", ".join(map(command_label, shield.broken))
    return f"{shield_label(shield.shield)} makes {commands} fail"
