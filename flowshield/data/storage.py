"""Datasets on disk: `.npz` for everyone, `.parquet` folders for many, `.pkl` on request, Minari."""

__all__ = ["dataset_exists", "load_arrays", "save_arrays"]

import io
import json
import os
import pickle
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from pyarrow import fs

import flowshield
from flowshield.atomic import atomic_folder, atomic_write
from flowshield.data.array_checks import holds_text
from flowshield.data.arrays import FORMAT_VERSIONS, TrajectoryArrays, checked_arrays
from flowshield.data.arrow import table_of
from flowshield.data.foreign_tables import arrays_of_table, joined_trajectories
from flowshield.data.minari import is_minari, load_minari, minari_exists, save_minari
from flowshield.data.npz import read_npz
from flowshield.data.parquet import (
    check_replaceable,
    finish_folder,
    load_folder,
    start_folder,
    write_part,
)
from flowshield.data.restricted_pickle import load_plain_pickle
from flowshield.errors import DataError, FileFormatError
from flowshield.filesystem import is_uri, open_place
from flowshield.paths import expanded

_SUFFIXES = (".npz", ".pkl", ".parquet")
_PER_STEP = ("states", "actions", "rewards", "terminated", "truncated")
_PER_EPISODE = ("behaviours", "levels", "indices")


def save_arrays(path: str | os.PathLike[str], arrays: TrajectoryArrays) -> None:
    """Writes trajectories to a file whose bytes depend on nothing but them.

    The file holds the arrays of `TrajectoryArrays` by their names, `dones` for readers that know no
    other flags, and `metadata`, a JSON object with `format_version` and `flowshield_version`. Where
    episodes have requests it is of version 2, which older releases refuse by name; else of 1.

    Args:
        path: Where to; the suffix says which format: `.npz`, `.pkl`, or `.parquet`, a folder, which
            may be at an address of shared storage. Or minari:ID.
        arrays: What to write.

    Raises:
        FileFormatError: The suffix is none of these, or that of a file at an address.
        DataError: The metadata are not fit for JSON.
        OSError: The file cannot be written; one that was there before is still there.
    """
    path = expanded(path)
    if is_minari(path):
        return save_minari(path, arrays)
    suffix = _suffix(path)
    if suffix == ".parquet":
        return _save_folder(path, arrays)
    if is_uri(path):
        raise FileFormatError(
            f"{path}: expected a name that ends in .parquet: to addresses go such folders alone"
        )
    table = _as_table(arrays)
    with atomic_write(path) as file:
        if suffix == ".npz":
            # Not compressed: zlib saves 30% of such numbers and makes writing 15 times as slow.
            np.savez(file, **table)  # type: ignore[arg-type]  # no array is called allow_pickle
        else:
            pickle.dump(table, file, protocol=4)  # 4: arrays come back through _reconstruct


def load_arrays(path: str | os.PathLike[str]) -> TrajectoryArrays:
    """Reads trajectories from a file that `save_arrays`, an older FlowShield or others wrote.

    Older files hold states, actions, rewards and dones and no metadata; others hold D4RL's names,
    or a list of tables: see `arrays_of_table`.

    Args:
        path: A `.npz` or `.pkl` file, or a `.parquet` folder: a path, or an address of shared
            storage such as s3://bucket/data.npz. Or minari:ID, a Minari dataset on this machine.

    Raises:
        FileFormatError: The file is missing, truncated, foreign, or of an unknown version.
        DataError: Its numbers are NaN or infinite, or no episode in it is finished.
        ShapeError: Its arrays do not fit each other.
    """
    path = expanded(path)
    if is_minari(path):
        return load_minari(path)
    suffix = _suffix(path)
    if suffix == ".parquet":
        return load_folder(path)
    if not dataset_exists(path):
        raise FileFormatError(f"{path}: there is no such file; `flowshield collect` makes one")
    with _reading(path) as file:
        table = read_npz(file, path) if suffix == ".npz" else _read_pickle(file, path)
    if "metadata" not in table:
        return arrays_of_table(table, path)
    metadata = _read_metadata(table["metadata"], path)
    names = (*_PER_STEP, *_PER_EPISODE, *(["requests"] if metadata["format_version"] > 1 else []))
    _demand(table, names, path)
    arrays = checked_arrays(
        str(path),
        **{name: table[name] for name in names},
        final_states=table.get("final_states"),
        metadata=metadata,
    )
    _check_counts(arrays, metadata, path)
    return arrays


