"""What a rollout writes down step by step and makes into episodes at its end."""

__all__ = ["Recording"]

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from flowshield.data.episode import Episode
from flowshield.errors import DataError

_MOST = float(np.finfo(np.float32).max)


class Recording:
    """Collects the steps of n episodes that run in lockstep.

    The arrays of every step are kept as they come and sorted by episode once, at the end: that
    costs less per step than n growing lists.

    Args:
        env_name: Name of the environment, for error messages.
        indices: Index of each episode, for its record and for error messages.
    """

    def __init__(self, env_name: str, indices: Sequence[int]) -> None:
        self._env_name = env_name
        self._indices = indices
        self._rows: list[NDArray[np.intp]] = []
        self._states: list[NDArray[np.float32]] = []
        self._actions: list[NDArray[Any]] = []
        self._rewards: list[NDArray[np.float64]] = []
        self._ends: dict[int, tuple[NDArray[np.float32], bool, bool]] = {}

    def add(
        self,
        rows: NDArray[np.intp],
        states: NDArray[np.float32],
        actions: NDArray[Any],
        rewards: NDArray[np.float64],
    ) -> None:
        """Adds one step of the rows [k]: states [k, ds], actions [k, da], rewards [k]."""
        self._rows.append(rows)
        self._states.append(states)
        self._actions.append(actions)
        self._rewards.append(rewards)

    def finish(
        self,
        rows: NDArray[np.intp],
        final_states: NDArray[np.float32],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
    ) -> None:
        """Notes the ends among the rows [k], whose last step was the one added last."""
        for place in np.flatnonzero(terminated | truncated):
            end = (final_states[place], bool(terminated[place]), bool(truncated[place]))
            self._ends[int(rows[place])] = end

    def episodes(self) -> list[Episode]:
        """Gives the finished episodes in the order of their rows."""
        rows = np.concatenate(self._rows)
        order = np.argsort(rows, kind="stable")  # stable: within an episode the steps stay in order
        cuts = np.cumsum(np.bincount(rows))[:-1]
        states, actions, rewards = (
            np.split(np.concatenate(steps)[order], cuts)
            for steps in (self._states, self._actions, self._rewards)
        )
        return [
            self._episode(row, *arrays)
            for row, arrays in enumerate(zip(states, actions, rewards, strict=True))
        ]

    def check_actions(self, rows: NDArray[np.intp], actions: NDArray[Any]) -> None:
        """Refuses what a policy chose for the rows [k], actions [k, da], if it is not finite.

        Raises:
            DataError: It names the episode and the step.
        """
        if not np.isfinite(actions).all():
            self._fail("action", actions, rows)

    def check_outcome(
        self,
        rows: NDArray[np.intp],
        states: NDArray[np.float32],
        rewards: NDArray[np.float64] | None = None,
    ) -> None:
        """Refuses what an environment gave the rows [k] before anything follows from it.

        Args:
            rows: Rows that have just been stepped, or reset.
            states: Their new states [k, ds].
            rewards: What the step brought [k]; None = it was a reset.

        Raises:
            DataError: One is NaN or infinite, or a reward that float32 does not hold.
        """
        # commands are counted down in float32; NaN is below nothing
        if rewards is not None and not (np.abs(rewards) <= _MOST).all():
            fitting = np.where(np.abs(rewards) <= _MOST, rewards, np.nan)
            self._fail("reward", fitting[:, None], rows, shown=rewards)
        if not np.isfinite(states).all():
            # the step that led there is not on record yet
            self._fail("state", states, rows, after=0 if rewards is None else 1)

    def where(self, row: int, after: int = 0) -> str:
        """Names the episode of a row and the step after those on record, for errors."""
        return f"episode {self._indices[row]}, step {self._steps_of(row) + after}"

    def _episode(
        self,
        row: int,
        states: NDArray[np.float32],
        actions: NDArray[Any],
        rewards: NDArray[np.float64],
    ) -> Episode:
        final_state, terminated, truncated = self._ends[row]
        # Copies, so that an episode does not keep the arrays of its whole lockstep group alive.
        return Episode(
            states=states.copy(),
            final_state=final_state.copy(),
            actions=actions.copy(),
            rewards=rewards.copy(),
            terminated=terminated,
            truncated=truncated,
            index=int(self._indices[row]),
        )

    def _steps_of(self, row: int) -> int:
        """How many steps of a row are on record."""
        return sum(int((earlier == row).sum()) for earlier in self._rows)

    def _fail(
        self,
        what: str,
        values: NDArray[Any],
        rows: NDArray[np.intp],
        after: int = 0,
        shown: NDArray[Any] | None = None,
    ) -> NoReturn:
        place = int(np.argmin(np.isfinite(values).all(axis=1)))
        row = int(rows[place])
        value = (values if shown is None else shown)[place].tolist()
        source, env = "policy" if what == "action" else "environment", self._env_name
        gave = f"environment {env!r} gave the {what} {value} in "
        if source == "policy":
            gave = f"the policy gave the action {value} in environment {env!r}, "
        raise DataError(
            f"{gave}{self.where(row, after)}; expected finite numbers that float32 can hold: mend "
            f"the {source}"
        )
