"""The folder of a training on Ray: what a fit in one process leaves there, and Ray's own files."""

__all__ = ["TrainFolder"]

import uuid
from contextlib import suppress
from pathlib import PurePosixPath

from pyarrow import fs
from ray.train import Checkpoint

from flowshield.filesystem import absolute, copy_whole, open_place


class TrainFolder:
    """A folder on storage that every node reaches.

    Args:
        place: Its path, or a URI that pyarrow knows (s3://, gs://).

    Attributes:
        runs: Where Ray keeps its runs, in the form in which `place` was given.
    """

    _MADE = ".made-by-flowshield"  # beside a run, after its name: a file that says which it is
    FILES = ("best.pt", "last.pt")  # last.pt last: a resume that finds it finds the other too

    def __init__(self, place: str) -> None:
        self.place = absolute(place)
        self.runs = f"{self.place.rstrip('/')}/ray"

    def new_run(self) -> str:
        """A name that no run has had: Ray goes on with a run whose name it meets again.

        A file beside the run says that it is ours, for `clear_runs`.
        """
        name = uuid.uuid4().hex[:12]
        system, path = open_place(self.runs)
        system.create_dir(path, recursive=True)
        with system.open_output_stream(f"{path}/{name}{self._MADE}") as file:
            file.write(f"{self.runs}/{name}".encode())
        return name

    def last(self) -> bytes | None:
        """The resumable checkpoint, or None where there is none."""
        system, path = open_place(self.place)
        file = f"{path}/last.pt"
        if system.get_file_info(file).type == fs.FileType.NotFound:
            return None
        with system.open_input_stream(file) as stream:
            return bytes(stream.read())

    def keep(self, checkpoint: Checkpoint) -> None:
        """Copies a checkpoint's files out of Ray's run, each whole or not at all."""
        system, path = open_place(self.place)
        for name in self.FILES:
            source = str(PurePosixPath(checkpoint.path) / name)
            copy_whole(
                source,
                f"{path}/{name}",
                source_system=checkpoint.filesystem,
                target_system=system,
            )

    def clear_runs(self) -> None:
        """Deletes what Ray kept of the runs that were begun here: what is worth keeping is beside.

        What else there is stays: files of others, and runs that were copied from elsewhere.
        """
        system, path = open_place(self.runs)
        for found in system.get_file_info(fs.FileSelector(path, allow_not_found=True)):
            name = found.base_name.removesuffix(self._MADE)
            if found.base_name != name and self._began(system, found, name):
                if system.get_file_info(f"{path}/{name}").type == fs.FileType.Directory:
                    system.delete_dir(f"{path}/{name}")
                system.delete_file(found.path)
        if not system.get_file_info(fs.FileSelector(path, allow_not_found=True)):
            with suppress(FileNotFoundError):  # object storage has no empty folders
                system.delete_dir(path)

    def _began(self, system: fs.FileSystem, found: fs.FileInfo, name: str) -> bool:
        """Whether a file was written by `new_run`, here and for this name."""
        if found.type != fs.FileType.File or not name:
            return False
        with system.open_input_stream(found.path) as stream:
            return bool(stream.read(4096) == f"{self.runs}/{name}".encode())
