"""The first screen of the report: six questions, answered from the results alone."""

__all__ = ["Answer", "summarize"]

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from flowshield.evaluation.cell_grid import UNSHIELDED, CellGrid, Command
from flowshield.evaluation.follow_wording import followed_lines, followed_verdict
from flowshield.evaluation.statistics import clopper_pearson
from flowshield.evaluation.verdict import (
    MAX_CRASH_RATE,
    SHORTFALL,
    ShieldVerdict,
    Verdict,
    judge,
)
from flowshield.evaluation.wording import (
    MISSING,
    alarm_basis,
    command_label,
    decimals_for,
    is_known,
    number,
    percent,
    percent_interval,
    plus_minus,
    shield_label,
)

Tone = Literal["plain", "good", "bad"]


class Answer(NamedTuple):
    """A question, its answer in a few words, and the numbers behind it."""

    question: str
    answer: str
    detail: str
    tone: Tone = "plain"


def summarize(results: Mapping[str, Any], grid: CellGrid) -> list[Answer]:
    """Which data, which policy, what fails, what fixes it, how often it errs, what is followed.

    Args:
        results: The content of results.json; what is missing is said to be.
        grid: Its cells.
    """
    verdict = judge(grid)
    best = verdict.shields[0] if verdict and verdict.failures and verdict.shields else None
    return [
        _data(results.get("dataset") or {}),
        _policy((results.get("models") or {}).get("agent") or {}),
        _failure(verdict, grid),
        _fix(verdict, grid),
        _false_alarms(results, best),
        _follows(results, best),
    ]


def _data(dataset: Mapping[str, Any]) -> Answer:
    question = "Which data?"
    if not dataset:
        return Answer(question, "not recorded", "")
    mean, std, top = (dataset.get(f"return_{name}") for name in ("mean", "std", "max"))
    decimals = decimals_for((mean, top))
    splits = ", ".join(f"{n} {name}" for name, n in (dataset.get("splits") or {}).items())
    detail = (
        f"{dataset.get('n_transitions', MISSING)} steps, "
        f"{dataset.get('n_truncated', MISSING)} episodes truncated; "
        f"return {number(mean, decimals)} on average, standard deviation "
        f"{number(std, decimals)}, at most {number(top, decimals)}; "
        f"{number(dataset.get('length_mean'), 0)} steps an episode; "
        f"seed {dataset.get('seed', MISSING)}; episodes: {splits or MISSING}"
    )
    episodes = f"{dataset.get('n_episodes', MISSING)} episodes"
    behaviour = dataset.get("behaviour", MISSING)
    return Answer(question, f"{episodes} of {dataset.get('env', MISSING)}, {behaviour}", detail)


def _policy(agent: Mapping[str, Any]) -> Answer:
    if not agent:
        return Answer("Which policy?", "not recorded", "")
    epochs = f"epoch {agent.get('best_epoch', MISSING)} of {agent.get('epochs', MISSING)}"
    loss, seconds = number(agent.get("validation_loss"), 4), number(agent.get("seconds"), 1)
    return Answer(
        "Which policy?",
        "command-conditioned (UDRL) agent",
        f"best on held-out episodes at {epochs}, loss {loss}, trained in {seconds} s",
    )


def _failure(verdict: Verdict | None, grid: CellGrid) -> Answer:
    question = "Is there a failure to fix?"
    if verdict is None:
        return Answer(question, "unknown", "nothing was evaluated without a shield")
    best = verdict.reference
    rule = (
        f"A command fails if more than {percent(MAX_CRASH_RATE)} of its episodes crash, or if even "
        "the upper end of its return's interval is below the lower of what was asked and the best "
        f"cell without a shield ({number(best, 1)}) by more than {percent(SHORTFALL)} of that cell "
        f"({number(SHORTFALL * abs(best), 1)})."
    )
    if not verdict.failures:
        none = f"no: none of {verdict.n_commands} commands fails without a shield"
        return Answer(question, none, rule, "good")
    told = "; ".join(_cell_text(grid, UNSHIELDED, command) for command in verdict.failures)
    count = f"{len(verdict.failures)} of {verdict.n_commands} commands"
    return Answer(question, f"yes: {count} fail without a shield", f"{told}. {rule}", "bad")


