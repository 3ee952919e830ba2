"""Commands that an episode has, in hindsight, obeyed: (horizon H, return R)."""

__all__ = [
    "compute_hindsight_commands",
    "episode_ends",
    "place_of_step",
    "sample_future_commands",
]

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowshield.errors import DataError, ShapeError


def compute_hindsight_commands(rewards: ArrayLike, dones: ArrayLike) -> NDArray[np.float32]:
    """Computes for every step how many steps and how much return its episode still holds.

    H counts the steps that remain including this one, so it is 1 at the last step; R includes
    this step's reward. Steps after the last done flag form an episode that ends where the array
    ends, as if it had been truncated there.

    Args:
        rewards: Rewards [N] of the episodes one after another.
        dones: Flags [N], true at the last step of an episode (terminated or truncated).

    Returns:
        Commands [N, 2], float32: (H in steps, R in units of the reward).

    Raises:
        ShapeError: The arrays are not one-dimensional or differ in length.
        DataError: They are empty, a reward or return is NaN or infinite, or a flag is neither 0
            nor 1.
    """
    checked_rewards, flags = _check(rewards, dones)
    ends = episode_ends(flags)
    end_of_step = _end_of_step(ends)
    sums = _anchored_sums(checked_rewards, ends)
    commands = np.empty((len(checked_rewards), 2), np.float32)
    commands[:, 0] = end_of_step - np.arange(len(end_of_step)) + 1
    with np.errstate(over="ignore", invalid="ignore"):  # named below
        commands[:, 1] = sums[end_of_step] - sums + checked_rewards
    finite = np.isfinite(commands[:, 1])
    if not finite.all():
        raise DataError(
            f"the return from {place_of_step(int(np.argmin(finite)), ends)} on is no finite number "
            f"that float32 can hold ({int((~finite).sum())} such steps in all): scale the rewards, "
            "or remove the episode"
        )
    return commands


def sample_future_commands(
    states: ArrayLike,
    rewards: ArrayLike,
    dones: ArrayLike,
    batch_indices: ArrayLike,
    *,
    rng: np.random.Generator | None = None,
) -> NDArray[np.float32]:
    """Draws for each sampled step t a later step t' of its episode and commands to get there.

    t' is uniform over t..T-1, where T-1 is the last step of the episode of t; the command is
    (t' - t + 1, sum of the rewards t..t').

    Args:
        states: All states [N, state_dim]; only their number is looked at.
        rewards: All rewards [N].
        dones: All flags [N], true at the last step of an episode.
        batch_indices: Indices of the sampled steps [batch], in 0..N-1.
        rng: Where t' is drawn from; None draws from fresh, unrepeatable randomness.

    Returns:
        Commands [batch, 2], float32: (steps, return).

    Raises:
        ShapeError: The arrays differ in length or have too many dimensions.
        DataError: They are empty, a reward is NaN or infinite, a flag is neither 0 nor 1, or an
            index is no whole number in 0..N-1.
    """
    checked_rewards, flags = _check(rewards, dones)
    n_states = len(np.asarray(states))
    if n_states != len(flags):
        raise ShapeError(f"expected {len(flags)} states, as many as rewards, got {n_states}")
    start = _check_indices(batch_indices, len(flags))
    ends = episode_ends(flags)
    sums = _anchored_sums(checked_rewards, ends)
    last = ends[np.searchsorted(ends, start)]
    target = (rng or np.random.default_rng()).integers(start, last, endpoint=True)
    returns = sums[target] - sums[start] + checked_rewards[start]
    return np.stack([target - start + 1, returns], axis=1).astype(np.float32)


def episode_ends(dones: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Gives the index [E] of the last step of each episode; the last step of all ends the last."""
    ends = np.flatnonzero(dones)
    return ends if dones[-1] else np.append(ends, len(dones) - 1)


def place_of_step(step: int, ends: NDArray[np.intp]) -> str:
    """Which episode a step belongs to and which of its steps it is, for messages; both from 0."""
    episode = int(np.searchsorted(ends, step))
    first = int(ends[episode - 1]) + 1 if episode else 0
    return f"episode {episode}, step {step - first}"


def _end_of_step(ends: NDArray[np.intp]) -> NDArray[np.intp]:
    return np.repeat(ends, np.diff(ends, prepend=-1))


def _anchored_sums(rewards: NDArray[np.float64], ends: NDArray[np.intp]) -> NDArray[np.float64]:
    """Sums up so that differences within an episode are as exact as summing that episode alone.

    A plain cumulative sum over a million steps grows until its rounding exceeds a small reward.
    Here the previous episode's total is taken off at each start, so the sum stays as small as the
    returns themselves.
    """
    starts = np.append(0, ends[:-1] + 1)
    steps = rewards.copy()
    steps[starts[1:]] -= np.add.reduceat(rewards, starts)[:-1]
    return np.cumsum(steps)


def _check(rewards: ArrayLike, dones: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    checked, flags = np.asarray(rewards, dtype=np.float64), np.asarray(dones)
    if checked.ndim != 1 or checked.shape != flags.shape:
        raise ShapeError(
            f"expected rewards [N] and dones [N] of one length, "
            f"got shapes {list(checked.shape)} and {list(flags.shape)}"
        )
    if not len(checked):
        raise DataError("expected at least one step, got empty rewards and dones")
    if not np.isfinite(checked).all():
        place = int(np.argmin(np.isfinite(checked)))
        where = place_of_step(place, episode_ends(_as_flags(flags)))
        raise DataError(
            f"reward {place} of {len(checked)} is {checked[place]} ({where}); expected finite "
            "numbers: remove the episode it belongs to"
        )
    return checked, _as_flags(flags)


def _as_flags(values: NDArray[Any]) -> NDArray[np.bool_]:
    if values.dtype == np.bool_:
        return values
    flags: NDArray[np.bool_] = values.astype(np.bool_)
    if not np.array_equal(flags, values):
        wrong = values[flags != values][0]
        raise DataError(f"expected done flags that are 0 or 1, got {wrong}")
    return flags


def _check_indices(batch_indices: ArrayLike, n_steps: int) -> NDArray[np.intp]:
    indices = np.asarray(batch_indices)
    if indices.ndim != 1:
        raise ShapeError(f"expected batch_indices [batch], got shape {list(indices.shape)}")
    if indices.size and not np.issubdtype(indices.dtype, np.integer):
        raise DataError(f"expected whole numbers as batch_indices, got {indices.dtype}")
    if indices.size and (indices.min() < 0 or indices.max() >= n_steps):
        raise DataError(
            f"expected batch_indices in 0..{n_steps - 1}, "
            f"got {int(indices.min())}..{int(indices.max())}"
        )
    return indices.astype(np.intp)
