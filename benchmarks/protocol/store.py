"""Where results lie: one small JSON file each, whole or absent."""

__all__ = ["Key", "Records", "Store"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flowshield.errors import ConfigError
from flowshield.json_files import read_json, write_json


class Key(NamedTuple):
    """What one result is about.

    Attributes:
        part: A part of the protocol: "train", "detection" ...
        dataset: "expert", "mixed", or the name of an environment with a known answer.
        seed: Training seed; 0 where nothing was trained.
        model: Shield, control or peer; "agent", "none" or "data" where it is none of them.
        detail: What else tells results of one model apart, such as a command.
    """

    part: str
    dataset: str
    seed: int
    model: str
    detail: str = ""

    def __str__(self) -> str:
        """For the log."""
        words = [self.part, self.dataset, f"seed {self.seed}" if self.seed else "", self.model]
        return " ".join(word for word in (*words, self.detail) if word)


Records = Mapping[Key, Mapping[str, Any]]


class Store:
    """The folder of a benchmark's results.

    Args:
        folder: Made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: Key) -> Path:
        """The file of a result."""
        name = "_".join(part for part in (str(key.seed), key.model, key.detail) if part)
        return self.folder / "parts" / key.part / key.dataset / f"{name}.json"

    def made_at(self, key: Key) -> int:
        """When a result was written, nanoseconds; 0 where it is not on file."""
        path = self.path(key)
        return path.stat().st_mtime_ns if path.exists() else 0

    def load(self, key: Key) -> dict[str, Any]:
        """Reads a result."""
        return dict(read_json(self.path(key)))

    def save(self, key: Key, record: dict[str, Any]) -> None:
        """Writes a result atomically."""
        write_json(self.path(key), {"key": list(key), **record})

    def records(self, part: str) -> dict[Key, dict[str, Any]]:
        """All results of a part that are on file, in the order of their names."""
        found = {}
        for path in sorted((self.folder / "parts" / part).glob("*/*.json")):
            record = read_json(path)
            found[Key(*record.pop("key"))] = record
        return found

    def episodes(self, name: str) -> Path:
        """The file of a collection."""
        return self.folder / "data" / f"{name}.npz"

    def model(self, dataset: str, seed: int, name: str) -> Path:
        """The file of a trained model."""
        return self.folder / "models" / dataset / f"{seed}_{name}.pt"

    def agree(self, identity: dict[str, Any]) -> None:
        """Notes what the folder's results depend on, or compares with what is noted there.

        Raises:
            ConfigError: The folder holds results of another kind.
        """
        path = self.folder / "settings.json"
        if not path.exists():
            write_json(path, identity)
            return
        noted = read_json(path)
        write_form = _as_json(identity)
        for key in sorted({*noted, *write_form}):
            if noted.get(key) != write_form.get(key):
                raise ConfigError(
                    f"{self.folder} holds results with {key}={noted.get(key)!r}, asked for is "
                    f"{write_form.get(key)!r}: choose another --out"
                )


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(entry) for entry in value]
    return value
