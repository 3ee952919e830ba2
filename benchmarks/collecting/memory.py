"""Whether the dataset goes through the driver: its memory while others collect."""

__all__ = ["MemoryReading", "watch_driver"]

import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass

from collecting.lander import make_lander
from collecting.ours import ENVS_PER_WORKER, endless_chunks
from collecting.policies import behaviour
from flowshield.distributed.rollout_actors import ChunkStats, RolloutActors

_MIB = 2**20


@dataclass(frozen=True)
class MemoryReading:
    """The driver's memory when so much had been collected.

    Attributes:
        transitions: Collected so far.
        resident_mib: Resident memory of this process now.
        peak_mib: The most that it ever was.
    """

    transitions: int
    resident_mib: float
    peak_mib: float


def watch_driver(
    transitions: int,
    num_workers: int,
    every: int,
    say: Callable[[MemoryReading], None],
) -> tuple[list[MemoryReading], float]:
    """Collects with the random policy, keeping the references as `collect_shared` does.

    Args:
        transitions: How many.
        num_workers: Actors.
        every: Transitions between two readings.
        say: Hears every reading as it is taken.

    Returns:
        The readings, from before the first chunk to after the last; and the size of the collected
        tables in MiB.
    """
    import ray

    done, readings = 0, []

    def read() -> None:
        readings.append(MemoryReading(done, _resident(), _peak()))
        say(readings[-1])

    def on_chunk(stats: ChunkStats) -> None:
        nonlocal done
        done += int(stats.lengths.sum())
        if done - readings[-1].transitions >= every:
            read()

    with RolloutActors(make_lander(), behaviour("random"), num_workers, ENVS_PER_WORKER) as actors:
        actors.wait()
        read()
        blocks, _ = actors.collect(endless_chunks(lambda: done < transitions), 0, on_chunk)
    read()
    measure = ray.remote(num_cpus=0)(lambda block: block.nbytes)
    return readings, sum(ray.get([measure.remote(block) for block in blocks])) / _MIB


def _resident() -> float:
    """Linux tells it; elsewhere the peak has to do."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / _MIB
    except OSError:
        return _peak()


def _peak() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB
