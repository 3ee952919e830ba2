"""Trajectories as flat arrays, checked once where they enter."""

__all__ = ["TrajectoryArrays", "arrays_from_episodes", "checked_arrays"]

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowshield.data.episode import Episode
from flowshield.data.hindsight import (
    compute_hindsight_commands,
    episode_ends,
    place_of_step,
)
from flowshield.errors import DataError, ShapeError

_Real = TypeVar("_Real", bound=np.floating[Any])


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

    Raises:
        DataError: The data are empty, hold NaN or infinite numbers or returns, no numbers at all,
            flags that are neither 0 nor 1, discrete actions that there are not, or no finished
            episode.
        ShapeError: An array has another shape than said above.
    """
    n_steps, state_dim = _shaped(states, "states", source, (None, None)).shape
    ended = _flags(terminated, "terminated", source, n_steps)
    cut = _flags(
        np.zeros(n_steps) if truncated is None else truncated, "truncated", source, n_steps
    )
    ends = _finished_ends(ended, cut, source)
    n = len(ends)
    cut[-1] |= not ended[-1]
    checked_rewards = _numbers(rewards, "rewards", source, (n_steps,), np.float64, ends)
    _check_returns(checked_rewards, ended | cut, source)
    return _counted(
        TrajectoryArrays(
            states=_numbers(states, "states", source, (n_steps, state_dim), np.float32, ends),
            actions=_actions(actions, source, ends, (metadata or {}).get("n_actions")),
            rewards=checked_rewards,
            terminated=ended,
            truncated=cut,
            ends=ends,
            behaviours=_names(behaviours, n, source),
            levels=_levels(levels, n, source),
            indices=np.arange(n) if indices is None else _whole(indices, n, source),
            final_states=None
            if final_states is None
            else _numbers(final_states, "final_states", source, (n, state_dim), np.float32),
            metadata=metadata or {},
        )
    )


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


def _shaped(
    values: ArrayLike, name: str, source: str, shape: tuple[int | None, ...]
) -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ShapeError(f"{source}: {name} is no rectangular array: {error}") from error
    wanted = "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"
    fits = array.ndim == len(shape) and all(
        size in (None, got) for size, got in zip(shape, array.shape, strict=False)
    )
    if not fits:
        raise ShapeError(f"{source}: expected {name} {wanted}, got shape {list(array.shape)}")
    if not array.size:
        raise DataError(f"{source}: {name} is empty; expected at least one step")
    return array


def _numbers(
    values: ArrayLike,
    name: str,
    source: str,
    shape: tuple[int | None, ...],
    dtype: type[_Real],
    ends: NDArray[np.intp] | None = None,
) -> NDArray[_Real]:
    """Numbers of each step where there are `ends`, else of each episode."""
    array = _shaped(values, name, source, shape)
    if array.dtype.kind not in "fiub":
        raise DataError(f"{source}: expected numbers as {name}, got {array.dtype}")
    with np.errstate(over="ignore"):  # what does not fit is infinite, and named below
        numbers = array.astype(dtype)
    finite = np.isfinite(numbers).reshape(len(numbers), -1).all(axis=1)
    if not finite.all():
        place = int(np.argmin(finite))
        where = f"episode {place}" if ends is None else place_of_step(place, ends)
        raise DataError(
            f"{source}: {name}[{place}] is {array[place].tolist()} ({where}); expected finite "
            f"numbers that {np.dtype(dtype)} can hold: remove its episode "
            f"({int((~finite).sum())} such entries in all)"
        )
    return numbers


def _actions(
    values: ArrayLike, source: str, ends: NDArray[np.intp], n_actions: Any
) -> NDArray[np.float32] | NDArray[np.int64]:
    n_steps = int(ends[-1]) + 1
    if n_actions is None:
        return _numbers(values, "actions", source, (n_steps, None), np.float32, ends)
    if type(n_actions) is not int or n_actions < 1:
        raise DataError(f"{source}: expected n_actions >= 1 in the metadata, got {n_actions!r}")
    one_a_step = np.ndim(values) == 1
    shape = (n_steps,) if one_a_step else (n_steps, 1)
    numbers = _numbers(values, "actions", source, shape, np.float64, ends)
    wrong = (numbers < 0) | (numbers >= n_actions) | (numbers % 1 != 0)
    if wrong.any():
        raise DataError(
            f"{source}: expected discrete actions 0..{n_actions - 1}, got {numbers[wrong][0]:g} "
            f"({int(wrong.sum())} such entries in all)"
        )
    return numbers.astype(np.int64).reshape(-1, 1)


def _flags(values: ArrayLike, name: str, source: str, n_steps: int) -> NDArray[np.bool_]:
    array = _shaped(values, name, source, (n_steps,))
    if array.dtype.kind not in "fiub" or not np.isin(array, (0, 1)).all():
        raise DataError(f"{source}: expected flags 0 or 1 as {name}, got {array.dtype} {array}")
    return array.astype(np.bool_)


def _names(values: ArrayLike | None, n_episodes: int, source: str) -> NDArray[np.str_]:
    if values is None:
        return np.full(n_episodes, "", dtype=np.str_)
    array = _shaped(values, "behaviours", source, (n_episodes,))
    if array.dtype.kind != "U":
        raise DataError(f"{source}: expected text as behaviours, got {array.dtype}")
    return array


def _levels(values: ArrayLike | None, n_episodes: int, source: str) -> NDArray[np.float64]:
    if values is None:
        return np.full(n_episodes, np.nan)
    array = _shaped(values, "levels", source, (n_episodes,))
    if array.dtype.kind not in "fiu":
        raise DataError(f"{source}: expected numbers as levels, got {array.dtype}")
    return array.astype(np.float64)


def _whole(values: ArrayLike, n_episodes: int, source: str) -> NDArray[np.intp]:
    array = _shaped(values, "indices", source, (n_episodes,))
    if array.dtype.kind not in "iu":
        raise DataError(f"{source}: expected whole numbers as indices, got {array.dtype}")
    return array.astype(np.intp)
