"""A dataset as a folder of Parquet files, here or on shared storage."""

__all__ = [
    "SUFFIX",
    "check_replaceable",
    "finish_folder",
    "load_folder",
    "part_path",
    "start_folder",
    "write_part",
]

import json
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

import flowshield
from flowshield.data.array_checks import LONGEST_NAME
from flowshield.data.arrays import FORMAT_VERSIONS, TrajectoryArrays
from flowshield.data.arrow import REQUEST_COLUMNS, arrays_of, has_requests
from flowshield.errors import ConfigError, FileFormatError, FlowshieldError
from flowshield.filesystem import open_place
from flowshield.limits import check_unfolded

SUFFIX = ".parquet"
_MANIFEST = "flowshield.json"
_BEGUN = "flowshield.begun"  # there until the manifest is
_PROOFS = {_MANIFEST, _BEGUN}
_PART = re.compile(r"part-\d{5,}\.parquet")
_PIECE = 64 << 20  # bytes that are read at a time


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Lets a folder be replaced only where it holds a dataset of flowshield's and nothing else.

    Args:
        path: The folder, there or not: a path, or an address of shared storage.

    Raises:
        ConfigError: It holds something else.
    """
    system, folder = open_place(path)
    found = system.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    names = {entry.base_name for entry in found}
    others = sorted(name for name in names if name not in _PROOFS and not _PART.fullmatch(name))
    if not others and names and names.isdisjoint(_PROOFS):
        others = sorted(names)  # Parquet files, and nobody says that they are ours
    if others:
        raise ConfigError(
            f"{os.fspath(path)} holds what belongs to no dataset of flowshield, {others[0]!r}, and "
            "is not replaced: choose another name"
        )


def start_folder(path: str | os.PathLike[str]) -> None:
    """Makes the folder, and takes away the dataset that lay there before.

    Raises:
        ConfigError: It holds something else.
        OSError: It cannot be made.
    """
    check_replaceable(path)
    system, folder = open_place(path)
    system.create_dir(folder, recursive=True)
    with system.open_output_stream(f"{folder}/{_BEGUN}") as file:
        file.write(b"flowshield writes a dataset here; it is finished when this file is gone\n")
    for found in system.get_file_info(fs.FileSelector(folder)):
        if found.base_name == _MANIFEST or _PART.fullmatch(found.base_name):
            system.delete_file(found.path)


def part_path(index: int) -> str:
    """Name of the part with this index."""
    return f"part-{index:05d}{SUFFIX}"


def write_part(path: str | os.PathLike[str], index: int, table: pa.Table) -> int:
    """Writes one part, as `flowshield.data.arrow.table_of` made it.

    Returns:
        The format version that a folder with this part has at least.
    """
    system, folder = open_place(path)
    pq.write_table(table, f"{folder}/{part_path(index)}", filesystem=system)
    return 2 if has_requests(table) else 1


def finish_folder(
    path: str | os.PathLike[str], parts: Sequence[int], metadata: dict[str, Any]
) -> None:
    """Writes the manifest, without which the folder is not a dataset: half of one is none.

    Args:
        path: The folder.
        parts: What `write_part` returned for each part.
        metadata: What is known about the whole, fit for JSON.
    """
    system, folder = open_place(path)
    manifest = {
        **metadata,
        "format_version": max(parts),
        "flowshield_version": flowshield.__version__,
        "n_parts": len(parts),
    }
    with system.open_output_stream(f"{folder}/{_MANIFEST}") as file:
        file.write(json.dumps(manifest, sort_keys=True).encode())
    system.delete_file(f"{folder}/{_BEGUN}")


def load_folder(path: str | os.PathLike[str]) -> TrajectoryArrays:
    """Reads a folder that `finish_folder` finished.

    Args:
        path: The folder: a path, or an address of shared storage such as s3://bucket/data.parquet.

    Raises:
        FileFormatError: It is missing, unfinished, damaged, or of an unknown version.
        DataError: Its numbers are NaN or infinite, or no episode in it is finished.
    """
    system, folder = open_place(path)
    manifest = _manifest(system, folder, path)
    tables = []
    for index in range(manifest.pop("n_parts")):
        name = f"{folder}/{part_path(index)}"
        try:
            tables.append(_read_part(system, name))
        except Exception as error:  # a damaged file may raise nearly anything
            raise FileFormatError(
                f"{path}: {part_path(index)} is missing or damaged: {error}"
            ) from error
    if not tables:
        raise FileFormatError(f"{path}: the dataset has no parts")
    tables = _of_version(manifest["format_version"], tables, path)
    try:
        arrays = arrays_of(tables, str(path), manifest)
    except FlowshieldError:
        raise
    except Exception as error:  # columns of other types raise nearly anything
        raise FileFormatError(f"{path}: its columns are damaged or foreign: {error}") from error
    for name in ("n_episodes", "n_truncated"):
        if manifest.get(name) != arrays.metadata[name]:
            raise FileFormatError(
                f"{path}: its manifest speaks of {name} = {manifest.get(name)}, its parts hold "
                f"{arrays.metadata[name]}: a part was changed after it was written"
            )
    return arrays


def _of_version(
    version: int, tables: list[pa.Table], path: str | os.PathLike[str]
) -> list[pa.Table]:
    """The parts with the columns of this version."""
    if version == 1:  # columns of these names are somebody else's
        return [
            table.select([name for name in table.column_names if name not in REQUEST_COLUMNS])
            for table in tables
        ]
    if not any(map(has_requests, tables)):
        raise FileFormatError(
            f"{path}: expected the columns {', '.join(REQUEST_COLUMNS)}, which a dataset of format "
            f"version {version} has; its parts lack them: a part was changed after it was written"
        )
    return tables


def _read_part(system: fs.FileSystem, name: str) -> pa.Table:
    """Reads a part piece by piece, and believes nothing that its footer says of sizes.

    The footer's own numbers are not even looked at: on a damaged one pyarrow ends the process.
    """
    pieces, claimed = [], 0
    with (
        system.open_input_file(name) as file,
        # as a dictionary, for one long name may be repeated in every row
        pq.ParquetFile(file, read_dictionary=["behaviours"]) as part,
    ):
        stored, width = file.size(), sum(map(_row_bytes, part.schema_arrow))
        check_unfolded(width, stored, name)
        for piece in part.iter_batches(max(1, _PIECE // max(1, width))):
            claimed += piece.nbytes
            check_unfolded(claimed, stored, name)
            pieces.append(piece)
    if not pieces:
        raise FileFormatError("it has no rows")
    table = pa.Table.from_batches(pieces)
    names = table["behaviours"] if "behaviours" in table.column_names else None
    if names is not None and pa.types.is_dictionary(names.type):
        longest = max((_longest(chunk.dictionary) for chunk in names.chunks), default=0)
        if longest > LONGEST_NAME:
            raise FileFormatError(f"a behaviour's name has {longest} letters")
    return table


def _row_bytes(column: pa.Field) -> int:
    """Bytes of one row of a column; of a name those of its number in the dictionary."""
    kind, numbers = column.type, 1
    if isinstance(kind, pa.FixedShapeTensorType):
        kind, numbers = kind.value_type, math.prod(kind.shape)
    if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
        raise FileFormatError(f"expected numbers or tensors of one shape as {column.name}")
    return 8 * numbers


def _longest(names: pa.Array) -> int:
    return pc.max(pc.binary_length(names)).as_py() or 0


def _manifest(system: fs.FileSystem, folder: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        with system.open_input_stream(f"{folder}/{_MANIFEST}") as file:
            manifest = json.loads(file.read())
        version = manifest["format_version"]
        n_parts = manifest["n_parts"]
    except FileNotFoundError as error:
        raise FileFormatError(
            f"{path}: no finished dataset ({_MANIFEST} is missing): collect it again"
        ) from error
    except (ValueError, TypeError, KeyError, OSError, RecursionError) as error:
        raise FileFormatError(f"{path}: {_MANIFEST} cannot be read ({error!r})") from error
    if version not in FORMAT_VERSIONS or not isinstance(n_parts, int):
        raise FileFormatError(
            f"{path}: format version {version!r} is unknown to this release "
            f"({flowshield.__version__}), which reads {' and '.join(map(str, FORMAT_VERSIONS))}"
        )
    return dict(manifest)
