"""Part 4: is what comes back supported, possible, stable, and really the nearest?"""

__all__ = ["measure"]

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowshield.data import TrajectoryDataset
from flowshield.envs import make_env
from flowshield.evaluation import lend_return_bound
from flowshield.evaluation.contrast import impossible_commands, return_bound
from flowshield.models import BaseShield
from protocol.contenders import load_shield
from protocol.data import parts_of
from protocol.schedule import Context
from protocol.search import boxes_around, nearest_on_grid
from protocol.store import Key

_MARGIN = 20.0  # impossible requests ask for this much above the bound, raw reward
_NEAR = 1.05  # a distance of at most this many times the brute-force one counts as nearest
_OTHER_BATCH = 37  # rows of a recheck: another batch size than the projection's, on purpose


def measure(context: Context, key: Key) -> dict[str, Any]:
    """Projects impossible requests and the grid's at random test states, and checks them.

    Once as the shield ships, and once with the environment's provable bound lent to it.
    """
    parts = parts_of(context, key.dataset, key.seed)
    shield, test = load_shield(context, key), parts["test"]
    bounded = copy.deepcopy(shield)
    lend_return_bound(bounded, make_env("lunarlander"))
    rng = np.random.default_rng(key.seed)
    requests = {
        "impossible": _impossible(test, rng, context.settings.n_projected),
        "grid": _grid(test, rng, context),
    }
    box = np.stack([parts["train"].commands.min(axis=0), parts["train"].commands.max(axis=0)])
    low, high = torch.as_tensor(box)
    return {
        "requests": {kind: _check(shield, test, *asked) for kind, asked in requests.items()},
        "with_bound": {kind: _check(bounded, test, *asked) for kind, asked in requests.items()},
        "identity": _identity(shield, test, rng, context.settings.n_projected),
        "search": {
            kind: _search(shield, state, command, low, high, context.settings.n_searched // 2)
            for kind, (state, command) in requests.items()
        },
    }


def _impossible(test: TrajectoryDataset, rng: np.random.Generator, n: int) -> tuple[Tensor, Tensor]:
    steps = rng.choice(len(test), size=min(n, len(test)), replace=False)
    commands = impossible_commands(test, steps, _MARGIN)
    return torch.as_tensor(test.states[steps]), torch.as_tensor(commands)


def _grid(
    test: TrajectoryDataset, rng: np.random.Generator, context: Context
) -> tuple[Tensor, Tensor]:
    """Every command of the behaviour grid at states of its own."""
    commands = np.asarray(context.settings.commands, dtype=np.float32)
    each = max(1, context.settings.n_projected // 6)
    steps = rng.choice(len(test), size=each * len(commands), replace=True)
    requests = torch.as_tensor(np.tile(commands, (each, 1)))
    return torch.as_tensor(test.states[steps]), requests


def _check(
    shield: BaseShield, test: TrajectoryDataset, state: Tensor, command: Tensor
) -> dict[str, Any]:
    flagged = shield.is_ood(state, command)
    found = shield.project_in_detail(state, command)
    places = torch.arange(len(state)).chunk(max(1, len(state) // _OTHER_BATCH))
    rechecked = torch.cat([~shield.is_ood(state[rows], found.command[rows]) for rows in places])
    bound = return_bound(test, state.numpy())
    over = None if bound is None else int((found.command[:, 1].double().numpy() > bound).sum())
    again = shield.project(state, found.command)
    return {
        "n": len(state),
        "flagged": int(flagged.sum()),
        "supported": int(rechecked.sum()),
        "over_bound": over,
        "idempotent": int((again == found.command).all(dim=1).sum()),
        "said_supported": int(found.supported.sum()),
        "distance_mean": float(found.distance.mean()),
    }


def _identity(
    shield: BaseShield, test: TrajectoryDataset, rng: np.random.Generator, n: int
) -> dict[str, int]:
    """Held-out commands that are supported must come back to the last bit."""
    steps = rng.choice(len(test), size=min(n, len(test)), replace=False)
    state, command = torch.as_tensor(test.states[steps]), torch.as_tensor(test.commands[steps])
    supported = ~shield.is_ood(state, command)
    same = (shield.project(state, command) == command).all(dim=1)
    return {"n": int(supported.sum()), "unchanged": int((same & supported).sum())}


def _search(
    shield: BaseShield, state: Tensor, command: Tensor, low: Tensor, high: Tensor, n: int
) -> dict[str, Any]:
    """Distances of flagged requests beside those of a brute-force search for the same score.

    `none_found`: requests for which no point of any grid has that score; they are left out.
    A projection aims at a higher score than the threshold where a sample has it (`goals`); brute
    force is held to whichever of the two the projection reached.
    """
    flagged = shield.is_ood(state, command).nonzero()[:, 0][: max(n, 1)]
    state, command = state[flagged], command[flagged]
    limits, found = shield.limits(state), shield.project_in_detail(state, command)
    goals = shield.goals(state)
    reached = found.score >= goals
    least = torch.where(reached, goals, limits)
    best = np.array(
        [
            nearest_on_grid(
                shield,
                state[row],
                command[row],
                float(least[row]),
                boxes_around(shield, state[row], command[row], found.command[row], (low, high)),
            )
            for row in (slice(i, i + 1) for i in range(len(state)))
        ]
    )
    known = np.isfinite(best)
    ours, best = found.distance.double().numpy()[known], best[known]
    return {
        "n": int(known.sum()),
        "none_found": int((~known).sum()),
        "goal_reached": int(reached.sum()),
        **(_compare(ours, best) if len(best) else dict.fromkeys(_COMPARED)),
    }


_COMPARED = (
    "ratio_floored",
    "ratio",
    "ratio_p50",
    "ratio_p95",
    "within_5_percent",
    "beaten",
    "ours",
    "brute_force",
)


def _compare(ours: NDArray[np.float64], best: NDArray[np.float64]) -> dict[str, float]:
    """How the ratios of the distances are spread, request by request.

    `ratio_floored` is the mean of the ratios, each at least 1: where brute force did worse than
    the projection, that makes up for no request where the projection did worse. `beaten` is the
    share of such requests (by more than 5%): how far the search itself is to be trusted.
    """
    ratios = ours / np.maximum(best, 1e-9)
    return {
        "ratio_floored": float(np.maximum(ratios, 1.0).mean()),
        "beaten": float((ratios < 1.0 / _NEAR).mean()),
        "ratio": float(ours.mean() / max(best.mean(), 1e-9)),
        "ratio_p50": float(np.quantile(ratios, 0.5)),
        "ratio_p95": float(np.quantile(ratios, 0.95)),
        "within_5_percent": float((ratios <= _NEAR).mean()),
        "ours": float(ours.mean()),
        "brute_force": float(best.mean()),
    }
