"""Size of a collection before it starts, and whether this machine has room for it."""

__all__ = ["check_room_for"]

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flowshield.counted import counted
from flowshield.data.episode import Episode
from flowshield.data.rollout import step_limit
from flowshield.envs import EnvWrapper
from flowshield.errors import ConfigError
from flowshield.room import MEMORY_COPIES, free_disk, free_memory, in_words

_FIRST_EPISODES = 4
_FIRST_STEPS = 2000  # of each of these, at most: they are played to be counted

Play = Callable[[int], Sequence[Episode]]


def check_room_for(
    env: EnvWrapper, n_episodes: int, play: Play, place: Path | None = None
) -> str | None:
    """Refuses a collection that memory or disk cannot hold.

    The step limit bounds the size from above. Where that bound fits, nothing more is done. Where it
    does not, it may be far too high: so the first episodes are played, and how long they last
    decides. Where none of them ends, all are taken to last up to the limit.

    Args:
        env: The environment.
        n_episodes: Episodes to collect.
        play: Collects so many of the first episodes in `env`.
        place: Where the dataset is to be written; None = nowhere.

    Returns:
        What a user should know where the bound does not fit and the collection should; else None.

    Raises:
        ConfigError: It does not fit, or the environment has no step limit.
    """
    limit, step = step_limit(env), _step_bytes(env)
    memory, disk = free_memory(), None if place is None else free_disk(place)
    room = memory // MEMORY_COPIES if disk is None else min(memory // MEMORY_COPIES, disk)
    most = n_episodes * limit * step
    if most <= room:
        return None
    fitting = room // (n_episodes * step)  # steps an episode
    steps, evidence = _expected_steps(env, min(fitting + 1, limit, _FIRST_STEPS), n_episodes, play)
    size = n_episodes * steps * step
    bound = f"{counted(n_episodes, 'episode')} of environment {env.name!r}"
    if size <= room:
        return (
            f"{bound} could take {in_words(most)} by the step limit of {limit}; {evidence}: about "
            f"{in_words(size)} are expected"
        )
    left = f"{in_words(memory)} of memory" + (f" and {in_words(disk)} of disk" if disk else "")
    ways = [f"n_episodes={room // (steps * step)}"] if room >= steps * step else []
    ways += [f"max_episode_steps={fitting}"] if fitting else []
    keys = "; on the command line data.n_episodes, +env.kwargs.max_episode_steps" if ways else ""
    raise ConfigError(
        f"{bound} {'needs' if n_episodes == 1 else 'need'} about {in_words(size)}: {step:,} bytes "
        f"a step, up to {counted(limit, 'step')} an episode ({evidence}). Memory has to hold "
        f"{MEMORY_COPIES} times that while data are collected and trained on, with Ray's object "
        f"store. This machine has {left} left: choose "
        f"{', or '.join([*ways, 'smaller observations'])}{keys}"
    )


def _step_bytes(env: EnvWrapper) -> int:
    """Bytes of a step in a dataset: state, action, reward and two flags."""
    action = 4 * env.action_dim if env.n_actions is None else 8
    return 4 * env.state_dim + action + 8 + 2


def _expected_steps(env: EnvWrapper, most: int, n_episodes: int, play: Play) -> tuple[int, str]:
    """Mean steps of an episode, and in words what says so.

    Args:
        env: The environment.
        most: Steps after which the first episodes are cut off.
        n_episodes: Episodes of the collection.
        play: See `check_room_for`.
    """
    limit = step_limit(env)
    with _cut_off_after(env, most):
        episodes = play(min(n_episodes, _FIRST_EPISODES))
    ended = sum(episode.length < most or most == limit for episode in episodes)
    if not ended:
        return limit, f"none of the first {len(episodes)} ends within {most}"
    # what an exponential law makes likeliest where some are cut off
    steps = math.ceil(sum(episode.length for episode in episodes) / ended)
    first = f"the first {len(episodes)} last" if len(episodes) > 1 else "the first one lasts"
    return min(steps, limit), f"{first} about {counted(min(steps, limit), 'step')}"


@contextmanager
def _cut_off_after(env: EnvWrapper, steps: int) -> Iterator[None]:
    before, env.max_episode_steps = env.max_episode_steps, steps
    try:
        yield
    finally:
        env.max_episode_steps = before
