"""What a rollout writes down step by step and makes into episodes at its end."""

__all__ = ["Recording"]

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from flowshield.data.episode import Episode
from flowshield.errors import DataError


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
        """Gives the finished episodes in the order of their rows.

        Raises:
            DataError: A state or reward is NaN or infinite.
        """
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

    def explain_bad_actions(
        self,
        rows: NDArray[np.intp],
        states: NDArray[np.float32],
        actions: NDArray[Any],
    ) -> NoReturn:
        """Raises the DataError for a step whose actions are not finite, blaming what came first.

        Args:
            rows: Rows that are still running [k].
            states: States that the policy saw [k, ds].
            actions: Actions that it chose [k, da].
        """
        place = int(np.argmin(np.isfinite(actions).all(axis=1)))
        what, values = "action", actions[place]
        if not np.isfinite(states[place]).all():
            what, values = "state", states[place]
        row = int(rows[place])
        self._fail(what, values, row, sum(int((earlier == row).sum()) for earlier in self._rows))

    def _episode(
        self,
        row: int,
        states: NDArray[np.float32],
        actions: NDArray[Any],
        rewards: NDArray[np.float64],
    ) -> Episode:
        final_state, terminated, truncated = self._ends[row]
        # Copies, so that an episode does not keep the arrays of its whole lockstep group alive.
        self._check("state", np.vstack([states, final_state]), row)
        self._check("reward", rewards, row)
        return Episode(
            states=states.copy(),
            final_state=final_state.copy(),
            actions=actions.copy(),
            rewards=rewards.copy(),
            terminated=terminated,
            truncated=truncated,
            index=int(self._indices[row]),
        )

    def _check(self, what: str, values: NDArray[Any], row: int) -> None:
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if not finite.all():
            step = int(np.argmin(finite))
            self._fail(what, values[step], row, step)

    def _fail(self, what: str, values: NDArray[Any], row: int, step: int) -> NoReturn:
        source = "policy" if what == "action" else f"environment {self._env_name!r}"
        raise DataError(
            f"the {source} gave the {what} {values.tolist()} in environment {self._env_name!r}, "
            f"episode {self._indices[row]}, step {step}; expected finite numbers: mend the {source}"
        )
