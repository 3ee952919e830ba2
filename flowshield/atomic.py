"""Files and folders that are whole or absent: written to a temporary name, then renamed."""

__all__ = ["atomic_folder", "atomic_write", "explained_write", "remove_leftovers"]

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from flowshield.errors import WriteError
from flowshield.marks import is_left_behind, mark, remove_own
from flowshield.paths import expanded

# what is not in its place yet, and what was there before
_NEW, _OLD = "new", "old"
_WORKPLACE = re.compile(r"\.(.+)\.[0-9a-f]{8}\.part", re.DOTALL)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Opens a binary file that takes the place of `path` only once it is completely written.

    The temporary file is beside it, in a folder of its own, because a rename is atomic only
    within one file system. If the body or the flush fails (a full disk, say), that folder is
    removed and whatever was at `path` before is still there. A process that is killed leaves it
    behind: `remove_leftovers` knows it by its mark.

    Args:
        path: Where the file shall be. Missing parent folders are made.

    Yields:
        A writable binary file.

    Raises:
        WriteError: An OSError: the folder cannot be written to or vanished, or the disk is full.
    """
    target = Path(expanded(path))
    with explained_write(target):
        with _workplace(target) as work:
            with open(work / _NEW, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(work / _NEW, target)
        _flush_folder(target.parent)


@contextmanager
def explained_write(target: str | os.PathLike[str]) -> Iterator[None]:
    """Names the file that could not be written, which a full disk's own error does not.

    Raises:
        WriteError: In place of an OSError of the body.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, WriteError) or error.errno is None:
            raise
        raise WriteError(error.errno, error.strerror or "", os.fspath(target)) from error


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Makes a folder that takes the place of the one at `path` only once it is complete.

    Args:
        path: Where the folder shall be. Missing parent folders are made.

    Yields:
        A new, empty folder to write into.

    Raises:
        WriteError: An OSError: there is a file at `path`, the folder around it cannot be written
            to, or the disk is full; a folder that was at `path` is still there.
    """
    target = Path(os.path.realpath(expanded(path)))
    with explained_write(target), _workplace(target) as work:
        new = work / _NEW
        new.mkdir()
        yield new
        _put_in_place(new, target, work / _OLD)


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """A marked folder beside the target, which does not outlive the body."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    work.mkdir()
    mark(work)
    try:
        yield work
    finally:
        remove_own(work, (_NEW, _OLD))


def _put_in_place(new: Path, target: Path, old: Path) -> None:
    """Renames a folder; what was at the target is at `old` then, or where it was on an error."""
    if target.is_dir():
        os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        if old.exists():
            os.rename(old, target)
        raise


def remove_leftovers(folder: Path) -> list[Path]:
    """Removes the temporary files of processes that were killed while they wrote.

    Args:
        folder: It and all folders below, in which no other process may be writing.

    Returns:
        The folders beside their targets that were removed.
    """
    # walk, not rglob, which fails where Ray's last processes still take folders away
    walk = os.walk(folder)
    names = (Path(place, name) for place, folders, _ in walk for name in folders)
    found = sorted(path for path in names if _target(path) and is_left_behind(path))
    for work in found:
        target = _target(work)
        if target is not None and not os.path.lexists(target):
            with suppress(OSError):  # killed between two renames: what was there comes back
                os.rename(work / _OLD, target)
        remove_own(work, (_NEW, _OLD))
    return found


def _target(work: Path) -> Path | None:
    """The file or folder that a working folder of this name is for."""
    named = _WORKPLACE.fullmatch(work.name)
    return None if named is None else work.with_name(named[1])


def _flush_folder(folder: Path) -> None:
    """Makes a rename last through a power cut, where the file system can be asked to."""
    with suppress(OSError):  # some network file systems refuse it; the file itself is whole
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
