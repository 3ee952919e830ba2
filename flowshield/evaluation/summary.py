"""The first screen of the report: nine questions, answered from the results alone."""

__all__ = ["summarize", "verdict_lines"]

from collections.abc import Mapping
from typing import Any

from flowshield.counted import counted
from flowshield.evaluation.alarm_wording import alarms_finding
from flowshield.evaluation.cell_grid import UNSHIELDED, CellGrid
from flowshield.evaluation.dataset_card import return_decimals
from flowshield.evaluation.finding import Finding, Tone
from flowshield.evaluation.follow_wording import followed_measured, followed_verdict
from flowshield.evaluation.harm import compare
from flowshield.evaluation.harm_wording import harm_finding, help_finding
from flowshield.evaluation.sureness import sureness_finding
from flowshield.evaluation.verdict import Verdict, judge
from flowshield.evaluation.verdict_wording import failure_finding, fix_finding
from flowshield.evaluation.wording import (
    MISSING,
    is_known,
    listed,
    number,
    percent_range,
    shield_label,
)


def summarize(results: Mapping[str, Any], grid: CellGrid) -> list[Finding]:
    """Which data and policy, what fails, what fixes it, help and harm, alarms, what is followed.

    The last of them says how sure the others are.

    Args:
        results: The content of results.json; what is missing is said to be.
        grid: Its cells.
    """
    verdict = judge(grid)
    best = tuple(shield.shield for shield in verdict.best) if verdict else ()
    dataset = results.get("dataset") or {}
    decimals = return_decimals(dataset, grid.mean_returns)
    return [
        _data(dataset),
        _policy((results.get("models") or {}).get("agent") or {}),
        failure_finding(verdict, grid, decimals),
        *_fixed_and_harmed(results, verdict, grid, decimals),
        alarms_finding(_of_the_best(results.get("shields"), best), results.get("alpha")),
        _follows(_of_the_best(results.get("followed"), best)),
        sureness_finding(results, grid),
    ]


def verdict_lines(results: Mapping[str, Any]) -> list[str]:
    """What fails, what fixes it, help, harm and how sure that is, one line each, for the terminal.

    Args:
        results: The content of results.json.
    """
    grid = CellGrid.from_cells(results.get("cells") or [])
    verdict = judge(grid)
    decimals = return_decimals(results.get("dataset") or {}, grid.mean_returns)
    findings = (
        failure_finding(verdict, grid, decimals),
        *_fixed_and_harmed(results, verdict, grid, decimals),
        sureness_finding(results, grid),
    )
    return [f"{found.question} {found.answer}" for found in findings]


def _fixed_and_harmed(
    results: Mapping[str, Any], verdict: Verdict | None, grid: CellGrid, decimals: int
) -> list[Finding]:
    """What fixes the failures, and whether the guard, if there is one, helps and harms."""
    changes = compare(results, grid)
    fixed = fix_finding(verdict, grid, decimals, changes)
    guard = results.get("guard") or {}
    if all(name == UNSHIELDED for name in grid.shields):
        return [fixed]
    return [
        fixed,
        help_finding(changes, grid, decimals),
        harm_finding(changes, guard, grid, decimals),
    ]


def _of_the_best(
    records: Mapping[str, Any] | None, best: tuple[str, ...]
) -> dict[str, Mapping[str, Any]]:
    """The records of the shields that fix most; of every shield where there are no such."""
    found = dict(records or {})
    return {name: found[name] for name in best if name in found} or found


def _data(dataset: Mapping[str, Any]) -> Finding:
    question = "Which data?"
    if not dataset:
        return Finding(question, "not recorded", "")
    mean, std, top = (dataset.get(f"return_{name}") for name in ("mean", "std", "max"))
    decimals = return_decimals(dataset, (mean, top))
    splits = ", ".join(f"{n} {name}" for name, n in (dataset.get("splits") or {}).items())
    detail = (
        f"{counted(dataset.get('n_transitions', MISSING), 'step')}, "
        f"{counted(dataset.get('n_truncated', MISSING), 'episode')} truncated; "
        f"return {number(mean, decimals)} on average, standard deviation "
        f"{number(std, decimals)}, at most {number(top, decimals)}; "
        f"{number(dataset.get('length_mean'), 0)} steps an episode; "
        f"seed {dataset.get('seed', MISSING)}; episodes: {splits or MISSING}"
    )
    episodes = counted(dataset.get("n_episodes", MISSING), "episode")
    behaviour = dataset.get("behaviour", MISSING)
    return Finding(question, f"{episodes} of {dataset.get('env', MISSING)}, {behaviour}", detail)


def _policy(agent: Mapping[str, Any]) -> Finding:
    if not agent:
        return Finding("Which policy?", "not recorded", "")
    epochs = f"epoch {agent.get('best_epoch', MISSING)} of {agent.get('epochs', MISSING)}"
    loss, seconds = number(agent.get("validation_loss"), 4), number(agent.get("seconds"), 1)
    return Finding(
        "Which policy?",
        "command-conditioned (UDRL) agent",
        f"best on held-out episodes at {epochs}, loss {loss}, trained in {seconds} s",
    )


def _follows(followed: Mapping[str, Mapping[str, Any]]) -> Finding:
    """Question C."""
    question = "Does the policy follow what is supported?"
    if not followed:
        return Finding(question, "unknown", "no supported command was rolled out")
    verdicts: dict[str, list[str]] = {}
    for name, record in followed.items():
        verdicts.setdefault(followed_verdict(record), []).append(name)
    told = "; ".join(
        f"{verdict} ({listed(list(map(shield_label, names)))})"
        if len(followed) > 1
        else f"{shield_label(names[0])}: {verdict}"
        for verdict, names in verdicts.items()
    )
    crashes = [record.get("crash_rate") for record in followed.values()]
    if any(map(is_known, crashes)):
        told += f"; {percent_range(crashes, 0)} crash"
    measured = "; ".join(
        f"{shield_label(name)}: {followed_measured(record)}" for name, record in followed.items()
    )
    tones: dict[str, Tone] = {"followed": "good", "not followed": "bad"}
    tone = tones.get(next(iter(verdicts)), "plain") if len(verdicts) == 1 else "plain"
    detail = f"The agent alone, on the returns that each supports at the start: {measured}."
    if any(crashes):
        detail += " Where the data hold crashes, a low return asks for one."
    return Finding(question, told, detail, tone)
