"""The first screen of the report: seven questions, answered from the results alone."""

__all__ = ["Answer", "summarize", "verdict_lines"]

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from flowshield.evaluation.cell_grid import UNSHIELDED, CellGrid, Command
from flowshield.evaluation.follow_wording import followed_measured, followed_verdict
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
    shield_label,
)
from flowshield.models.shields.calibration import highest_expected_rate

Tone = Literal["plain", "good", "bad"]

_FEW = 0.1  # episodes are few where none of them crashed and more than this may
_FEW_CALIBRATED = 100  # at 5%, a hundred leave the realised rate between 1.6% and 10%


class Answer(NamedTuple):
    """A question, its answer in a few words, and the numbers behind it."""

    question: str
    answer: str
    detail: str
    tone: Tone = "plain"


def summarize(results: Mapping[str, Any], grid: CellGrid) -> list[Answer]:
    """Which data and policy, what fails, what fixes it, how often it errs, what is followed.

    The last of the seven says how sure the others are.

    Args:
        results: The content of results.json; what is missing is said to be.
        grid: Its cells.
    """
    verdict = judge(grid)
    best = tuple(shield.shield for shield in verdict.best) if verdict else ()
    return [
        _data(results.get("dataset") or {}),
        _policy((results.get("models") or {}).get("agent") or {}),
        _failure(verdict, grid),
        _fix(verdict, grid),
        _false_alarms(_of_the_best(results.get("shields"), best), results.get("alpha")),
        _follows(_of_the_best(results.get("followed"), best)),
        _sureness(results, grid),
    ]


def verdict_lines(results: Mapping[str, Any]) -> list[str]:
    """What fails, what fixes it and how sure that is, one line each, for the terminal.

    Args:
        results: The content of results.json.
    """
    grid = CellGrid.from_cells(results.get("cells") or [])
    verdict = judge(grid)
    answers = (_failure(verdict, grid), _fix(verdict, grid), _sureness(results, grid))
    return [f"{answer.question} {answer.answer}" for answer in answers]


def _of_the_best(
    records: Mapping[str, Any] | None, best: tuple[str, ...]
) -> dict[str, Mapping[str, Any]]:
    """The records of the shields that fix most; of every shield where there are no such."""
    found = dict(records or {})
    return {name: found[name] for name in best if name in found} or found


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
        f"A command fails if even the lower end of the interval of its crashes is above "
        f"{percent(MAX_CRASH_RATE)}, or if even "
        "the upper end of its return's interval is below the lower of what was asked and the best "
        f"cell without a shield ({number(best, 1)}) by more than {percent(SHORTFALL)} of that cell "
        f"({number(SHORTFALL * abs(best), 1)})."
    )
    doubtful = [c for c in _crashing(grid, UNSHIELDED) if c not in verdict.failures]
    doubts = "; ".join(_cell_text(grid, UNSHIELDED, command) for command in doubtful)
    doubts = f" Not shown to fail, but above {percent(MAX_CRASH_RATE)}: {doubts}." if doubts else ""
    if not verdict.failures:
        answer = f"none of {verdict.n_commands} commands is shown to fail without a shield"
        return Answer(question, answer, f"{rule}{doubts}", "plain" if doubtful else "good")
    told = "; ".join(_cell_text(grid, UNSHIELDED, command) for command in verdict.failures)
    count = f"{len(verdict.failures)} of {verdict.n_commands} commands"
    detail = f"{told}. {rule}{doubts}"
    return Answer(question, f"yes: {count} fail without a shield", detail, "bad")


def _crashing(grid: CellGrid, shield: str) -> list[Command]:
    """The commands of which more crashed than may, whether chance explains it or not."""
    return [c for c, cell in grid.row(shield) if (cell.get("crash_rate") or 0) > MAX_CRASH_RATE]


