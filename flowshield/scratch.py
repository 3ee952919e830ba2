"""Folders of this machine to work in, which do not outlive a process that is killed for long."""

__all__ = ["ScratchFolder", "clear_scratch"]

import os
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from flowshield.errors import FlowshieldError
from flowshield.lock import FolderLock
from flowshield.marks import is_left_behind, mark, remove_own

_PREFIX = "flowshield-"
_FILES = "files"  # beside the lock's own file, and the mark


class ScratchFolder:
    """A new folder in the system's folder of temporary files.

    It goes with this object, or with the process. A process that is killed leaves it behind: the
    next `clear_scratch` finds by its mark who made it, and removes it once that process is gone.

    Attributes:
        path: The folder.

    Raises:
        WriteError: There is no room for it.
    """

    def __init__(self) -> None:
        clear_scratch()
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
        mark(folder)
        lock = FolderLock(folder)
        self.path = folder / _FILES
        self.path.mkdir()
        self._remove = weakref.finalize(self, _remove_at_end, lock, os.getpid())

    def __enter__(self) -> Path:
        """Returns the folder's path."""
        return self.path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Removes the folder."""
        self._remove()


def clear_scratch() -> None:
    """Removes the scratch folders whose processes are gone, and nothing else that is called so."""
    for folder in Path(tempfile.gettempdir()).resolve().glob(f"{_PREFIX}*"):
        if is_left_behind(folder):
            # a process that it started holds it still, or somebody else clears it away
            with suppress(FlowshieldError, OSError):
                _clear(folder)


def _clear(folder: Path) -> None:
    lock = FolderLock(folder)
    if is_left_behind(folder):
        return _remove(lock)
    lock.release()
    with suppress(OSError):  # another was quicker, and the lock made an empty one
        os.rmdir(folder)


def _remove_at_end(lock: FolderLock, pid: int) -> None:
    """Not in a copy of the process, nor where another folder took the place."""
    if os.getpid() == pid and lock.is_in_place():
        _remove(lock)


def _remove(lock: FolderLock) -> None:
    remove_own(lock.folder, [_FILES])
    lock.release()
    remove_own(lock.folder, [])
