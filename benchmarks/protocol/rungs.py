"""Commands that provably nobody can fulfil, or nobody ever did, at held-out states."""

__all__ = ["DISTANCES", "FACTORS", "Rung", "questions"]

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowshield.data import TrajectoryDataset
from flowshield.evaluation.contrast import impossible_commands, return_bound

DISTANCES = (0.0, 5.0, 10.0, 20.0, 40.0, 80.0)
"""How far above the provable bound UB(s) the return asked for lies, raw reward."""

FACTORS = (0.5, 0.25)
"""Shares of the horizon in which the same return is asked for: no behaviour was that fast."""

_FAST_RETURN = 250.0  # episodes above it are asked to be faster
_TIGHT = 10.0  # states whose true slack UB - R is less are the hardest


class Rung(NamedTuple):
    """The same states with true and with impossible commands.

    Attributes:
        where: "random", "start", "tight" (slack under 10) or "half" (a share of the horizon).
        distance: Raw reward above the bound; for "half" the share of the horizon.
        steps: Indices of transitions [n].
        commands: What is asked for there [n, 2].
    """

    where: str
    distance: float
    steps: NDArray[np.int64]
    commands: NDArray[np.float32]


def questions(test: TrajectoryDataset, n_states: int, seed: int) -> list[Rung]:
    """All rungs of the ladder on the episodes of a test part.

    Args:
        test: Episodes that trained, selected and calibrated nothing.
        n_states: Random states, and at most as many tight ones.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    places = {
        "random": _draw(rng, np.arange(len(test)), n_states),
        "start": test.episode_starts,
        "tight": _draw(rng, np.flatnonzero(_slack(test) < _TIGHT), n_states),
    }
    rungs = [
        Rung(where, distance, steps, impossible_commands(test, steps, distance))
        for where, steps in places.items()
        for distance in DISTANCES
        if len(steps)
    ]
    return rungs + _too_fast(test)


def _too_fast(test: TrajectoryDataset) -> list[Rung]:
    steps = test.episode_starts[test.episode_returns > _FAST_RETURN]
    scale = [np.array([factor, 1.0], dtype=np.float32) for factor in FACTORS]
    return [
        Rung("half", factor, steps, test.commands[steps] * by)
        for factor, by in zip(FACTORS, scale, strict=True)
        if len(steps)
    ]


def _slack(test: TrajectoryDataset) -> NDArray[np.float64]:
    """UB(s) - R of every transition; infinite where the environment knows no bound."""
    bound = return_bound(test, test.states)
    if bound is None:
        return np.full(len(test), np.inf)
    return np.asarray(bound - test.commands[:, 1], dtype=np.float64)


def _draw(rng: np.random.Generator, steps: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    return np.sort(rng.choice(steps, size=min(n, len(steps)), replace=False))