def _fix(verdict: Verdict | None, grid: CellGrid) -> Answer:
    question = "Which shield fixes it?"
    if verdict is None or not verdict.shields:
        return Answer(question, "unknown", "no shield was compared with none")
    if not verdict.failures:
        broken = "; ".join(_broken(shield) for shield in verdict.shields if shield.broken)
        harm = broken or "no shield makes a command fail either"
        return Answer(question, "nothing to fix", harm, "bad" if broken else "plain")
    best, total = verdict.shields[0], len(verdict.failures)
    told = "; ".join(_cell_text(grid, best.shield, command) for command in verdict.failures)
    every = "; ".join(
        f"{shield_label(s.shield)} fixes {len(s.fixed)} of {total}{_and_breaks(s)}"
        for s in verdict.shields
    )
    if not best.fixed:
        return Answer(question, "none of them", f"{every}. With {best.shield}: {told}.", "bad")
    answer = f"{shield_label(best.shield)}: {len(best.fixed)} of {total}{_and_breaks(best)}"
    good = not best.unfixed and not best.broken
    return Answer(question, answer, f"{told}. All: {every}.", "good" if good else "plain")


def _false_alarms(results: Mapping[str, Any], best: ShieldVerdict | None) -> Answer:
    """For the shield that fixes most; for every shield where there is no such."""
    shields = results.get("shields") or {}
    names = [best.shield] if best and best.fixed and best.shield in shields else list(shields)
    if not names:
        return Answer("At which false-alarm rate?", "unknown", "no shield was calibrated")
    nominal = percent(results.get("alpha"))
    realised = ", ".join(
        f"{shield_label(n)} {percent((shields[n].get('false_alarms') or {}).get('rate'), 1)}"
        for n in names
    )
    return Answer(
        "At which false-alarm rate?",
        f"set to {nominal}; realised: {realised}",
        "; ".join(_alarm_text(name, shields[name]) for name in names),
    )


def _follows(results: Mapping[str, Any], best: ShieldVerdict | None) -> Answer:
    """Question C, for the shield that fixes most; for every shield where there is no such."""
    question = "Does the policy follow what is supported?"
    followed = results.get("followed") or {}
    if best and best.fixed and best.shield in followed:
        followed = {best.shield: followed[best.shield]}
    if not followed:
        return Answer(question, "unknown", "no supported command was rolled out")
    verdicts = {name: followed_verdict(record) for name, record in followed.items()}
    told = ", ".join(f"{shield_label(name)}: {verdict}" for name, verdict in verdicts.items())
    lines = ". ".join(_upper(line) for line in followed_lines({"followed": followed}))
    good = set(verdicts.values()) == {"followed"}
    bad = set(verdicts.values()) == {"not followed"}
    return Answer(question, told, f"{lines}.", "good" if good else "bad" if bad else "plain")


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _alarm_text(name: str, entry: Mapping[str, Any]) -> str:
    alarms = entry.get("false_alarms") or {}
    interval = percent_interval(alarms.get("low"), alarms.get("high"))
    count = f"{alarms.get('count', MISSING)} of {alarms.get('n', MISSING)}"
    return f"{shield_label(name)}: {count} held-out ({alarm_basis(entry)}), interval {interval}"


def _cell_text(grid: CellGrid, shield: str, command: Command) -> str:
    cell = grid.cell(shield, command)
    if cell is None:
        return f"{command_label(command)} was not tried"
    mean, low, high = (cell.get(f"return_{end}") for end in ("mean", "low", "high"))
    decimals = decimals_for(cell.get("return_mean") for cell in grid)
    returns = plus_minus(mean, low, high, decimals)
    return f"{command_label(command)} returns {returns}{_crashed(cell)}"


def _crashed(cell: Mapping[str, Any]) -> str:
    """The share that crashed, with Clopper and Pearson's interval."""
    rate, n = cell.get("crash_rate"), cell.get("n_episodes")
    if not is_known(rate):
        return ""
    if not n:
        return f", {percent(rate)} crash"
    return f", {percent(rate)} crash ({percent_interval(*clopper_pearson(round(rate * n), n), 0)})"


def _and_breaks(shield: ShieldVerdict) -> str:
    return f", but breaks {len(shield.broken)}" if shield.broken else ""


def _broken(shield: ShieldVerdict) -> str:
    commands = ", ".join(map(command_label, shield.broken))
    return f"{shield_label(shield.shield)} makes {commands} fail"
