"""The folder that a run leaves behind: where everything lies, and who works in it."""

__all__ = ["RunFolder"]

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from flowshield.atomic import remove_leftovers
from flowshield.filesystem import is_uri, local_path
from flowshield.json_files import read_json, write_json
from flowshield.lock import FolderLock
from flowshield.mirror import Mirror
from flowshield.paths import expanded
from flowshield.scratch import clear_scratch

# what a start takes over from an earlier one
_READ = (
    "config.yaml",
    "commands.json",
    "timings.json",
    "dataset.npz",
    "checkpoints",
    "models",
    "sweep",
)
_MEASURED = ("probe", "certificates", "cells", "followed", "shields")


class RunFolder:
    """Names of everything in a run folder.

    Args:
        place: The folder; it is made when something is written into it. Where it is an address of
            shared storage, this process works in a folder of its own that `fetch` and `send` keep
            like the one there.

    Attributes:
        place: The folder, as its user calls it.
        path: The folder to work in.

    Raises:
        ConfigError: The address is of no kind that is known.
    """

    def __init__(self, place: str | Path) -> None:
        self.place = expanded(place).rstrip("/") or "/"
        self._mirror = Mirror(self.place) if is_uri(place) else None
        self._lock: FolderLock | None = None
        self.path = path = Path(self.place) if self._mirror is None else self._mirror.path
        self.config = path / "config.yaml"
        self.dataset = path / "dataset.npz"
        self.checkpoints = path / "checkpoints"
        self.models = path / "models"
        self.tensorboard = path / "tensorboard"
        self.probes = path / "probe"
        self.certificates = path / "certificates"
        self.cells = path / "cells"
        self.followed = path / "followed"
        self.shields = path / "shields"
        self.sweep = path / "sweep"
        self.figures = path / "figures"
        self.timings = path / "timings.json"
        self.commands = path / "commands.json"
        self.results = path / "results.json"
        self.table = path / "table.md"
        self.report = path / "report.html"
        self.explorer = path / "explorer.html"

    def model(self, name: str) -> Path:
        """The finished agent or shield of that name."""
        return self.models / f"{name}.pt"

    def probe(self, part: str, first: int) -> Path:
        """The finished rollouts of the agent alone that begin with this episode of a part."""
        return self.probes / f"{part}_{first:05d}.npz"

    def certificate(self, shield: str) -> Path:
        """What is certified of the guard with a shield's candidates."""
        return self.certificates / f"{shield}.json"

    def paired(self, shield: str, rule: float) -> Path:
        """The finished losses of one rule of that guard."""
        return self.certificates / f"{shield}_{rule:g}.json"

    def cell(self, shield: str, command: Sequence[float]) -> Path:
        """The finished evaluation cell of a shield and a command."""
        return self.cells / f"{shield}_{command[0]:.17g}_{command[1]:.17g}.json"

    def followed_by(self, shield: str) -> Path:
        """The finished rollouts on the commands that a shield supports."""
        return self.followed / f"{shield}.json"

    def shield(self, name: str) -> Path:
        """The finished measurements of a shield alone."""
        return self.shields / f"{name}.json"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other runs out while the body runs, and clears away what a killed one left.

        An address of shared storage other than file:// is not locked: such storage has no lock
        that survives no crash.

        Raises:
            BusyError: Another process works in this folder.
            WriteError: It cannot be written to.
        """
        folder = local_path(self.place)
        if folder is None:
            yield
            return
        with FolderLock(folder) as self._lock:
            remove_leftovers(folder)
            try:
                yield
            finally:
                self._lock = None
                clear_scratch()  # also that of Ray's workers, once they are gone

    def fetch(self) -> None:
        """Takes over what an earlier start left on shared storage."""
        if self._mirror is not None:
            self._mirror.fetch(_goes_on_with)

    def fetched(self, path: Path) -> Path:
        """The path, once what Ray's workers left there on shared storage is here."""
        if self._mirror is not None:
            name = path.relative_to(self.path).as_posix()
            self._mirror.fetch(lambda other: other == name)
        return path

    def send(self) -> None:
        """Leaves on shared storage what is new: called after each piece of work.

        Raises:
            OSError: The storage refuses it, or the folder that this run holds vanished.
        """
        self._check()
        if self._mirror is not None:
            self._mirror.send()

    def _check(self) -> None:
        if self._lock is not None:
            self._lock.check()

    def shared(self, path: Path) -> str:
        """What every node calls a path in this folder."""
        return f"{self.place}/{path.relative_to(self.path).as_posix()}"

    def named(self, text: str) -> str:
        """The text with the folder called by its place."""
        return text if self._mirror is None else text.replace(str(self.path), self.place)

    def holds_work(self) -> bool:
        """Whether something was made here that belongs to the config."""
        made = (self.dataset, self.checkpoints, self.models, self.cells, self.sweep)
        return any(path.exists() for path in made)

    def remember(self, command: str) -> list[str]:
        """Keeps what the user typed; all that was typed for this folder's work, the first first.

        Where nothing was made yet the tries before were refused, and a command that is typed again
        goes on with the same.
        """
        kept = read_json(self.commands).get("typed") if self.commands.exists() else []
        typed = list(map(str, kept)) if isinstance(kept, list) and self.holds_work() else []
        if command and typed[-1:] != [command]:
            typed.append(command)
            write_json(self.commands, {"typed": typed})
        return typed

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the body's seconds to the stage's of all starts, also when it is interrupted."""
        start = time.perf_counter()
        try:
            yield
        except BaseException:
            with suppress(OSError):  # a disk that is full for the body is full for this, too
                self._add_seconds(stage, time.perf_counter() - start)
            raise
        self._add_seconds(stage, time.perf_counter() - start)

    def _add_seconds(self, stage: str, seconds: float) -> None:
        self._check()  # a folder that vanished is not to come back for this
        timings = read_json(self.timings) if self.timings.exists() else {}
        timings[stage] = timings.get(stage, 0.0) + seconds
        write_json(self.timings, timings)
        self.send()


def _goes_on_with(name: str) -> bool:
    """Whether a start needs this file of an earlier one's run folder."""
    first, *rest = name.split("/")
    # Ray reads its own where it lies; a hidden file was not sent to its end
    left = any(part in ("ray", "trials") or part.startswith(".") for part in rest)
    return first in (*_READ, *_MEASURED) and not left