def dataset_exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file, or for `.parquet` a folder, at this path or address.

    Raises:
        ConfigError: It is an address that pyarrow does not understand.
        OSError: Its storage cannot be reached.
    """
    if is_minari(path):
        return minari_exists(path)
    system, name = open_place(path)
    expected = fs.FileType.Directory if _suffix(path) == ".parquet" else fs.FileType.File
    return bool(system.get_file_info(name).type == expected)


def _save_folder(path: str | os.PathLike[str], arrays: TrajectoryArrays) -> None:
    table = table_of(arrays)
    check_replaceable(path)
    # At an address nothing can be renamed: there the manifest, which comes last, must do.
    with nullcontext(path) if is_uri(path) else atomic_folder(path) as folder:
        start_folder(folder)
        finish_folder(folder, [write_part(folder, 0, table)], arrays.metadata)


def _reading(path: str | os.PathLike[str]) -> IO[bytes]:
    if not is_uri(path):
        return open(path, "rb")
    system, name = open_place(path)
    with system.open_input_stream(name) as stream:
        return io.BytesIO(stream.read())  # zip files are read from their end


def _suffix(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise FileFormatError(
            f"{path}: expected a file name that ends in {' or '.join(_SUFFIXES)}, got {suffix!r}"
        )
    return suffix


def _as_table(arrays: TrajectoryArrays) -> dict[str, NDArray[Any]]:
    table: dict[str, NDArray[Any]] = {
        name: getattr(arrays, name) for name in (*_PER_STEP, *_PER_EPISODE)
    }
    table["dones"] = arrays.dones
    if arrays.final_states is not None:
        table["final_states"] = arrays.final_states
    if arrays.requests is not None:
        table["requests"] = arrays.requests
    versions = {
        "format_version": arrays.format_version,
        "flowshield_version": flowshield.__version__,
    }
    try:
        text = json.dumps({**arrays.metadata, **versions}, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise DataError(f"the metadata are not fit for JSON: {error}") from error
    return {**table, "metadata": np.array(text)}


def _read_pickle(file: IO[bytes], path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        table = load_plain_pickle(file)
    except Exception as error:  # a damaged pickle may raise anything at all
        raise FileFormatError(f"{path}: damaged, or not a pickle of arrays: {error}") from error
    if isinstance(table, list):
        return joined_trajectories(table, path, file.tell())
    if not isinstance(table, dict):
        raise FileFormatError(
            f"{path}: expected a pickled dict of arrays, got a {type(table).__name__}"
        )
    for name, value in table.items():  # a list of lists may unfold without end
        if name == "n_actions" and type(value) is int:
            continue
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise FileFormatError(
                f"{path}: expected a pickled dict of arrays, got a {type(value).__name__} "
                f"as {str(name)[:40]!r}"
            )
    return table


def _read_metadata(value: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        text = np.asarray(value)
        if text.dtype.kind == "U" and not holds_text(text):
            raise ValueError("they hold what is no character")
        metadata = json.loads(str(value))
        version = metadata["format_version"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise FileFormatError(
            f"{path}: its metadata are not those of a flowshield file ({error!r})"
        ) from error
    if version not in FORMAT_VERSIONS:
        raise FileFormatError(
            f"{path}: format version {version!r} is unknown to this release "
            f"({flowshield.__version__}), which reads {' and '.join(map(str, FORMAT_VERSIONS))}: "
            "use the release that wrote the file "
            f"({metadata.get('flowshield_version', 'not named')})"
        )
    return dict(metadata)


def _demand(table: Mapping[str, Any], names: tuple[str, ...], path: str | os.PathLike[str]) -> None:
    missing = [name for name in names if name not in table]
    if missing:
        raise FileFormatError(
            f"{path}: expected the arrays {', '.join(names)}; it lacks {', '.join(missing)} and "
            f"holds {', '.join(map(str, table)) or 'nothing'}"
        )


def _check_counts(
    arrays: TrajectoryArrays, metadata: Mapping[str, Any], path: str | os.PathLike[str]
) -> None:
    for name in ("n_episodes", "n_truncated"):
        if metadata.get(name) != arrays.metadata[name]:
            raise DataError(
                f"{path}: its metadata speak of {name} = {metadata.get(name)}, its arrays hold "
                f"{arrays.metadata[name]}: the file was changed after it was written"
            )
