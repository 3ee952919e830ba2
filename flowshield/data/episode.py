"""One episode, as it was lived."""

__all__ = ["Episode"]

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False, slots=True)
class Episode:
    """What happened from a reset to its end, T steps later.

    Attributes:
        states: States in which the actions were taken [T, state_dim], float32.
        final_state: State after the last action [state_dim], float32.
        actions: Actions as they were carried out [T, action_dim], float32; discrete ones [T, 1],
            int64.
        rewards: Rewards [T], float64, as the environment gave them.
        terminated: Whether the environment itself ended the episode.
        truncated: Whether a step limit cut it off.
        behaviour: Name of the behaviour that acted, at most 1000 bytes of UTF-8 without a NUL; ""
            where nobody named it.
        level: Its noise level, probability or number of steps; NaN where it has none.
        index: Position of the episode in its collection, from which its randomness follows.
        request: Command (horizon in steps, return in raw reward) that the policy was given at the
            start; None where it was given none.
    """

    states: NDArray[np.float32]
    final_state: NDArray[np.float32]
    actions: NDArray[np.float32] | NDArray[np.int64]
    rewards: NDArray[np.float64]
    terminated: bool
    truncated: bool
    behaviour: str = ""
    level: float = float("nan")
    index: int = 0
    request: tuple[float, float] | None = None

    @property
    def length(self) -> int:
        """Number of steps T."""
        return len(self.rewards)

    @property
    def total_return(self) -> float:
        """Undiscounted sum of the rewards."""
        return float(self.rewards.sum())
