"""The folder that a run leaves behind, and how a killed run finds its way back into it."""

__all__ = ["RunFolder", "load_config", "open_run", "read_config"]

import datetime
import itertools
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf, open_dict

from flowshield.atomic import atomic_write, remove_leftovers
from flowshield.config import compose, resolve
from flowshield.errors import ConfigError, FileFormatError
from flowshield.filesystem import is_uri, local_path
from flowshield.lock import FolderLock
from flowshield.mirror import Mirror
from flowshield.scratch import clear_scratch

# what a start takes over from an earlier one
_READ = ("config.yaml", "timings.json", "dataset.npz", "checkpoints", "models", "sweep")
_LARGEST_CONFIG = 1 << 20
_DEEPEST_CONFIG = 20
_MEASURED = ("cells", "followed", "shields")
_MACHINE_KEYS = ("device", "n_threads", "num_workers", "ray")


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
        self.place = str(place).rstrip("/")
        self._mirror = Mirror(self.place) if is_uri(place) else None
        self._lock: FolderLock | None = None
        self.path = path = Path(place) if self._mirror is None else self._mirror.path
        self.config = path / "config.yaml"
        self.dataset = path / "dataset.npz"
        self.checkpoints = path / "checkpoints"
        self.models = path / "models"
        self.tensorboard = path / "tensorboard"
        self.cells = path / "cells"
        self.followed = path / "followed"
        self.shields = path / "shields"
        self.sweep = path / "sweep"
        self.figures = path / "figures"
        self.timings = path / "timings.json"
        self.results = path / "results.json"
        self.table = path / "table.md"
        self.report = path / "report.html"
        self.explorer = path / "explorer.html"

    def model(self, name: str) -> Path:
        """The finished agent or shield of that name."""
        return self.models / f"{name}.pt"

    def cell(self, shield: str, command: Sequence[float]) -> Path:
        """The finished evaluation cell of a shield and a command."""
        return self.cells / f"{shield}_{command[0]:g}_{command[1]:g}.json"

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


def load_config(overrides: Sequence[str], name: str = "run") -> tuple[DictConfig, RunFolder]:
    """The config of a run and its folder, new or found again.

    A run folder that holds a config.yaml goes on with it: then overrides may be left out, and those
    that are given must agree with it.

    Args:
        overrides: Hydra overrides, `run_dir=PATH` among them or not.
        name: The packaged config that they are of: "run", or "tune" for a sweep.

    Returns:
        (config, folder); the config is in the folder's config.yaml.

    Raises:
        ConfigError: An override is wrong, or does not agree with the folder's config.
    """
    with open_run(overrides, name) as (config, folder):
        return config, folder


@contextmanager
def open_run(overrides: Sequence[str], name: str = "run") -> Iterator[tuple[DictConfig, RunFolder]]:
    """As `load_config`, and keeps other processes out of the folder while the body runs.

    Raises:
        BusyError: Another process works in the folder.
        ConfigError: As `load_config`.
    """
    config = compose(name, overrides)
    if config.run_dir is None:
        config.run_dir = str(_fresh_folder(config))
    folder = RunFolder(config.run_dir)
    with folder.held():
        folder.fetch()
        if folder.config.exists():
            config = _reconciled(folder, config, overrides)
        elif folder.holds_work():
            raise ConfigError(
                f"{folder.place} holds work of a run without its config.yaml: put that back, or "
                "choose another run_dir"
            )
        with atomic_write(folder.config) as file:
            file.write(OmegaConf.to_yaml(config).encode())
        folder.send()
        config.log_dir = str(folder.tensorboard)
        yield config, folder


def read_config(folder: RunFolder) -> DictConfig:
    """The config in a run folder, complete and validated.

    Raises:
        ConfigError: This release does not know a key or value in it; the message names the file.
    """
    try:
        _check_yaml(folder.config.read_bytes())
        return resolve(OmegaConf.load(folder.config))  # type: ignore[arg-type]
    except Exception as error:  # a damaged file may raise nearly anything
        raise ConfigError(f"{folder.named(str(folder.config))}: {error}") from error


def _check_yaml(content: bytes) -> None:
    """Refuses what no run writes and a stranger may: what unfolds, nests or reads variables."""
    if len(content) > _LARGEST_CONFIG:
        raise ConfigError(f"expected at most {_LARGEST_CONFIG} bytes, got {len(content)}")
    if b"${" in content:  # ${oc.env:...} would put a secret into the report
        raise ConfigError("expected values, got an interpolation, ${...}")
    depth = 0
    for event in yaml.parse(content, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > _DEEPEST_CONFIG:
            raise ConfigError(
                f"expected no aliases and at most {_DEEPEST_CONFIG} levels: no run writes others"
            )


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        FileFormatError: It is not JSON, or no object.
    """
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError(f"expected an object, got a {type(content).__name__}")
        return content
    except (ValueError, RecursionError) as error:
        message = f"{path} is not valid JSON ({error}): delete it to have it made again"
        raise FileFormatError(message) from error


def json_text(content: Any) -> str:
    """The content as JSON; NaN and infinity become null, as JSON knows neither."""
    return json.dumps(_without_nan(content), indent=1, allow_nan=False)


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file, whole or not at all; see `json_text`."""
    with atomic_write(path) as file:
        file.write(json_text(content).encode())


def machine() -> str:
    """The machine in one line, for whoever reads the figures."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    python = platform.python_version()
    return f"{os.cpu_count()} cores, {platform.machine()}, {gpu}, Python {python}"


def _reconciled(folder: RunFolder, given: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The config to go on with in a folder that holds one."""
    saved = read_config(folder)
    said = {override.partition("=")[0] for override in overrides}
    for key in [key for key in said if key.startswith("ray.")]:  # one of them leaves the others
        OmegaConf.update(saved, key, OmegaConf.select(given, key))
        said.remove(key)
    for key in ("run_dir", *_MACHINE_KEYS):  # where a run goes on may differ from where it began
        if key in said:
            saved[key] = given[key]
        else:
            given[key] = saved[key]
    _reconcile_sweeps(folder, saved, given, said)
    different = _differences(_flat(saved), _flat(given))
    if not said - {"run_dir", *_MACHINE_KEYS, *filter(_is_of_sweep, said)}:
        different = list(filter(_is_of_sweep, different))  # of the rest nothing was said
    if not different:
        return saved
    if not folder.holds_work():  # nothing is lost: most likely the first try was refused
        return given
    raise ConfigError(
        f"{folder.place} holds a run with other settings ({'; '.join(different[:5])}): "
        "leave the overrides out to go on with it, or choose another run_dir"
    )


def _reconcile_sweeps(
    folder: RunFolder, saved: DictConfig, given: DictConfig, said: set[str]
) -> None:
    """What is searched may still change until a sweep has begun; other commands leave it alone."""
    restated = any(map(_is_of_sweep, said))
    with open_dict(saved), open_dict(given):
        if "tune" in given and ("tune" not in saved or (restated and not folder.sweep.exists())):
            saved.tune = given.tune
        elif "tune" in saved and not restated:
            given.tune = saved.tune


def _goes_on_with(name: str) -> bool:
    """Whether a start needs this file of an earlier one's run folder."""
    first, *rest = name.split("/")
    # Ray reads its own where it lies; a hidden file was not sent to its end
    left = any(part in ("ray", "trials") or part.startswith(".") for part in rest)
    return first in (*_READ, *_MEASURED) and not left


def _is_of_sweep(key: str) -> bool:
    return key.lstrip("+~").startswith("tune.")


def _differences(saved: dict[str, Any], given: dict[str, Any]) -> list[str]:
    keys = sorted(saved.keys() | given.keys())
    return [
        f"{key} is {saved.get(key)!r} there, {given.get(key)!r} asked for"
        for key in keys
        if saved.get(key) != given.get(key)
    ]


def _flat(config: DictConfig) -> dict[str, Any]:
    flat: dict[str, Any] = {}

    def visit(prefix: str, node: Any) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                visit(f"{prefix}.{key}" if prefix else str(key), value)
        else:
            flat[prefix] = node

    visit("", OmegaConf.to_container(config, resolve=True))
    return flat


def _fresh_folder(config: DictConfig) -> Path:
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    name = f"{now}_{str(config.env.name).replace('/', '-')}_seed{config.seed}"
    names = (f"{name}_{n}" if n > 1 else name for n in itertools.count(1))
    # a clock that was set back, or two starts in one second, give a name that is taken
    return next(path for name in names if not (path := Path("runs", name)).exists())


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return value