def _fix(verdict: Verdict | None, grid: CellGrid) -> Answer:
    question = "Which shield fixes it?"
    if verdict is None or not verdict.shields:
        return Answer(question, "unknown", "no shield was compared with none")
    if not verdict.failures:
        broken = "; ".join(_broken(shield) for shield in verdict.shields if shield.broken)
        harm = broken or "no shield makes a command fail beyond chance either"
        return Answer(question, "nothing to fix", harm, "bad" if broken else "plain")
    first, total = verdict.shields[0], len(verdict.failures)
    told = "; ".join(_cell_text(grid, first.shield, command) for command in verdict.failures)
    detail = (
        f"With {shield_label(first.shield)}: {told}. All: "
        f"{'; '.join(_tally(shield, total) for shield in verdict.shields)}. A fix or a break is "
        "counted where the same starts with and without the shield differ beyond chance, at 5% "
        "each."
    )
    if not verdict.best:
        unsure = any(shield.unsure for shield in verdict.shields)
        does_harm = any(shield.broken or shield.worsened for shield in verdict.shields)
        none = "none beyond chance" if unsure else "none of them"
        return Answer(question, f"{none}; some do harm" if does_harm else none, detail, "bad")
    names = _listed([shield_label(shield.shield) for shield in verdict.best])
    alike = " alike" if len(verdict.best) > 1 else ""
    answer = f"{names}{alike}: {len(first.fixed)} of {total}{_and_more(first)}"
    crashing = {c for s in verdict.best for c in _crashing(grid, s.shield)}
    good = len(first.fixed) == total and not first.broken and not crashing
    return Answer(question, answer, detail, "good" if good else "plain")


def _false_alarms(shields: Mapping[str, Mapping[str, Any]], alpha: float | None) -> Answer:
    question = "At which false-alarm rate, and how much is detected?"
    if not shields:
        return Answer(question, "unknown", "no shield was calibrated")
    realised, starts = (
        _percents(entry.get(key) for entry in shields.values())
        for key in ("false_alarms", "start_states")
    )
    found = _range([_detected(entry) for entry in shields.values()], 1)
    counted = "; ".join(_alarm_text(name, entry) for name, entry in shields.items())
    promised = ". ".join(dict.fromkeys(_promise_text(entry) for entry in shields.values()))
    above = _above(shields, "false_alarms", "More than that")
    above += _above(shields, "start_states", "More than that at starts")
    return Answer(
        question,
        f"set to {percent(alpha)}; realised: {realised}; at starts of episodes: {starts}; "
        f"impossible commands flagged: {found}",
        f"{counted}. {promised}.{above} Nothing was promised of starts alone, where commands are "
        "given.",
        "bad" if any(_exceeds(entry, "false_alarms") for entry in shields.values()) else "plain",
    )


def _above(shields: Mapping[str, Mapping[str, Any]], key: str, told: str) -> str:
    names = [shield_label(name) for name, entry in shields.items() if _exceeds(entry, key)]
    return f" {told}: {_listed(names)}." if names else ""


def _detected(entry: Mapping[str, Any]) -> float | None:
    rate: float | None = (entry.get("detection") or {}).get("detection_rate")
    return rate


def _follows(followed: Mapping[str, Mapping[str, Any]]) -> Answer:
    """Question C."""
    question = "Does the policy follow what is supported?"
    if not followed:
        return Answer(question, "unknown", "no supported command was rolled out")
    verdicts: dict[str, list[str]] = {}
    for name, record in followed.items():
        verdicts.setdefault(followed_verdict(record), []).append(name)
    told = "; ".join(
        f"{verdict} ({_listed(list(map(shield_label, names)))})"
        if len(followed) > 1
        else f"{shield_label(names[0])}: {verdict}"
        for verdict, names in verdicts.items()
    )
    crashes = [record.get("crash_rate") for record in followed.values()]
    if any(map(is_known, crashes)):
        told += f"; {_range(crashes, 0)} crash"
    measured = "; ".join(
        f"{shield_label(name)}: {followed_measured(record)}" for name, record in followed.items()
    )
    tones: dict[str, Tone] = {"followed": "good", "not followed": "bad"}
    tone = tones.get(next(iter(verdicts)), "plain") if len(verdicts) == 1 else "plain"
    detail = f"The agent alone, on the returns that each supports at the start: {measured}."
    if any(crashes):
        detail += " Where the data hold crashes, a low return asks for one."
    return Answer(question, told, detail, tone)


