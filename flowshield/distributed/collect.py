"""Gathers episodes into the object store with rollout actors."""

__all__ = ["collect_shared"]

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from flowshield.data import Behaviour, describe_collection
from flowshield.distributed.rollout_actors import ChunkStats, RolloutActors
from flowshield.distributed.shared_dataset import SharedDataset
from flowshield.envs import EnvWrapper

OnChunk = Callable[[NDArray[np.float64]], None]


def collect_shared(
    env: EnvWrapper,
    behaviour: Behaviour,
    n_episodes: int,
    seed: int,
    *,
    num_workers: int,
    envs_per_worker: int = 64,
    chunk_episodes: int | None = None,
    on_chunk: OnChunk | None = None,
) -> SharedDataset:
    """Collects the episodes 0..n_episodes-1 of a seed with rollout actors.

    What an episode draws depends on the seed and its index alone, so that the dataset is the same
    whatever the number of actors, and whatever became of them meanwhile.

    Args:
        env: One of the environments; actors make their own from its name and arguments.
        behaviour: What gives each episode its policy.
        n_episodes: Number of episodes.
        seed: Seed of the collection.
        num_workers: Actors, one CPU each.
        envs_per_worker: Environments that an actor steps in lockstep.
        chunk_episodes: Episodes a task. None = up to eight an environment, less where there are few
            episodes: a task ends with its longest, and towards the end actors run out of tasks.
        on_chunk: Called with the returns of the episodes of every chunk that is done.

    Raises:
        ConfigError, DataError, ShapeError: As `DataCollector.collect`.
    """
    size = chunk_episodes or _chunk_size(n_episodes, num_workers, envs_per_worker)
    chunks = [range(i, min(i + size, n_episodes)) for i in range(0, n_episodes, size)]

    def hear(stats: ChunkStats) -> None:
        if on_chunk is not None:
            on_chunk(stats.returns)

    count, n_envs = min(num_workers, len(chunks)), min(envs_per_worker, size)
    with RolloutActors(env, behaviour, count, n_envs) as actors:
        blocks, stats = actors.collect(chunks, seed, hear)
    lengths = np.concatenate([one.lengths for one in stats])
    counts = {
        "n_episodes": len(lengths),
        "n_truncated": int(sum(one.n_truncated for one in stats)),
    }
    returns = np.concatenate([one.returns for one in stats])
    metadata = {**describe_collection(env, behaviour, seed), **counts}
    return SharedDataset(
        blocks, lambda index: actors.collect_again(chunks[index], seed), returns, lengths, metadata
    )


def _chunk_size(n_episodes: int, num_workers: int, n_envs: int) -> int:
    """At least four tasks an actor while there are as many episodes.

    Where there are more than one for each environment, as many for each, up to eight: more would
    gain little, see `collect_episodes`.
    """
    share = max(1, n_episodes // (4 * num_workers))
    return share if share < n_envs else n_envs * min(8, share // n_envs)
