"""flowshield's rollout actors in steady state."""

__all__ = ["ENVS_PER_WORKER", "RolloutActorsContender", "endless_chunks"]

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Self

from collecting.lander import make_lander
from collecting.policies import behaviour
from flowshield.distributed.rollout_actors import ChunkStats, RolloutActors

ENVS_PER_WORKER = 64
_CHUNK = 8 * ENVS_PER_WORKER  # as in a long collection


def endless_chunks(go_on: Callable[[], bool], first: int = 0) -> Iterator[range]:
    """Chunks of episodes, each the next after the last, while `go_on` says so."""
    for start in itertools.count(first, _CHUNK):
        if not go_on():
            return
        yield range(start, start + _CHUNK)


class RolloutActorsContender:
    """What `collect_shared` runs, with actors that stay from one turn to the next.

    The tables that they make are let go of after each turn; they lie in the object store until
    then.

    Args:
        policy: "random" or "network".
        num_workers: Actors.
    """

    def __init__(self, policy: str, num_workers: int) -> None:
        self._policy, self._num_workers, self._first = policy, num_workers, 0

    def __enter__(self) -> Self:
        """Starts the actors."""
        self._actors = RolloutActors(
            make_lander(), behaviour(self._policy), self._num_workers, ENVS_PER_WORKER
        )
        self._actors.wait()
        return self

    def __exit__(self, *_: object) -> None:
        """Lets go of the actors."""
        self._actors.__exit__()

    def speed(self, seconds: float) -> float:
        """Sum of the actors' speeds, each from the start to the end of its own last chunk.

        So the wait for the slowest, which ends every collection, does not count.
        """
        start = time.perf_counter()
        steps: Counter[int] = Counter()
        end: dict[int, float] = {}

        def on_chunk(stats: ChunkStats) -> None:
            steps[stats.process] += int(stats.lengths.sum())
            end[stats.process] = time.perf_counter()

        chunks = endless_chunks(lambda: time.perf_counter() - start < seconds, self._first)
        _, stats = self._actors.collect(chunks, 0, on_chunk)
        self._first += _CHUNK * len(stats)
        self._actors.wait()  # what is still at work shall not cost the next one its turn
        return sum(steps[process] / (end[process] - start) for process in steps)
