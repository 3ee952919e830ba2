"""Folders of this machine to work in, which do not outlive a process that is killed for long."""

__all__ = ["ScratchFolder", "clear_scratch"]

import shutil
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from flowshield.errors import BusyError, FlowshieldError
from flowshield.lock import FolderLock

_PREFIX = "flowshield-"


class ScratchFolder:
    """A new folder in the system's folder of temporary files.

    It goes with this object, or with the process. A process that is killed leaves it behind: the
    next `clear_scratch` finds that nobody holds it any more, and removes it.

    Attributes:
        path: The folder.

    Raises:
        WriteError: There is no room for it.
    """

    def __init__(self) -> None:
        clear_scratch()
        lock = _locked_folder()
        self.path = lock.folder / "files"  # beside the lock's own file
        self.path.mkdir()
        self._remove = weakref.finalize(self, _remove, lock)

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
    """Removes the scratch folders whose processes are gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        # held by its process, or another user's
        with suppress(FlowshieldError, OSError):
            if folder.is_dir() and not folder.is_symlink():
                _remove(FolderLock(folder))


def _locked_folder() -> FolderLock:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
        with suppress(BusyError):  # somebody who cleared up was quicker, and removes it
            return FolderLock(folder)


def _remove(lock: FolderLock) -> None:
    shutil.rmtree(lock.folder, ignore_errors=True)
    lock.release()
