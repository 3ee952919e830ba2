"""Rollout actors that gather episodes into the object store."""

__all__ = ["collect_shared"]

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray

from flowshield.data import Behaviour, collect_episodes, describe_collection
from flowshield.data.arrays import arrays_from_episodes
from flowshield.data.arrow import table_of
from flowshield.distributed.errors import own_error
from flowshield.distributed.shared_dataset import SharedDataset
from flowshield.envs import ContinuousEnvWrapper, env_maker

_IN_FLIGHT = 2  # chunks an actor: one to work on, one that waits

OnChunk = Callable[[NDArray[np.float64]], None]


class _Stats(NamedTuple):
    """What this process learns of a chunk."""

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    n_truncated: int


class RolloutWorker:
    """Collects chunks of episodes in environments of its own.

    Args:
        make: Makes one environment.
        n_envs: Environments stepped in lockstep.
        behaviour: What gives each episode its policy; sent once.
    """

    def __init__(
        self, make: Callable[[], ContinuousEnvWrapper], n_envs: int, behaviour: Behaviour
    ) -> None:
        # rollouts are the CPUs' work: an actor that asks for no GPU sees every one of them
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(1)
        self.envs, self.behaviour = [make() for _ in range(n_envs)], behaviour

    def collect(self, indices: range, seed: int) -> tuple[pa.Table, _Stats]:
        """The episodes with these indices as one table, and its counts.

        The same arguments give the same bytes: a chunk whose actor died is simply made again.
        """
        episodes = collect_episodes(self.envs, self.behaviour, indices, seed)
        stats = _Stats(
            np.array([episode.total_return for episode in episodes]),
            np.array([episode.length for episode in episodes]),
            sum(episode.truncated for episode in episodes),
        )
        return table_of(arrays_from_episodes(episodes, {})), stats


def collect_shared(
    env: ContinuousEnvWrapper,
    behaviour: Behaviour,
    n_episodes: int,
    seed: int,
    *,
    num_workers: int,
    envs_per_worker: int = 16,
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
        chunk_episodes: Episodes a task. None = eight an environment, less where there are few
            episodes: a task ends with its longest, and towards the end actors run out of tasks.
        on_chunk: Called with the returns of the episodes of every chunk that is done.

    Raises:
        ConfigError, DataError, ShapeError: As `DataCollector.collect`.
    """
    size = chunk_episodes or _chunk_size(n_episodes, num_workers, envs_per_worker)
    chunks = [range(i, min(i + size, n_episodes)) for i in range(0, n_episodes, size)]
    count = min(num_workers, len(chunks))
    actor: Any = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(RolloutWorker)
    shared_behaviour = ray.put(behaviour)
    n_envs = min(envs_per_worker, size)
    make = env_maker(env.name, env.make_kwargs)
    actors = [actor.remote(make, n_envs, shared_behaviour) for _ in range(count)]

    def make_again(index: int) -> "ray.ObjectRef[pa.Table]":
        # for this one chunk: Ray ends an actor that nobody holds when it has done its work
        another = actor.remote(make, n_envs, shared_behaviour)
        block: ray.ObjectRef[pa.Table]
        block, _ = another.collect.options(num_returns=2).remote(chunks[index], seed)
        return block

    try:
        blocks, stats = _gathered(actors, chunks, seed, on_chunk)
    finally:
        for one in actors:
            ray.kill(one)  # whoever reads the blocks may need the CPUs
    metadata = describe_collection(env, behaviour, seed)
    lengths = np.concatenate([one.lengths for one in stats])
    counts = {
        "n_episodes": len(lengths),
        "n_truncated": sum(one.n_truncated for one in stats),
    }
    returns = np.concatenate([one.returns for one in stats])
    return SharedDataset(blocks, make_again, returns, lengths, {**metadata, **counts})


def _chunk_size(n_episodes: int, num_workers: int, n_envs: int) -> int:
    """As many for every environment, and at least four tasks an actor while there is one for each.

    More than eight an environment would gain little: see `collect_episodes`.
    """
    rounds = n_episodes // (4 * num_workers * n_envs)
    return n_envs * min(8, max(1, rounds))


def _gathered(
    actors: Sequence[Any], chunks: Sequence[range], seed: int, on_chunk: OnChunk | None
) -> tuple[list["ray.ObjectRef[pa.Table]"], list[_Stats]]:
    """Keeps every actor busy until all chunks are done; blocks and counts in order.

    An actor that runs out of chunks takes over what others have not done, and who is first counts
    (the backup tasks of Dean and Ghemawat 2004, MapReduce, section 3.6): nothing waits for an actor
    that no node has room for any more, as long as one is alive.
    """
    untouched, undone = deque(range(len(chunks))), set(range(len(chunks)))
    begun: list[set[int]] = [set() for _ in actors]
    blocks: dict[int, ray.ObjectRef[pa.Table]] = {}
    stats: dict[int, _Stats] = {}
    running: dict[ray.ObjectRef[_Stats], tuple[int, int, ray.ObjectRef[pa.Table]]] = {}

    def give(who: int) -> None:
        if untouched:
            chunk = untouched.popleft()
        elif others := undone - begun[who]:
            chunk = max(others)  # the last that was given: it may well be waiting still
        else:
            return
        begun[who].add(chunk)
        call = actors[who].collect.options(num_returns=2)
        block, counts = call.remote(chunks[chunk], seed)
        running[counts] = chunk, who, block

    for _ in range(_IN_FLIGHT):
        for who in range(len(actors)):
            give(who)
    while undone:
        (done,), _ = ray.wait(list(running), num_returns=1)
        chunk, who, block = running.pop(done)
        if chunk in undone:
            with own_error():
                stats[chunk] = ray.get(done)
            blocks[chunk] = block
            undone.remove(chunk)
            if on_chunk is not None:
                on_chunk(stats[chunk].returns)
        give(who)
    order = range(len(chunks))
    return [blocks[chunk] for chunk in order], [stats[chunk] for chunk in order]
