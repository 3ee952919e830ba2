"""The tables of `harm.py`, from its records."""

__all__ = ["GUARDS", "CellChange", "cell_changes", "cell_tables", "page_tables"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowshield.evaluation.statistics import clopper_pearson, holm, mcnemar_test, sign_flip_test
from flowshield.evaluation.wording import command_label, number, percent
from flowshield.models.intent import INTENTS

GUARDS = {
    "none": "none",
    "clip": "clip",
    "state_box": "state box",
    "support_before": "support as shipped before",
    "support_now": "support now",
    "expectile": "expectile target",
    "outcome": "outcome",
    "outcome_exact": "outcome, exact",
    "outcome_projection": "outcome, with projection",
}
"""What is measured in each cell, and what tables call it."""

_OF_ONE_INTENT = {
    "at_least": ("outcome", "outcome_projection"),
    "exact": ("outcome_exact",),
}
_FLIPS = 19_999  # 9 environments x 6 commands x 3 seeds need p below 3e-4
_LEVEL = 0.05

Run = Mapping[str, Any]


@dataclass(frozen=True)
class CellChange:
    """What a guard changed in one cell, by one intent.

    Attributes:
        env: A name of `harm.ENVS`.
        seed: Of the training.
        command: The request.
        guard: A key of `GUARDS`.
        intent: "at_least" or "exact".
        share: Mean difference of utility to none, as a share of the data's return range.
        differences: Episode by episode, the same unit [n].
        p_value: Of the sign-flip test, two-sided.
        adjusted: By Holm over all cells of this guard and intent.
    """

    env: str
    seed: int
    command: tuple[float, float]
    guard: str
    intent: str
    share: float
    differences: NDArray[np.float64]
    p_value: float
    adjusted: float = 1.0

    @property
    def worse(self) -> bool:
        """Whether it is worse beyond chance."""
        return self.share < 0 and self.adjusted <= _LEVEL

    @property
    def better(self) -> bool:
        """Whether it is better beyond chance."""
        return self.share > 0 and self.adjusted <= _LEVEL


def cell_changes(runs: Sequence[Run]) -> list[CellChange]:
    """Every guard's change in every cell, by every intent that the guard is for."""
    found: list[CellChange] = []
    for intent in INTENTS:
        for guard in _guards_of(intent):
            family = [_change(run, cell, intent) for run in runs for cell in _cells(run, guard)]
            adjusted = holm([change.p_value for change in family])
            pairs = zip(family, adjusted, strict=True)
            found += [replace(change, adjusted=float(p)) for change, p in pairs]
    return found


def page_tables(runs: Sequence[Run]) -> str:
    """All tables of the page in Markdown.

    Args:
        runs: From `harm.measure_run`.
    """
    changes = cell_changes(runs)
    parts = []
    for intent in INTENTS:
        parts.append(f"### Harm and help, intent `{intent}`\n\n{_summary(changes, intent)}")
        parts.append(_by_env(changes, intent))
    parts.append(f"### Certificates and predictions\n\n{_promises(runs)}")
    parts.append(f"Failures predicted and come, by bins of the prediction:\n\n{_failures(runs)}")
    parts.append(f"### Cells that fail without a guard\n\n{_repairs(runs)}")
    parts += [f"### {env}\n\n{_returns(of)}" for env, of in _by(runs, "env").items()]
    return "\n".join(parts)


def cell_tables(runs: Sequence[Run]) -> str:
    """One row for every cell and intent."""
    head = ["environment", "seed", "command", "guard", "intent", "return", "utility"]
    head += ["difference", "p", "p, Holm", "failed", "p, McNemar", "replaced"]
    changes = {(c.env, c.seed, c.command, c.guard, c.intent): c for c in cell_changes(runs)}
    rows = []
    for run in runs:
        for cell in run["cells"]:
            for intent in INTENTS:
                command = (cell["command"][0], cell["command"][1])
                key = (run["env"], run["seed"], command, cell["guard"], intent)
                if key in changes or cell["guard"] == "none":
                    rows.append(_cell_row(run, cell, intent, changes.get(key)))
    return _table(head, rows, n_words=5)


def _cell_row(run: Run, cell: Run, intent: str, change: CellChange | None) -> list[str]:
    words = [run["env"], str(run["seed"]), command_label(cell["command"]), GUARDS[cell["guard"]]]
    words += [intent, number(_mean(cell["returns"]), 1), number(_mean(cell["utility"][intent]), 1)]
    told = ["–"] * 3
    if change is not None:
        told = [number(change.share * run["return_range"], 1)]
        told += [number(change.p_value, 4), number(change.adjusted, 4)]
    alone, failed = _alone(run, cell)["failed"], cell["failed"]
    compared = failed is not None and alone is not None and change is not None
    chance = number(mcnemar_test(failed, alone).p_value, 4) if compared else "–"
    return [*words, *told, _rate(failed), chance, _rate(cell["replaced"])]


def _summary(changes: Sequence[CellChange], intent: str) -> str:
    head = ["guard", "cells", "worse", "better", "mean difference", "largest fall"]
    rows = []
    for guard in _guards_of(intent):
        of = [c for c in changes if c.guard == guard and c.intent == intent]
        rows.append([GUARDS[guard], *_harm(of)])
    return _table(head, rows)


def _by_env(changes: Sequence[CellChange], intent: str) -> str:
    """For each environment: cells worse / better; pooled mean and its p; the largest fall."""
    guards = _guards_of(intent)
    head = ["environment", *(GUARDS[guard] for guard in guards)]
    rows = []
    for env in dict.fromkeys(c.env for c in changes):
        row = [env]
        for guard in guards:
            of = [c for c in changes if (c.env, c.guard, c.intent) == (env, guard, intent)]
            _, worse, better, mean, fall = _harm(of)
            pooled = np.concatenate([c.differences for c in of])
            chance = sign_flip_test(pooled, np.zeros(len(pooled))).p_value
            row.append(f"{worse} / {better}; {mean} (p {number(chance, 4)}); {fall}")
        rows.append(row)
    return _table(head, rows)


def _harm(changes: Sequence[CellChange]) -> list[str]:
    shares = [c.share for c in changes]
    worse, better = sum(c.worse for c in changes), sum(c.better for c in changes)
    fall = min(0.0, *shares)
    told = [percent(_mean(shares), 1), percent(fall, 1)]
    return [str(len(changes)), str(worse), str(better), *told]


def _promises(runs: Sequence[Run]) -> str:
    head = ["environment", "seed", "certified, at least", "certified, exact"]
    head += ["held-out episodes", "in the 90% interval", "in the cells, without a guard", "seconds"]
    rows = []
    for run in runs:
        covered = run["predictions"]["coverage"]["start"]
        alone = _cells(run, "none")
        inside = np.concatenate([_inside(cell) for cell in alone])
        rows.append(
            [
                run["env"],
                str(run["seed"]),
                *(_certified(run["certificates"][kind]) for kind in ("at_least", "exact")),
                str(covered["n"]),
                f"{percent(covered['rate'])} ({percent(covered['low'])} to "
                f"{percent(covered['high'])})",
                percent(float(inside.mean())),
                f"{run['seconds']:.0f}",
            ]
        )
    return _table(head, rows)


def _inside(cell: Run) -> NDArray[np.bool_]:
    told, got = cell["predicted"], np.array(cell["returns"])
    inside: NDArray[np.bool_] = (np.array(told["low"]) <= got) & (got <= np.array(told["high"]))
    return inside


def _certified(certificate: Run) -> str:
    if certificate["chosen"] is not None:
        return f"rule {certificate['chosen']:g}"
    would_do = certificate["episodes_that_would_do"]
    return "nothing" if would_do is None else f"nothing; {would_do} episodes would do"


def _failures(runs: Sequence[Run]) -> str:
    head = ["environment", "seed", "predicted", "came", "interval", "held"]
    rows = []
    for run in runs:
        for one in run["predictions"]["failure"] or ():
            hits = round(one["rate"] * one["n"])
            low, high = clopper_pearson(hits, one["n"])
            held = "yes" if low <= one["predicted"] <= high else "**no**"
            row = [run["env"], str(run["seed"]), percent(one["predicted"], 1)]
            row += [f"{hits} of {one['n']}", f"{percent(low, 1)} to {percent(high, 1)}", held]
            rows.append(row)
    return _table(head, rows) if rows else "No environment here knows a failure.\n"


def _repairs(runs: Sequence[Run]) -> str:
    head = ["environment", "seed", "command", "best candidate gains"]
    names = ("outcome", "outcome_projection", "support_now")
    head += [f"{GUARDS[name]}: its share" for name in names]
    rows = []
    for run in runs:
        for one in run["repairs"]:
            row = [run["env"], str(run["seed"]), command_label(one["command"])]
            row.append(number(one["best"], 1))
            could = one["best"] > _LEVEL * run["return_range"]
            shares = [one["gained"][name] / one["best"] if could else None for name in names]
            rows.append([*row, *("could not" if s is None else percent(s) for s in shares)])
    return _table(head, rows) if rows else "No cell fails without a guard.\n"


def _returns(runs: Sequence[Run]) -> str:
    """Mean return; share failed; share replaced, by guard and command, over the seeds."""
    commands = list(dict.fromkeys(tuple(cell["command"]) for cell in runs[0]["cells"]))
    rows = []
    for guard, label in GUARDS.items():
        row = [label]
        for command in commands:
            cells = [c for r in runs for c in _cells(r, guard) if tuple(c["command"]) == command]
            failed = [f for c in cells for f in c["failed"] or ()]
            replaced = [hit for c in cells for hit in c["replaced"]]
            told = [number(_mean([g for c in cells for g in c["returns"]]), 1)]
            told += [f"{_rate(failed)} failed"] if failed else []
            told += [f"{_rate(replaced)} replaced"] if guard != "none" else []
            row.append("; ".join(told))
        rows.append(row)
    return _table(["guard", *(command_label(command) for command in commands)], rows)


def _change(run: Run, cell: Run, intent: str) -> CellChange:
    got = np.array(cell["utility"][intent])
    without = np.array(_alone(run, cell)["utility"][intent])
    test = sign_flip_test(got, without, n_resamples=_FLIPS)
    differences = (got - without) / run["return_range"]
    command = (cell["command"][0], cell["command"][1])
    return CellChange(
        run["env"],
        run["seed"],
        command,
        cell["guard"],
        intent,
        float(differences.mean()),
        differences,
        test.p_value,
    )


def _guards_of(intent: str) -> list[str]:
    others = {name for kind, names in _OF_ONE_INTENT.items() if kind != intent for name in names}
    return [name for name in GUARDS if name != "none" and name not in others]


def _cells(run: Run, guard: str) -> list[Run]:
    return [cell for cell in run["cells"] if cell["guard"] == guard]


def _alone(run: Run, cell: Run) -> Run:
    return next(c for c in _cells(run, "none") if c["command"] == cell["command"])


def _by(runs: Sequence[Run], key: str) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run[key], []).append(run)
    return found


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _rate(flags: Sequence[bool] | None) -> str:
    return percent(_mean(flags) if flags else None)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], n_words: int = 1) -> str:
    marks = ["---"] * n_words + ["---:"] * (len(head) - n_words)
    return "".join(f"| {' | '.join(line)} |\n" for line in [head, marks, *rows])
