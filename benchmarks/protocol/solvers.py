"""What a solver's few steps cost in accuracy, and how long they take."""

__all__ = ["measure", "solvers_table"]

import copy
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowshield.models import BaseShield
from flowshield.models.shields.continuous import ContinuousShield
from protocol.data import parts_of
from protocol.rungs import questions
from protocol.schedule import Context
from protocol.store import Key, Store
from protocol.variants import SHIPPED

_EXACT = 1e-8  # tolerance of the adaptive solve in float64 that all are held to
_ROWS = 256
_TIMED = 100
_SOLVERS: tuple[tuple[str, int, float], ...] = (
    *(("euler", n, 1e-6) for n in (4, 8, 16)),
    *(("midpoint", n, 1e-6) for n in (2, 4, 8)),
    *(("rk4", n, 1e-6) for n in (1, 2, 3, 4, 8)),
    *(("dopri5", 2, tolerance) for tolerance in (1e-2, 1e-4, 1e-6)),
)
"""Solver, steps (dopri5: of the first size) and dopri5's tolerance."""


@torch.no_grad()
def measure(context: Context, key: Key) -> dict[str, Any]:
    """Errors of log p, raw nats, at true and at impossible commands of validation states."""
    path = context.store.model(key.dataset, key.seed, f"{key.model} {SHIPPED}".replace(" ", "_"))
    shield = BaseShield.load(path)
    assert isinstance(shield, ContinuousShield)
    part = parts_of(context, key.dataset, key.seed)["validation"]
    rungs = questions(part, min(_ROWS, context.settings.n_states), key.seed)
    rung = next(rung for rung in rungs if (rung.where, rung.distance) == ("random", 20.0))
    states = torch.as_tensor(part.states[rung.steps])
    asked = {
        "true": torch.as_tensor(part.commands[rung.steps]),
        "impossible": torch.as_tensor(rung.commands),
    }
    exact = _with(copy.deepcopy(shield).double(), "dopri5", 2, _EXACT)
    truth = {name: exact.log_prob(states.double(), g.double()) for name, g in asked.items()}
    return {"rows": [_row(shield, states, asked, truth, *solver) for solver in _SOLVERS]}


def _with(shield: ContinuousShield, solver: str, n: int, tolerance: float) -> ContinuousShield:
    shield.solver, shield.n_steps, shield.tolerance = solver, n, tolerance
    return shield


def _row(
    shield: ContinuousShield,
    states: Tensor,
    asked: dict[str, Tensor],
    truth: dict[str, Tensor],
    solver: str,
    n: int,
    tolerance: float,
) -> dict[str, Any]:
    solved = _with(shield, solver, n, tolerance)
    found: dict[str, Any] = {"solver": solver, "n_steps": n, "tolerance": tolerance}
    for name, commands in asked.items():
        error = (solved.log_prob(states, commands).double() - truth[name]).numpy()
        found[name] = [float(np.quantile(abs(error), q)) for q in (0.5, 0.95)]
        found[f"{name}_mean"] = float(error.mean())
    found["ms"] = _milliseconds(solved, states, asked["true"])
    return found


def _milliseconds(shield: BaseShield, states: Tensor, commands: Tensor) -> float:
    """Of one log p at batch size 1, the median."""
    taken = []
    for i in range(_TIMED):
        row = slice(i % len(states), i % len(states) + 1)
        start = time.perf_counter()
        shield.log_prob(states[row], commands[row])
        taken.append(1e3 * (time.perf_counter() - start))
    return float(np.median(taken))


def solvers_table(store: Store) -> str:
    """The errors of every solver on file, in Markdown."""
    lines = [
        "### Error of log p against an adaptive solve at 1e-8 in float64, raw nats",
        "",
        "| shield | solver | true: median | 95% | mean | impossible: median | 95% | mean | ms |",
        "| --- | --- |" + " ---: |" * 7,
    ]
    for key, record in store.records("solver").items():
        for row in record["rows"]:
            adaptive = row["solver"] == "dopri5"
            name = f"{row['solver']}, " + (
                f"tolerance {row['tolerance']:g}" if adaptive else f"{row['n_steps']} steps"
            )
            cells = [
                f"{value:.4f}"
                for which in ("true", "impossible")
                for value in (*row[which], row[f"{which}_mean"])
            ]
            lines.append(f"| {key.model} | {name} | " + " | ".join(cells) + f" | {row['ms']:.2f} |")
    return "\n".join([*lines, ""])
