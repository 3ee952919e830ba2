"""Trajectories as flat arrays, checked once where they enter."""

__all__ = ["FORMAT_VERSIONS", "TrajectoryArrays", "arrays_from_episodes", "checked_arrays"]

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowshield.data.array_checks import (
    checked_actions,
    checked_flags,
    checked_levels,
    checked_names,
    checked_numbers,
    checked_requests,
    checked_shape,
    checked_whole,
)
from flowshield.data.episode import Episode
from flowshield.data.hindsight import compute_hindsight_commands, episode_ends
from flowshield.errors import DataError, ShapeError

FORMAT_VERSIONS = (1, 2)
"""Versions of the files that this release reads: 1 without requests, 2 with them."""

_NO_REQUEST = (np.nan, np.nan)


@dataclass(frozen=True, eq=False)
class TrajectoryArrays:
    """N steps of E episodes, one after another.

    Attributes:
        states: States in which the actions were taken [N, state_dim], float32.
        actions: Actions [N, action_dim], float32; discrete ones [N, 1], int64.
        rewards: Rewards [N], float64.
        terminated: Whether the environment ended the episode at this step [N], bool.
        truncated: Whether a step limit cut it off at this step [N], bool.
        ends: Index of each episode's last step [E].
        behaviours: Name of the behaviour of each episode [E], "" where unknown.
        levels: Level of the behaviour of each episode [E], float64, NaN where it has none.
        indices: Index of each episode in its collection [E].
        final_states: State after each episode's last action [E, state_dim], float32, or None.
        metadata: What is known about the whole, fit for JSON; "n_actions" where actions are
            discrete, and nowhere else.
        requests: Command (horizon in steps, return in raw reward) that the policy was given at each
            episode's start [E, 2], float64, NaN where it was given none; None where no episode has
            one.
    """

    states: NDArray[np.float32]
    actions: NDArray[np.float32] | NDArray[np.int64]
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    ends: NDArray[np.intp]
    behaviours: NDArray[np.str_]
    levels: NDArray[np.float64]
    indices: NDArray[np.intp]
    final_states: NDArray[np.float32] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    requests: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        """Number of steps N."""
        return len(self.rewards)

    @property
    def dones(self) -> NDArray[np.bool_]:
        """Whether an episode ends at this step, either way [N]."""
        return self.terminated | self.truncated

    @property
    def starts(self) -> NDArray[np.intp]:
        """Index of each episode's first step [E]."""
        return np.append(0, self.ends[:-1] + 1)

    @property
    def format_version(self) -> int:
        """Version of a file that holds them: the lowest, which older releases read, too."""
        return 1 if self.requests is None else 2

    def take(self, episodes: NDArray[np.intp]) -> "TrajectoryArrays":
        """Gives the episodes with these positions [K], in this order."""
        lengths = (self.ends - self.starts + 1)[episodes]
        ends = np.cumsum(lengths) - 1
        offsets = np.repeat(self.starts[episodes] - (ends - lengths + 1), lengths)
        steps = offsets + np.arange(lengths.sum())
        taken = replace(
            self,
            states=self.states[steps],
            actions=self.actions[steps],
            rewards=self.rewards[steps],
            terminated=self.terminated[steps],
            truncated=self.truncated[steps],
            ends=ends,
            behaviours=self.behaviours[episodes],
            levels=self.levels[episodes],
            indices=self.indices[episodes],
            final_states=None if self.final_states is None else self.final_states[episodes],
            requests=_some(None if self.requests is None else self.requests[episodes]),
        )
        return _counted(taken)


def arrays_from_episodes(episodes: Sequence[Episode], metadata: dict[str, Any]) -> TrajectoryArrays:
    """Lays episodes end to end.

    Raises:
        DataError: There are no episodes, one is empty, or they hold NaN or infinite numbers.
        ShapeError: Their states or actions differ in size.
    """
    if not episodes:
        raise DataError("expected at least one episode, got none")
    sizes = {(e.states.shape[1:], e.actions.shape[1:], e.final_state.shape) for e in episodes}
    if len(sizes) > 1:
        raise ShapeError(f"expected episodes of one environment, got the sizes {sorted(sizes)}")
    if not all(episode.length for episode in episodes):
        raise DataError("expected episodes with at least one step, got an empty one")
    lengths = np.array([episode.length for episode in episodes])
    last = np.cumsum(lengths) - 1
    terminated, truncated = np.zeros((2, lengths.sum()), np.bool_)
    terminated[last] = [episode.terminated for episode in episodes]
    truncated[last] = [episode.truncated for episode in episodes]
    return checked_arrays(
        "these episodes",
        states=np.concatenate([episode.states for episode in episodes]),
        actions=np.concatenate([episode.actions for episode in episodes]),
        rewards=np.concatenate([episode.rewards for episode in episodes]),
        terminated=terminated,
        truncated=truncated,
        behaviours=np.array([episode.behaviour for episode in episodes]),
        levels=np.array([episode.level for episode in episodes]),
        indices=np.array([episode.index for episode in episodes]),
        final_states=np.stack([episode.final_state for episode in episodes]),
        metadata=metadata,
        requests=[_NO_REQUEST if e.request is None else e.request for e in episodes],
    )


