"""A folder of this machine that has its like on shared storage."""

__all__ = ["Mirror"]

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from pyarrow import fs

from flowshield.filesystem import copy_whole, open_place
from flowshield.scratch import ScratchFolder


class Mirror:
    """A folder at an address, and a new folder of this machine to work in.

    Args:
        address: Where the files are to be: s3://bucket/runs/first, file:///shared/runs/first.

    Attributes:
        path: The folder to work in; it goes with this process.

    Raises:
        ConfigError: pyarrow does not understand the address.
        OSError: The storage cannot be reached.
    """

    def __init__(self, address: str) -> None:
        self._there, self._root = open_place(address)
        self._scratch = ScratchFolder()
        self.path = self._scratch.path
        self._here = fs.LocalFileSystem()
        self._same: dict[str, tuple[int, int, int]] = {}
        self._lock = threading.Lock()

    def fetch(self, wanted: Callable[[str], bool]) -> None:
        """Brings here what is there: all folders, and of the files those that are wanted.

        Args:
            wanted: Says of a file's path below the folder whether it is to come.
        """
        selector = fs.FileSelector(self._root, allow_not_found=True, recursive=True)
        for found in self._there.get_file_info(selector):
            name = found.path[len(self._root) + 1 :]
            target = self.path / name
            if found.type == fs.FileType.Directory:
                target.mkdir(parents=True, exist_ok=True)
            elif wanted(name):
                target.parent.mkdir(parents=True, exist_ok=True)
                fs.copy_files(
                    found.path,
                    str(target),
                    source_filesystem=self._there,
                    destination_filesystem=self._here,
                )
                self._same[name] = _state(target)

    def send(self) -> None:
        """Brings there what is new or changed here, by name; threads may call this.

        By name, and not by time, which a clock that is set back puts into disorder: of a model
        its history (.json) comes before it (.pt), of checkpoints best.pt before last.pt, so that
        what a killed process did not send is made again.

        Raises:
            OSError: The storage refuses it.
        """
        with self._lock:
            for name, state in sorted(self._changed()):
                target = f"{self._root}/{name}"
                self._there.create_dir(target.rpartition("/")[0], recursive=True)
                copy_whole(
                    str(self.path / name),
                    target,
                    source_system=self._here,
                    target_system=self._there,
                )
                self._same[name] = state

    def _changed(self) -> Iterator[tuple[str, tuple[int, int, int]]]:
        for folder, below, names in os.walk(self.path):
            below[:] = [name for name in below if not name.startswith(".")]  # written just now
            for file in (Path(folder, name) for name in names if not name.startswith(".")):
                name, state = file.relative_to(self.path).as_posix(), _state(file)
                if self._same.get(name) != state:
                    yield name, state


def _state(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size  # a file that was replaced is another
