"""Files here and on shared storage: a path, or an address such as s3://bucket/run."""

__all__ = ["absolute", "copy_whole", "is_uri", "local_path", "open_place"]

import os
import shutil
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from flowshield.atomic import atomic_write
from flowshield.errors import ConfigError
from flowshield.paths import expanded


def is_uri(place: str | os.PathLike[str]) -> bool:
    """Whether this is an address, and not a path of this machine."""
    return "://" in os.fspath(place)


def absolute(place: str | os.PathLike[str]) -> str:
    """The place as it is called from everywhere: an address stays as it is."""
    return os.fspath(place) if is_uri(place) else os.path.abspath(expanded(place))


def open_place(place: str | os.PathLike[str]) -> tuple[fs.FileSystem, str]:
    """The file system of a path or an address, and the path in it, without a slash at its end.

    Raises:
        ConfigError: It is an address that pyarrow does not understand.
        OSError: Its storage cannot be reached.
    """
    if not is_uri(place):
        return fs.LocalFileSystem(), absolute(place)
    try:
        system, path = fs.FileSystem.from_uri(os.fspath(place))
    except pa.ArrowInvalid as error:
        raise ConfigError(
            f"{os.fspath(place)}: expected a path, or an address such as s3://bucket/folder, "
            f"gs://bucket/folder or file:///folder ({error})"
        ) from error
    return system, str(path).rstrip("/")


def local_path(place: str | os.PathLike[str]) -> Path | None:
    """The path of a place on this machine's file systems, None of one elsewhere.

    Raises:
        ConfigError: It is an address that pyarrow does not understand.
    """
    if not is_uri(place):
        return Path(expanded(place))
    system, path = open_place(place)
    return Path(path) if isinstance(system, fs.LocalFileSystem) else None


def copy_whole(
    source: str, target: str, *, source_system: fs.FileSystem, target_system: fs.FileSystem
) -> None:
    """Copies a file so that at `target` lies all of it or what lay there before.

    Raises:
        OSError: It cannot be read or written.
    """
    if isinstance(target_system, fs.LocalFileSystem):
        with source_system.open_input_stream(source) as content, atomic_write(target) as file:
            shutil.copyfileobj(content, file)
        return
    folder, _, name = target.rpartition("/")
    new = f"{folder}/.{name}.part"
    fs.copy_files(
        source, new, source_filesystem=source_system, destination_filesystem=target_system
    )
    target_system.move(new, target)