def checked_arrays(
    source: str,
    *,
    states: ArrayLike,
    actions: ArrayLike,
    rewards: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike | None = None,
    behaviours: ArrayLike | None = None,
    levels: ArrayLike | None = None,
    indices: ArrayLike | None = None,
    final_states: ArrayLike | None = None,
    metadata: dict[str, Any] | None = None,
    requests: ArrayLike | None = None,
) -> TrajectoryArrays:
    """Checks arrays and brings them to the types of `TrajectoryArrays`.

    Steps after the last finished episode are kept as an episode that was truncated there: its
    hindsight commands tell what did happen within the steps that were recorded. `final_states` and
    the other arrays per episode then have an entry for it, too.

    Args:
        source: What error messages call the data: a path, say.
        states: States [N, state_dim].
        actions: Actions [N, action_dim]; discrete ones, of which the metadata say how many there
            are ("n_actions"), may also be [N].
        rewards: Rewards [N].
        terminated: Flags [N].
        truncated: Flags [N]; never if None.
        behaviours: Names [E].
        levels: Levels [E].
        indices: Indices [E]; 0..E-1 if None.
        final_states: States after the last actions [E, state_dim].
        metadata: What is known about the whole.
        requests: Commands [E, 2] that the policy was given, (NaN, NaN) where it was given none.

    Raises:
        DataError: The data are empty, hold NaN or infinite numbers or returns, no numbers at all,
            flags that are neither 0 nor 1, discrete actions that there are not, requests that are
            no commands, or no finished episode.
        ShapeError: An array has another shape than said above.
    """
    n_steps, state_dim = checked_shape(states, "states", source, (None, None)).shape
    ended = checked_flags(terminated, "terminated", source, n_steps)
    cut = checked_flags(
        np.zeros(n_steps) if truncated is None else truncated, "truncated", source, n_steps
    )
    ends = _finished_ends(ended, cut, source)
    n = len(ends)
    cut[-1] |= not ended[-1]
    checked_rewards = checked_numbers(rewards, "rewards", source, (n_steps,), np.float64, ends)
    _check_returns(checked_rewards, ended | cut, source)
    return _counted(
        TrajectoryArrays(
            states=checked_numbers(
                states, "states", source, (n_steps, state_dim), np.float32, ends
            ),
            actions=checked_actions(actions, source, ends, (metadata or {}).get("n_actions")),
            rewards=checked_rewards,
            terminated=ended,
            truncated=cut,
            ends=ends,
            behaviours=checked_names(behaviours, n, source),
            levels=checked_levels(levels, n, source),
            indices=np.arange(n) if indices is None else checked_whole(indices, n, source),
            final_states=None
            if final_states is None
            else checked_numbers(final_states, "final_states", source, (n, state_dim), np.float32),
            metadata=metadata or {},
            requests=_some(checked_requests(requests, n, source)),
        )
    )


def _some(requests: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    """The requests, or None where no episode has one."""
    return None if requests is None or np.isnan(requests).all() else requests


def _check_returns(rewards: NDArray[np.float64], dones: NDArray[np.bool_], source: str) -> None:
    """Refuses rewards that are finite one by one and not summed up, before they are split."""
    if np.abs(rewards).max() * len(rewards) < np.finfo(np.float32).max:
        return
    try:
        compute_hindsight_commands(rewards, dones)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error


def _counted(arrays: TrajectoryArrays) -> TrajectoryArrays:
    counts = {"n_episodes": len(arrays.ends), "n_truncated": int(arrays.truncated.sum())}
    return replace(arrays, metadata={**arrays.metadata, **counts})


def _finished_ends(
    terminated: NDArray[np.bool_], truncated: NDArray[np.bool_], source: str
) -> NDArray[np.intp]:
    dones = terminated | truncated
    if not dones.any():
        raise DataError(
            f"{source}: no episode is finished (no terminated, truncated or done flag is set), so "
            "there is no hindsight command: collect at least one whole episode"
        )
    return episode_ends(dones)
