"""The folder of a training on Ray: what a fit in one process leaves there, and Ray's own files."""

__all__ = ["TrainFolder"]

import uuid
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

    FILES = ("best.pt", "last.pt")  # last.pt last: a resume that finds it finds the other too

    def __init__(self, place: str) -> None:
        self.place = absolute(place)
        self.runs = f"{self.place.rstrip('/')}/ray"

    def new_run(self) -> str:
        """A name that no run has had: Ray goes on with a run whose name it meets again."""
        return uuid.uuid4().hex[:12]

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
        """Deletes what Ray kept of its runs: what is worth keeping lies beside it."""
        system, path = open_place(self.runs)
        if system.get_file_info(path).type != fs.FileType.NotFound:
            system.delete_dir(path)
