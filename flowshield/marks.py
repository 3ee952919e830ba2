"""Folders that carry the proof that flowshield made them, and of which process.

Whatever is cleared away later is cleared away by this proof, never by its name.
"""

__all__ = ["is_left_behind", "mark", "remove_own"]

import hashlib
import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

_NAME = ".flowshield-made"
_TEXT = re.compile(r"made by flowshield: process (\d+) started (\d+) on (.*) seal ([0-9a-f]{32})")


def mark(folder: Path) -> None:
    """Writes into a new folder that this process made it.

    The mark is a symbolic link to nowhere: it is there whole or not at all, and needs no room on a
    full disk. Its seal holds for this folder alone, in this place and on this machine, so that a
    folder which was copied, renamed or moved with its mark has none. Where the file system knows no
    such links there is no mark, and nothing is ever cleared away.
    """
    pid, host = os.getpid(), platform.node()
    started = _started(pid) or 0
    seal = _seal(folder, pid, started, host)
    with suppress(OSError):
        text = f"made by flowshield: process {pid} started {started} on {host} seal {seal}"
        os.symlink(text, folder / _NAME)


def is_left_behind(folder: Path) -> bool:
    """Whether a process made this folder that ended since; in doubt, it did not.

    It did not where the folder is another user's, where its mark is none or another folder's, and
    where the process lives or was one of another machine, of an earlier boot or of another
    container, of which nobody here can say that it ended.
    """
    try:
        if folder.is_symlink() or folder.lstat().st_uid != os.geteuid():
            return False
        found = _TEXT.fullmatch(os.readlink(folder / _NAME))
        if found is None:
            return False
        pid, started, host = int(found[1]), int(found[2]), found[3]
        return found[4] == _seal(folder, pid, started, host) and not _lives(pid, started)
    except OSError:  # it has just gone, is no folder, or may not be looked at
        return False


def remove_own(folder: Path, names: Iterable[str]) -> None:
    """Removes what flowshield put into a folder of its own, and the folder if that was all.

    Args:
        folder: One that was marked.
        names: Its own files and folders; what others put beside them stays.
    """
    for name in names:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
    with suppress(OSError), _opened(folder.parent) as above:
        if set(os.listdir(folder)) <= {_NAME}:
            with suppress(FileNotFoundError):
                os.unlink(f"{folder.name}/{_NAME}", dir_fd=above)
            os.rmdir(folder.name, dir_fd=above)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """A handle of a folder, which holds wherever the folder is moved meanwhile."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _seal(folder: Path, pid: int, started: int, host: str) -> str:
    """What a mark says of process and folder, bound to this machine since it was switched on."""
    place, above = folder.lstat(), folder.parent.stat()
    what = (pid, started, host, place.st_dev, place.st_ino, above.st_dev, above.st_ino)
    text = f"{_machine()}\n{what}\n{folder.name}"
    return hashlib.blake2b(os.fsencode(text), digest_size=16).hexdigest()


@cache
def _machine() -> str:
    """What tells this machine, since it was switched on, and its processes' numbers from others."""
    parts = [platform.node()]
    with suppress(OSError):  # Linux has both
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _lives(pid: int, started: int) -> bool:
    """Whether this very process runs, and not another that was given its number since."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return _started(pid) in (None, started)


def _started(pid: int) -> int | None:
    """When a process began, in ticks since the boot; None where nobody says, 1 where it is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return 1 if fields[0] in "ZX" else int(fields[19])
