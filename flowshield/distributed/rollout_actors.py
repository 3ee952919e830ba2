"""Rollout actors: processes that collect chunks of episodes, and how they are kept busy."""

__all__ = ["ChunkStats", "RolloutActors"]

import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray

from flowshield.data import Behaviour, collect_episodes
from flowshield.data.arrays import arrays_from_episodes
from flowshield.data.arrow import table_of
from flowshield.distributed.backup_tasks import keep_busy
from flowshield.distributed.errors import own_error
from flowshield.envs import EnvWrapper, env_maker

MakeEnv = Callable[[], EnvWrapper]

_IN_FLIGHT = 2  # chunks an actor: one to work on, one that waits


class ChunkStats(NamedTuple):
    """What this process learns of a chunk.

    Attributes:
        returns: Undiscounted return of each episode.
        lengths: Steps of each episode.
        n_truncated: Episodes that a step limit cut off.
        process: Id of the process that collected it, on its machine.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    n_truncated: int
    process: int


class RolloutWorker:
    """Collects chunks of episodes in environments of its own.

    References come with each task and not with the constructor: Ray warns of constructor arguments
    in the object store, which an actor that starts again may no longer find.

    Args:
        n_envs: Environments stepped in lockstep.
    """

    def __init__(self, n_envs: int) -> None:
        # rollouts are the CPUs' work: an actor that asks for no GPU sees every one of them
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(1)
        self.n_envs = n_envs
        self.envs: list[EnvWrapper] = []
        self.behaviour: Behaviour | None = None

    def ready(self, make: list["ray.ObjectRef[MakeEnv]"]) -> None:
        """Makes the environments: what they raise is a task's error, and comes out as itself.

        Args:
            make: A reference to what makes one environment, the same for every task; in a list, so
                that it is read once an actor and not once a task.
        """
        if not self.envs:
            made: MakeEnv = ray.get(make[0])
            self.envs = [made() for _ in range(self.n_envs)]

    def collect(
        self,
        indices: range,
        seed: int,
        make: list["ray.ObjectRef[MakeEnv]"],
        behaviour: list["ray.ObjectRef[Behaviour]"],
    ) -> tuple[pa.Table, ChunkStats]:
        """The episodes with these indices as one table, and its counts.

        The same arguments give the same bytes: a chunk whose actor died is simply made again.

        Args:
            indices: Of the episodes.
            seed: Seed of the collection.
            make: As for `ready`.
            behaviour: In the same way, what gives each episode its policy.
        """
        self.ready(make)
        if self.behaviour is None:
            self.behaviour = ray.get(behaviour[0])
        episodes = collect_episodes(self.envs, self.behaviour, indices, seed)
        stats = ChunkStats(
            np.array([episode.total_return for episode in episodes]),
            np.array([episode.length for episode in episodes]),
            sum(episode.truncated for episode in episodes),
            os.getpid(),
        )
        n_actions = self.envs[0].n_actions
        facts = {} if n_actions is None else {"n_actions": n_actions}
        return table_of(arrays_from_episodes(episodes, facts)), stats


class RolloutActors:
    """Actors that collect one behaviour's episodes, until the `with` block ends.

    Args:
        env: One of the environments; actors make their own from its name and arguments.
        behaviour: What gives each episode its policy. It is put into the object store once.
        num_workers: Actors, one CPU each.
        envs_per_worker: Environments that an actor steps in lockstep.

    Raises:
        ConfigError: The environment cannot be made again.
    """

    def __init__(
        self,
        env: EnvWrapper,
        behaviour: Behaviour,
        num_workers: int,
        envs_per_worker: int,
    ) -> None:
        self._make: ray.ObjectRef[MakeEnv] = ray.put(env_maker(env.name, env.make_kwargs))
        self._n_envs = envs_per_worker
        self._behaviour = ray.put(behaviour)
        self._actors = [self._start() for _ in range(num_workers)]

    def __enter__(self) -> Self:
        """The actors, which may still be starting."""
        return self

    def __exit__(self, *_: object) -> None:
        """Lets go of the actors: each ends after what it is at, and leaves its CPU to others."""
        self._actors.clear()

    def wait(self) -> None:
        """Returns once every actor has its environments."""
        with own_error():
            ray.get([actor.ready.remote([self._make]) for actor in self._actors])

    def collect(
        self,
        chunks: Iterable[range],
        seed: int,
        on_chunk: Callable[[ChunkStats], None] | None = None,
    ) -> tuple[list["ray.ObjectRef[pa.Table]"], list[ChunkStats]]:
        """Has every chunk collected, see `keep_busy`.

        Args:
            chunks: Indices of the episodes, a task each; asked for the next when an actor is free.
            seed: Seed of the collection.
            on_chunk: Called with the counts of every chunk that is done.

        Returns:
            Blocks, which stay in the object store, and counts, in the order of the chunks.
        """
        blocks: dict[int, ray.ObjectRef[pa.Table]] = {}
        stats: dict[int, ChunkStats] = {}

        def begin(
            actor: Any, chunk: range
        ) -> tuple["ray.ObjectRef[ChunkStats]", "ray.ObjectRef[pa.Table]"]:
            block, counts = self._collect(actor, chunk, seed)
            return counts, block

        for number, counts, block in keep_busy(self._actors, chunks, begin, _IN_FLIGHT):
            with own_error():
                stats[number] = ray.get(counts)
            blocks[number] = block
            if on_chunk is not None:
                on_chunk(stats[number])
        order = range(len(blocks))
        return [blocks[number] for number in order], [stats[number] for number in order]

    def collect_again(self, chunk: range, seed: int) -> "ray.ObjectRef[pa.Table]":
        """Starts making the block of one chunk once more, also after the `with` block."""
        # Ray ends an actor that nobody holds when it has done its work
        return self._collect(self._start(), chunk, seed)[0]

    def _start(self) -> Any:
        actor: Any = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(RolloutWorker)
        return actor.remote(self._n_envs)

    def _collect(
        self, actor: Any, chunk: range, seed: int
    ) -> tuple["ray.ObjectRef[pa.Table]", "ray.ObjectRef[ChunkStats]"]:
        task = actor.collect.options(num_returns=2)
        block, counts = task.remote(chunk, seed, [self._make], [self._behaviour])
        return block, counts
