"""A folder that one process at a time works in."""

__all__ = ["FolderLock"]

import fcntl
import os
import platform
import re
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from flowshield.atomic import explained_write
from flowshield.errors import BusyError, WriteError

_NAME = ".flowshield-lock"
_TEXT = re.compile(r"(process \d+ on .*)?")  # empty where its owner was killed as it took it


class FolderLock:
    """Holds a folder for this process until it is released or the process ends, however it ends.

    The operating system holds the lock, on a file in the folder that says who has it: of a process
    that was killed the file may stay, the lock does not. Where the file system knows no locks
    (some network file systems), everybody gets it.

    Args:
        folder: It is made where it is missing.

    Raises:
        BusyError: Another process holds it; the message says which.
        WriteError: The folder cannot be written to, or a file that is not flowshield's is where
            the lock's file should be.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._path = self.folder / _NAME
        with explained_write(self._path):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = self._taken()
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {platform.node()}")
            self._file.flush()

    def check(self) -> None:
        """Makes sure that the folder is still the one that was locked.

        Raises:
            WriteError: It vanished, was moved, or another took its place.
        """
        if not self.is_in_place():
            raise WriteError(
                f"{self.folder} vanished while this process worked in it (removed, moved or "
                "unmounted): bring it back, or start again with another run_dir"
            )

    def is_in_place(self) -> bool:
        """Whether the folder is still the one that was locked."""
        return self._is(self._file)

    def release(self) -> None:
        """Lets others have the folder."""
        with suppress(OSError):
            if self.is_in_place():
                os.unlink(self._path)
        self._file.close()

    def _taken(self) -> IO[str]:
        while True:
            self._refuse_foreign()
            file = open(self._path, "a+")  # noqa: SIM115
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = file.read().strip() or "another process"
                file.close()
                raise BusyError(
                    f"{self.folder} is in use by {owner}: wait for it to end, or choose another "
                    "run_dir"
                ) from None
            except OSError:
                return file  # no locks here
            if self._is(file):
                return file
            file.close()  # its owner was just releasing it

    def _refuse_foreign(self) -> None:
        """Lets a file stay that is called like the lock's and is not."""
        try:
            is_file = stat.S_ISREG(self._path.lstat().st_mode)
            ours = is_file and _TEXT.fullmatch(self._path.read_text(errors="replace"))
        except FileNotFoundError:  # none is there, or its owner was just releasing it
            return
        if not ours:
            raise WriteError(
                f"{self._path} is not a lock of flowshield: expected no file of that name; move it "
                "away, or choose another run_dir"
            )

    def _is(self, file: IO[str]) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self._path))
        except OSError:
            return False

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Releases it."""
        self.release()
