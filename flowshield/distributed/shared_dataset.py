"""Episodes in the object store: blocks that nobody gathers until somebody asks."""

__all__ = ["SharedDataset"]

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.exceptions import ObjectLostError, RayActorError

from flowshield.data import TrajectoryDataset
from flowshield.data.arrow import arrays_of
from flowshield.data.parquet import finish_folder, start_folder, write_part
from flowshield.filesystem import absolute


class SharedDataset:
    """Whole episodes as Arrow tables in Ray's object store, in the order of their indices.

    This process holds references and counts; the tables lie where they were made. They live as
    long as the Ray session: what must outlive it is written with `write_parquet`. What a node takes
    with it is made again by `to_local` and `write_parquet`.

    Args:
        blocks: References to tables of `flowshield.data.arrow.table_of`, in order.
        make_again: Starts making the block with this index once more, and refers to it.
        episode_returns: Undiscounted return of each episode [E].
        episode_lengths: Steps of each episode [E].
        metadata: What is known about the whole, fit for JSON.
    """

    def __init__(
        self,
        blocks: Sequence["ray.ObjectRef[pa.Table]"],
        make_again: Callable[[int], "ray.ObjectRef[pa.Table]"],
        episode_returns: NDArray[np.float64],
        episode_lengths: NDArray[np.int64],
        metadata: dict[str, Any],
    ) -> None:
        self.blocks, self._make_again = list(blocks), make_again
        self.episode_returns, self.episode_lengths = episode_returns, episode_lengths
        self.metadata = metadata

    def __len__(self) -> int:
        """Number of transitions N."""
        return int(self.episode_lengths.sum())

    def __repr__(self) -> str:
        """Says how much there is, and in how many blocks."""
        return (
            f"SharedDataset({len(self)} transitions, {self.n_episodes} episodes, "
            f"{len(self.blocks)} blocks)"
        )

    @property
    def n_episodes(self) -> int:
        """Number of episodes E."""
        return len(self.episode_lengths)

    def to_ray(self) -> "ray.data.Dataset":
        """The same blocks as a `ray.data.Dataset` of one row a step; nothing is copied."""
        return ray.data.from_arrow_refs(self.blocks)  # type: ignore[arg-type]  # Ray has two

    def to_local(self) -> TrajectoryDataset:
        """All episodes in this process's memory."""
        tables = self._each(lambda _, block: block)
        arrays = arrays_of(tables, "the collected episodes", self.metadata)
        return TrajectoryDataset._from_checked(arrays)

    def write_parquet(self, path: str | os.PathLike[str]) -> None:
        """Writes a folder that `TrajectoryDataset(path)` reads, each block from where it lies.

        Args:
            path: The folder, by custom `.parquet`: a path that every node can write, or an address
                such as s3://bucket/data.parquet. What lay there is replaced.

        Raises:
            OSError: It cannot be written.
        """
        target = absolute(path)
        start_folder(target)
        write = ray.remote(num_cpus=0.5)(write_part)
        parts = self._each(lambda index, block: write.remote(target, index, block))
        finish_folder(target, parts, self.metadata)

    def _each(self, use: Callable[[int, Any], "ray.ObjectRef[Any]"]) -> list[Any]:
        """What becomes of every block, in order; those that are lost are made again."""
        results: dict[int, Any] = {}
        while len(results) < len(self.blocks):
            used = {i: use(i, block) for i, block in enumerate(self.blocks) if i not in results}
            ray.wait(list(used.values()), num_returns=len(used))  # all at once, not one by one
            for index, result in used.items():
                try:
                    results[index] = ray.get(result)
                except (ObjectLostError, RayActorError):
                    self.blocks[index] = self._make_again(index)
        return [results[index] for index in range(len(self.blocks))]
