"""Probing: rollouts of the policy alone, from which an outcome model and a certificate follow."""

__all__ = ["PARTS", "ProbePlan", "probed"]

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowshield.envs import EnvWrapper, initial_state
from flowshield.errors import ConfigError, unknown_name
from flowshield.evaluation.agent import EvaluatedEpisode, run_batch, start_seeds
from flowshield.evaluation.cell_grid import Command
from flowshield.evaluation.supported import supported_commands
from flowshield.models import BaseShield, UDRLAgent

PARTS: Final = ("fit", "validation", "certificate")
"""What the episodes are for. No episode serves two purposes."""

_LONGER, _HIGHER = 1.25, 0.5  # of the box: shares of the longest episode and of the return range
_TAIL = 1e-3  # of the data's returns on either side: a glitch does not set the box
_COMMANDS = 16  # supported commands among which one is drawn
_AVOIDED = 10_000  # episodes of an evaluation whose starts no probe has


@dataclass(frozen=True)
class ProbePlan:
    """Which episodes are rolled out, under which commands.

    Half of the episodes of the parts `fit` and `validation` are under commands that a shield
    supports at their start, half under commands drawn evenly from a box that is wider than the
    data. Those of `certificate` are all under supported commands: these are what a certificate
    speaks of. Episode i of a part depends on the seed, the part and i alone.

    Attributes:
        seed: Of the starts and of every draw.
        low: Least horizon and return of the box.
        high: Largest ones.
    """

    seed: int
    low: Command
    high: Command

    @classmethod
    def of_data(cls, seed: int, commands: ArrayLike, requests: ArrayLike) -> "ProbePlan":
        """Takes the box from the data, and widens it until it holds some requests.

        Args:
            seed: Of the starts and of every draw.
            commands: Hindsight commands of the data [n, 2].
            requests: What will be asked for [m, 2]: beyond the box nothing would be known of it.
        """
        pairs, asked = np.asarray(commands, np.float64), np.asarray(requests, np.float64)
        low, high = np.quantile(pairs[:, 1], [_TAIL, 1.0 - _TAIL])
        high += _HIGHER * (high - low)
        longest = max(_LONGER * float(pairs[:, 0].max()), float(asked[:, 0].max()))
        low, high = min(low, asked[:, 1].min()), max(high, asked[:, 1].max())
        return cls(seed, (1.0, float(low)), (longest, float(high)))

    def seeds(self, part: str, indices: Sequence[int]) -> list[int]:
        """Seeds of the resets, none of another part's nor of an evaluation with this seed."""
        used = _evaluated_seeds(self.seed)
        found = []
        for index in indices:
            rng = self._generator(part, index)
            seed = _of_part(part, rng)
            while seed in used:
                seed = _of_part(part, rng)
            found.append(seed)
        return found

    def requests(
        self,
        part: str,
        indices: Sequence[int],
        states: NDArray[np.float32],
        shields: Sequence[BaseShield],
        return_grid: float | None = None,
    ) -> NDArray[np.float64]:
        """The commands [n, 2] of episodes that start at states [n, state_dim].

        Args:
            part: See `PARTS`.
            indices: Of the episodes in their part [n].
            states: Raw.
            shields: Take turns; none = all commands are from the box.
            return_grid: See `supported_commands`.

        Raises:
            ConfigError: A certificate is asked for, and there is no shield to support a command.
        """
        if part == "certificate" and not shields:
            raise ConfigError("expected at least one shield for a certificate, got none")
        generators = [self._generator(part, index) for index in indices]
        places = [rng.uniform(size=3) for rng in generators]
        low, high = np.array(self.low), np.array(self.high)
        chosen = np.array([low + place[:2] * (high - low) for place in places])
        turn = np.array(indices) if part == "certificate" else np.array(indices) // 2
        supported = np.full(len(indices), part == "certificate") | (np.array(indices) % 2 == 0)
        for number, shield in enumerate(shields):
            rows = np.flatnonzero(supported & (turn % len(shields) == number))
            if len(rows):
                offered = supported_commands(shield, states[rows], _COMMANDS, return_grid)[1]
                drawn = [int(places[row][2] * _COMMANDS) for row in rows]
                asked = offered[np.arange(len(rows)), drawn]
                known = np.isfinite(asked).all(axis=1)  # a state with too few has none
                chosen[rows[known]] = asked[known]
        return chosen

    def _generator(self, part: str, index: int) -> np.random.Generator:
        if part not in PARTS:
            raise unknown_name("part of a probe", part, PARTS)
        root = np.random.SeedSequence(self.seed, spawn_key=(1 + PARTS.index(part), index))
        return np.random.default_rng(root)


def _of_part(part: str, rng: np.random.Generator) -> int:
    """A seed that no other part draws."""
    return len(PARTS) * int(rng.integers(2**29)) + PARTS.index(part)


@lru_cache(maxsize=8)
def _evaluated_seeds(seed: int) -> frozenset[int]:
    return frozenset(start_seeds(seed, _AVOIDED))


def probed(
    plan: ProbePlan,
    part: str,
    indices: Sequence[int],
    envs: Sequence[EnvWrapper],
    agent: UDRLAgent,
    shields: Sequence[BaseShield],
    *,
    deterministic: bool,
    return_grid: float | None = None,
) -> list[EvaluatedEpisode]:
    """Rolls the policy out, alone, in episodes of a plan.

    Args:
        plan: Says which.
        part: See `PARTS`.
        indices: Of the episodes in their part.
        envs: At least as many.
        agent: The policy.
        shields: Calibrated; they draw commands and replace none.
        deterministic: Whether the agent takes its mean, or likeliest, action.
        return_grid: See `supported_commands`.
    """
    seeds = plan.seeds(part, indices)
    used = list(envs[: len(seeds)])
    states = np.stack([initial_state(env, seed) for env, seed in zip(used, seeds, strict=True)])
    requests = plan.requests(part, indices, states, shields, return_grid)
    commands = [(float(h), float(r)) for h, r in requests]
    return run_batch(used, agent, commands, None, seeds, deterministic)
