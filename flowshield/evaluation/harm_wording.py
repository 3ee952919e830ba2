"""Whether a guard helps and whether it harms, in words, with what is certified."""

__all__ = ["guard_tables", "harm_finding", "help_finding"]

from collections.abc import Mapping
from typing import Any

from flowshield.counted import counted
from flowshield.evaluation.cell_grid import UNSHIELDED, CellGrid
from flowshield.evaluation.certificate import Certificate, certificate_text
from flowshield.evaluation.finding import Finding, Tone
from flowshield.evaluation.harm import LEVEL, Change, Changes
from flowshield.evaluation.report_table import ReportTable
from flowshield.evaluation.wording import (
    MISSING,
    command_label,
    listed,
    number,
    percent,
    shield_label,
    short_number,
)

_TEST = (
    "Utility is what a return is worth to who asked ({intent}: {meaning}). Each cell compares the "
    "same starts with and without the guard: mean utility by the sign-flip test, crashes by "
    "McNemar's exact test. Where the guard changes nothing, the probability that any test "
    f"names a difference is at most {percent(LEVEL)} (Holm)."
)
_MEANING = {
    "at_least": "the return, and no more than was asked",
    "exact": "less by as much as the return misses what was asked, and by late steps",
}


def help_finding(changes: Changes, grid: CellGrid, decimals: int) -> Finding:
    """Which commands the guard makes better, beyond chance.

    Args:
        changes: From `flowshield.evaluation.harm.compare`.
        grid: The cells that they were read off.
        decimals: With which returns are written.
    """
    question = "Does the guard help?"
    if not changes.cells:
        return Finding(question, "unknown", "no guard was compared with none")
    if not changes.helped:
        return Finding(question, f"no cell beyond chance{_family(changes)}", _test(changes))
    told = "; ".join(_cell(change, grid, decimals) for change in changes.helped)
    return Finding(question, f"yes, at {told}", _test(changes), "good")


def harm_finding(
    changes: Changes, guard: Mapping[str, Any], grid: CellGrid, decimals: int
) -> Finding:
    """Which commands the guard makes worse, beyond chance, and what is certified.

    Args:
        changes: From `flowshield.evaluation.harm.compare`.
        guard: The entry "guard" of results.json; empty where it has none.
        grid: The cells that the changes were read off.
        decimals: With which returns are written.
    """
    question = "Does the guard harm?"
    certified = _certified(guard)
    if not changes.cells:
        answer = f"unknown; {certified}" if certified else "unknown"
        return Finding(question, answer, "no guard was compared with none")
    tone: Tone = "bad" if changes.harmed else "plain"
    if changes.harmed:
        told = "; ".join(_cell(change, grid, decimals) for change in changes.harmed)
        answer = f"yes, at {told}"
    elif not changes.can_tell:
        answer = f"too few episodes to tell{_family(changes)}"
    else:
        answer = f"no cell beyond chance{_family(changes)}"
        tone = "good" if certified.startswith("certified") else "plain"
    answer = f"{answer}; {certified}" if certified else answer
    return Finding(question, answer, _worst(changes, decimals), tone)


def guard_tables(
    changes: Changes, guard: Mapping[str, Any], grid: CellGrid, decimals: int
) -> tuple[ReportTable, ReportTable]:
    """What the guard changes, cell by cell, and every certificate with what it assumes.

    Args:
        changes: From `flowshield.evaluation.harm.compare`.
        guard: The entry "guard" of results.json; empty where it has none.
        grid: The cells that the changes were read off.
        decimals: With which utilities are written.
    """
    return _changed(changes, grid, decimals), _certified_table(_certificates(guard))


