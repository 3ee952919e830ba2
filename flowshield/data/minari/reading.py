"""Reads a Minari dataset as trajectories."""

__all__ = ["load_minari"]

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowshield.data.arrays import TrajectoryArrays
from flowshield.data.minari.facts import read_facts
from flowshield.data.minari.hdf5 import check_hdf5
from flowshield.data.minari.layout import trajectories
from flowshield.data.minari.place import dataset_folder, dataset_id
from flowshield.data.minari.spaces import action_shape, read_spaces
from flowshield.errors import DataError, FileFormatError, ShapeError


def load_minari(path: str | os.PathLike[str]) -> TrajectoryArrays:
    """Reads the Minari dataset minari:ID of this machine; nothing is downloaded.

    Of a dataset that `save_minari` wrote comes back what was written. Of any other, the metadata's
    "minari" keep what trajectories have no place for: the dataset's own metadata (author, env_spec,
    spaces, ...), each episode's (its seed, ...) by its id, the arrays' types; and "not_kept" says
    in words what is lost.

    Args:
        path: minari:ID.

    Raises:
        ConfigError: Minari is not installed, or the id is not of Minari's form.
        FileFormatError: The dataset is not here, damaged, or of an unknown version.
        DataError: Its spaces are not supported, its numbers are NaN or infinite, or an episode goes
            on after its end.
        ShapeError: Its arrays do not fit each other or its spaces.
    """
    folder = dataset_folder(path) / "data"
    if not folder.is_dir():
        raise FileFormatError(
            f"{path}: there is no such dataset below {dataset_folder('minari:a-v0').parent} "
            f"(MINARI_DATASETS_PATH says where they lie); nothing is downloaded on its own: "
            f"`minari download {dataset_id(path)}` fetches one that Minari's server has"
        )
    facts = read_facts(folder)
    observation_space, action_space = read_spaces(facts, path)
    episodes, told = _read_episodes(folder, facts)
    for number, episode in enumerate(episodes):
        where = f"{path}: episode {number}"
        _check_episode(episode, observation_space.shape, action_shape(action_space), where)
    return trajectories(str(path), facts, action_space, episodes, told)


def _read_episodes(
    folder: Path, facts: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All episodes and what Minari says about each."""
    from minari.dataset.minari_storage import MinariStorage

    if facts["data_format"] == "hdf5":
        check_hdf5(folder / "main_data.hdf5")
    numbers = range(facts["total_episodes"])
    try:
        storage = MinariStorage.read(folder)
        episodes = list(storage.get_episodes(numbers)) if numbers else []
        told = list(storage.get_episode_metadata(numbers))
    except Exception as error:  # a damaged file may raise nearly anything
        raise FileFormatError(f"{folder}: missing, damaged, or foreign: {error!r}") from error
    if not episodes:
        raise DataError(f"{folder}: expected at least one episode, got none")
    steps = sum(len(episode["rewards"]) for episode in episodes)
    if steps != facts["total_steps"]:
        raise DataError(
            f"{folder}: its metadata speak of {facts['total_steps']} steps, its episodes hold "
            f"{steps}: the dataset was changed after it was written"
        )
    return episodes, told


def _check_episode(
    episode: Mapping[str, Any], observation: Sequence[int], action: Sequence[int], where: str
) -> None:
    steps = len(episode["rewards"])
    if not steps:
        raise DataError(f"{where} has no steps")
    expected = {
        "observations": (steps + 1, *observation),
        "actions": (steps, *action),
        "rewards": (steps,),
        "terminations": (steps,),
        "truncations": (steps,),
    }
    for name, shape in expected.items():
        if np.shape(episode[name]) != shape:
            raise ShapeError(
                f"{where}: expected {name} {list(shape)}, got shape {list(np.shape(episode[name]))}"
            )
    ended = np.logical_or(episode["terminations"], episode["truncations"])[:-1]
    if ended.any():
        raise DataError(
            f"{where} goes on after step {int(np.argmax(ended))}, where it was terminated or "
            "truncated: split it there"
        )