def _sureness(results: Mapping[str, Any], grid: CellGrid) -> Answer:
    """What so few episodes and one training seed leave open."""
    question = "How sure is that?"
    counts = [cell["n_episodes"] for cell in grid if cell.get("n_episodes")]
    if not counts:
        return Answer(question, "unknown", "how many episodes there were was not recorded")
    n = min(counts)
    missed = clopper_pearson(0, n)[1]
    splits = (results.get("dataset") or {}).get("splits") or {}
    test, calibration = splits.get("test"), splits.get("calibration")
    few = missed > _FEW or (calibration is not None and calibration < _FEW_CALIBRATED)
    told = "a first look, nothing to decide by: " if few else ""
    crashes = ""
    if any(is_known(cell.get("crash_rate")) for cell in grid):
        crashes = f"No crash in {n} leaves up to {percent(missed, 1)} possible. "
    detail = (
        f"{crashes}False alarms are set by {calibration or MISSING} episodes and counted on "
        f"{test or MISSING}. The intervals are "
        "about more episodes of these very models: another seed trains others, whose returns may "
        "lie outside (run again with another seed=)."
    )
    calibrated = f", {calibration} to calibrate by" if calibration else ""
    answer = f"{told}{n} episodes a cell{calibrated}, one training seed"
    return Answer(question, answer, detail, "bad" if few else "plain")


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _percents(records: Iterable[Mapping[str, Any] | None]) -> str:
    return _range([(record or {}).get("rate") for record in records], 1)


def _range(rates: Iterable[float | None], decimals: int) -> str:
    """The one rate, or the lowest and the highest."""
    known = [rate for rate in rates if is_known(rate)]
    ends = dict.fromkeys(percent(f(known), decimals) for f in (min, max)) if known else [MISSING]
    return " to ".join(ends)


def _alarm_text(name: str, entry: Mapping[str, Any]) -> str:
    alarms, starts = (_counted(entry.get(key) or {}) for key in ("false_alarms", "start_states"))
    found = percent(_detected(entry), 1)
    return f"{shield_label(name)} {alarms}, at starts {starts}, impossible {found}"


def _promise_text(entry: Mapping[str, Any]) -> str:
    basis, limit = f"Promised of {alarm_basis(entry)}", _chance(entry)
    if limit is None:
        return basis
    return (
        f"{basis}; {entry['n_calibration']} calibration and {entry['false_alarms']['n']} held-out "
        f"episodes leave up to {percent(limit, 1)} to chance"
    )


def _exceeds(entry: Mapping[str, Any], key: str) -> bool:
    limit = _chance(entry, key)
    return limit is not None and bool(entry[key]["rate"] > limit)


def _chance(entry: Mapping[str, Any], key: str = "false_alarms") -> float | None:
    """The rate that a kept promise exceeds once in 40 times; None for groups, which overlap."""
    alarms, n, alpha = entry.get(key) or {}, entry.get("n_calibration"), entry.get("alpha")
    groups = len((entry.get("calibration") or {}).get("thresholds") or ())
    if groups > 1 or not (n and alpha and alarms.get("n")):
        return None
    return highest_expected_rate(n, alpha, alarms["n"])


def _counted(alarms: Mapping[str, Any]) -> str:
    interval = percent_interval(alarms.get("low"), alarms.get("high"))
    return f"{alarms.get('count', MISSING)} of {alarms.get('n', MISSING)} ({interval})"


def _cell_text(grid: CellGrid, shield: str, command: Command) -> str:
    cell = grid.cell(shield, command)
    if cell is None:
        return f"{command_label(command)} was not tried"
    mean, low, high = (cell.get(f"return_{end}") for end in ("mean", "low", "high"))
    decimals = decimals_for(cell.get("return_mean") for cell in grid)
    ends = " to ".join(number(end, decimals) for end in (low, high) if is_known(end))
    returns = f"{number(mean, decimals)}{f' ({ends})' if ends else ''}"
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