def _changed(changes: Changes, grid: CellGrid, decimals: int) -> ReportTable:
    beyond = {1: "better", 0: "no", -1: "worse"}
    rows = tuple(
        (
            command_label(change.command),
            shield_label(change.shield),
            percent((grid.cell(change.shield, change.command) or {}).get("replaced")),
            number(change.utility, decimals),
            MISSING if change.crash_rate is None else number(100 * change.crash_rate, 0),
            beyond[change.sign],
        )
        for change in changes.cells
    )
    header = (
        "command",
        "shield",
        "episodes with a replaced command",
        "utility minus no guard",
        "crashes minus no guard, points",
        "beyond chance",
    )
    return ReportTable("Help and harm", _test(changes), header, rows, n_labels=2)


def _certified_table(certificates: Mapping[str, Certificate]) -> ReportTable:
    told = {name: certificate_text(found).splitlines() for name, found in certificates.items()}
    assumed = dict.fromkeys(a for found in certificates.values() for a in found.assumptions)
    rows = tuple((shield_label(name), lines[0]) for name, lines in told.items())
    note = f"What is said here assumes: {' '.join(assumed)}"
    return ReportTable("Certificates", note, ("shield", "certificate"), rows, prose=True)


def _cell(change: Change, grid: CellGrid, decimals: int) -> str:
    """What a command got without and with the guard: "(50, 200): return 137 -> 434"."""
    pair = [grid.cell(name, change.command) or {} for name in (UNSHIELDED, change.shield)]
    returns = " → ".join(number(cell.get("return_mean"), decimals) for cell in pair)
    rates = [cell.get("crash_rate") for cell in pair]
    crashes = " → ".join(map(percent, rates)) if change.crash_sign and None not in rates else ""
    name = shield_label(change.shield)
    told = f"{command_label(change.command)} with {name}: return {returns}"
    return f"{told}, crashes {crashes}" if crashes else told


def _family(changes: Changes) -> str:
    return f" ({counted(len(changes.cells), 'cell')}, Holm {percent(LEVEL)})"


def _test(changes: Changes) -> str:
    kind = changes.intent.kind
    left_out = (
        f" {counted(changes.n_left_out, 'cell')} could not be compared: an older release "
        "recorded no lengths of episodes there."
        if changes.n_left_out
        else ""
    )
    return _TEST.format(intent=kind, meaning=_MEANING[kind]) + left_out


def _worst(changes: Changes, decimals: int) -> str:
    worst = changes.worst
    if worst is None:
        return "Mean utility falls in no cell."
    return (
        f"Mean utility falls most at {command_label(worst.command)} with "
        f"{shield_label(worst.shield)}: by {number(-worst.utility, decimals + 1)}."
    )


def _certified(guard: Mapping[str, Any]) -> str:
    """What is certified, shields of which the same is said named together; else empty."""
    told: dict[str, list[str]] = {}
    for name, certificate in _certificates(guard).items():
        told.setdefault(_in_short(certificate), []).append(shield_label(name))
    if len(told) == 1:
        return next(iter(told))
    return "; ".join(f"{listed(names)}: {text}" for text, names in told.items())


def _in_short(certificate: Certificate) -> str:
    allowed = _percent(certificate.epsilon)
    if certificate.chosen is not None:
        worth = short_number(float(f"{certificate.epsilon * certificate.return_range:.2g}"))
        failures = certificate.tests[0].mean_failure_harm is not None
        return (
            f"certified: mean harm at most {allowed} of the returns' range ({worth})"
            f"{f' and at most {allowed} more failures' if failures else ''} with "
            f"{_percent(1 - certificate.delta)} confidence"
        )
    enough = certificate.episodes_that_would_do
    advice = f": about {enough} episodes would do" if enough is not None else ""
    return f"nothing is certified, so it replaces nothing{advice}"


def _percent(share: float) -> str:
    return f"{short_number(float(f'{100 * share:.4g}'))}%"


def _certificates(guard: Mapping[str, Any]) -> dict[str, Certificate]:
    found = guard.get("certificates") or {}
    return {name: Certificate.from_json(content) for name, content in found.items()}
