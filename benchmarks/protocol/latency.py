"""Part 6: how long one decision takes, and what the solver's few steps cost in accuracy."""

__all__ = ["measure"]

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowshield.evaluation.contrast import impossible_commands
from flowshield.models import BaseShield
from flowshield.models.shields.continuous import ContinuousShield
from protocol.contenders import load_shield
from protocol.data import parts_of
from protocol.schedule import Context
from protocol.store import Key

_WARM_UP = 10
_BATCH = 1024
_ROUNDS = 5  # of a batch; the median counts
_COMPARED = 256  # rows at most whose density is compared with the adaptive solve
_TOLERANCE = 1e-8
_NEAR = 2.0  # nats from the threshold: errors of this size would turn verdicts


def measure(context: Context, key: Key) -> dict[str, Any]:
    """Times checks and projections at batch size 1 on one thread, and whole batches."""
    torch.set_num_threads(1)
    shield = load_shield(context, key)
    test = parts_of(context, key.dataset, key.seed)["test"]
    rng = np.random.default_rng(key.seed)
    n = context.settings.n_queries
    compared = min(_COMPARED, context.settings.n_states)
    steps = rng.choice(len(test), size=max(_BATCH, 2 * n + _WARM_UP))
    states = torch.as_tensor(test.states[steps])
    true = torch.as_tensor(test.commands[steps])
    impossible = torch.as_tensor(impossible_commands(test, steps, 20.0))
    flagged = shield.is_ood(states, impossible)
    hard = (states[flagged], impossible[flagged])
    found = {
        "eager": _decisions(shield, states, true, hard, n),
        "compiled": None,
        "throughput": _throughput(shield, states[:_BATCH], true[:_BATCH]),
        **_density_errors(shield, states[:_BATCH], true[:_BATCH], impossible[:_BATCH], compared),
    }
    if context.settings.compiled:
        found["compiled"] = _decisions(_compiled(shield), states, true, hard, n)
    return found


def _compiled(shield: BaseShield) -> BaseShield:
    """A copy: the shield itself is shared with whatever this process measures next."""
    shield = copy.deepcopy(shield)
    shield.compile(dynamic=False)
    return shield


def _decisions(
    shield: BaseShield, states: Tensor, true: Tensor, hard: tuple[Tensor, Tensor], n: int
) -> dict[str, Any]:
    """A check of true commands, and a check with the projection of flagged ones."""
    return {
        "check": _times(shield.is_ood, states, true, n),
        "projection": _times(shield.project, *hard, n) if len(hard[0]) else None,
    }


def _times(
    call: Callable[[Tensor, Tensor], Any], states: Tensor, commands: Tensor, n: int
) -> dict[str, float]:
    """Milliseconds of single queries, each at a state of its own."""
    taken = []
    for i in range(-_WARM_UP, n):
        row = slice(i % len(states), i % len(states) + 1)
        state, command = states[row], commands[row]
        start = time.perf_counter_ns()
        call(state, command)
        if i >= 0:
            taken.append((time.perf_counter_ns() - start) / 1e6)
    return {"p50": float(np.quantile(taken, 0.5)), "p99": float(np.quantile(taken, 0.99))}


def _throughput(shield: BaseShield, states: Tensor, commands: Tensor) -> dict[str, float]:
    """Checks a second in batches, on the CPU and on the GPU where there is one."""
    found = {"cpu": _batch_rate(shield, states, commands)}
    if torch.cuda.is_available():
        on_gpu = copy.deepcopy(shield).cuda()
        found["cuda"] = _batch_rate(on_gpu, states.cuda(), commands.cuda())
    return found


def _batch_rate(shield: BaseShield, states: Tensor, commands: Tensor) -> float:
    taken = []
    for _ in range(_ROUNDS + 1):
        start = time.perf_counter()
        shield.is_ood(states, commands).cpu()  # waits for the device
        taken.append(time.perf_counter() - start)
    return len(states) / float(np.median(taken[1:]))


def _density_errors(
    shield: BaseShield, states: Tensor, true: Tensor, impossible: Tensor, n: int
) -> dict[str, Any]:
    """What the solver costs: on true commands, where it costs least, and where verdicts hang on it.

    `density_error_impossible`: on commands 20 above the provable bound. `density_error_near`: on
    those of both kinds whose score is within 2 nats of the threshold.
    """
    if not isinstance(shield, ContinuousShield):
        return {"density_error": None}
    both = states.repeat_interleave(2, dim=0)
    commands = torch.stack([true, impossible], dim=1).flatten(0, 1)  # in turns
    near = (shield.score(both, commands) - shield.limits(both)).abs() <= _NEAR
    return {
        "density_error": _density_error(shield, states[:n], true[:n]),
        "density_error_impossible": _density_error(shield, states[:n], impossible[:n]),
        "density_error_near": _density_error(shield, both[near][:n], commands[near][:n]),
    }


@torch.no_grad()
def _density_error(
    shield: ContinuousShield, states: Tensor, commands: Tensor
) -> dict[str, float] | None:
    """log p less log p by dopri5 at 1e-8 in float64, nats; None where there is no row."""
    ours = shield.log_prob(states, commands).double()
    exact = _adaptive(copy.deepcopy(shield).double(), states.double(), commands.double())
    signed = (ours - exact).numpy()
    signed = signed[np.isfinite(signed)]
    if not len(signed):
        return None
    error = np.abs(signed)
    return {
        "n": len(signed),
        "uncomputed": len(ours) - len(signed),
        "signed_mean": float(signed.mean()),
        "median": float(np.median(error)),
        "p95": float(np.quantile(error, 0.95)),
        "largest": float(error.max()),
        "tolerance": _TOLERANCE,
    }


def _adaptive(shield: ContinuousShield, states: Tensor, commands: Tensor) -> Tensor:
    """The same density solved adaptively."""
    shield.solver, shield.tolerance = "dopri5", _TOLERANCE
    return shield.log_prob(states, commands)
