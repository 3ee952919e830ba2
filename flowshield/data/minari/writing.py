"""Writes trajectories as a Minari dataset."""

__all__ = ["save_minari"]

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import flowshield
from flowshield.atomic import atomic_folder
from flowshield.data.arrays import TrajectoryArrays
from flowshield.data.minari.description import Description, describe
from flowshield.data.minari.place import dataset_folder, dataset_id
from flowshield.data.minari.spaces import action_shape
from flowshield.data.seeding import draw_env_seed, episode_generator
from flowshield.errors import ConfigError, DataError


def save_minari(path: str | os.PathLike[str], arrays: TrajectoryArrays) -> None:
    """Writes trajectories as the Minari dataset minari:ID of this machine.

    An episode's behaviour, level and index, and its request where episodes have any, go into its
    metadata, its seed where Minari has a place for it; ours are the dataset's "flowshield". What
    `load_minari` kept of a dataset from elsewhere is written back. Final states that nobody
    recorded are NaN, for Minari wants T + 1 observations.

    Args:
        path: minari:ID.
        arrays: What to write.

    Raises:
        ConfigError: Minari is not installed, the id is not of Minari's form, or its folder holds
            something else.
        DataError: The metadata are not fit for JSON, or their spaces do not fit the arrays.
        OSError: It cannot be written; a dataset that was there before is still there.
    """
    folder = dataset_folder(path)
    if folder.exists() and not _is_dataset(folder):
        raise ConfigError(f"{path}: {folder} is no dataset, and is not replaced: choose another id")
    try:
        json.dumps(arrays.metadata)
    except (TypeError, ValueError) as error:
        raise DataError(f"the metadata are not fit for JSON: {error}") from error
    description = describe(arrays)
    from minari import __version__
    from minari.dataset.minari_storage import MinariStorage

    _make_namespace(dataset_id(path))
    with atomic_folder(folder) as new:
        storage = MinariStorage.new(
            new / "data",
            observation_space=description.observation_space,
            action_space=description.action_space,
            data_format="hdf5",
        )
        storage.update_metadata(
            {
                **description.facts,
                "dataset_id": dataset_id(path),
                "minari_version": __version__,
                "flowshield": {
                    "format_version": arrays.format_version,
                    "flowshield_version": flowshield.__version__,
                    "metadata": arrays.metadata,
                },
            }
        )
        storage.update_episodes(_episodes(arrays, description))
        storage.update_episode_metadata(_told(arrays, description))


def _is_dataset(folder: Path) -> bool:
    """Whether a folder holds a dataset as Minari writes it, and nothing else."""
    alone = os.listdir(folder) == ["data"] if folder.is_dir() else False
    return alone and (folder / "data" / "metadata.json").is_file()


def _make_namespace(name: str) -> None:
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.namespace import create_namespace, list_local_namespaces

    namespace = parse_dataset_id(name)[0]
    if namespace is not None and namespace not in list_local_namespaces():
        create_namespace(namespace)


def _episodes(arrays: TrajectoryArrays, description: Description) -> Iterator[Any]:
    from minari.data_collector.episode_buffer import EpisodeBuffer

    dtypes = description.dtypes
    one_state = description.observation_space.shape
    one_action = action_shape(description.action_space)
    for number, (start, end) in enumerate(zip(arrays.starts, arrays.ends, strict=True)):
        steps = slice(start, end + 1)
        states = arrays.states[steps]
        final = np.full_like(states[0], np.nan)
        if arrays.final_states is not None:
            final = arrays.final_states[number]
        observations = np.vstack([states, final])
        actions = arrays.actions[steps]
        index = int(arrays.indices[number])
        rows: dict[str, Any] = {
            "observations": observations.reshape(-1, *one_state).astype(dtypes["observations"]),
            "actions": actions.reshape(-1, *one_action).astype(dtypes["actions"]),
            "rewards": arrays.rewards[steps].astype(dtypes["rewards"]),
            "terminations": arrays.terminated[steps],
            "truncations": arrays.truncated[steps],
        }
        yield EpisodeBuffer(
            id=number, seed=_seed(arrays.metadata, description.episodes, index), **rows
        )


def _seed(
    metadata: Mapping[str, Any], episodes: Mapping[str, Mapping[str, Any]], index: int
) -> int | None:
    """The seed that the environment was reset with, as far as it is known."""
    if str(index) in episodes:
        seed: int | None = episodes[str(index)].get("seed")
        return seed
    if "behaviour" in metadata and isinstance(metadata.get("seed"), int):
        return draw_env_seed(episode_generator(metadata["seed"], index))
    return None


def _told(arrays: TrajectoryArrays, description: Description) -> Iterator[dict[str, Any]]:
    columns = {
        "behaviour": arrays.behaviours.tolist(),
        "level": arrays.levels.tolist(),
        "episode_index": arrays.indices.tolist(),
    }
    if arrays.requests is not None:
        columns["request"] = arrays.requests.tolist()
    for values in zip(*columns.values(), strict=True):
        ours = dict(zip(columns, values, strict=True))
        kept = description.episodes.get(str(ours["episode_index"]), {})
        yield {**{name: fact for name, fact in kept.items() if name != "seed"}, **ours}
