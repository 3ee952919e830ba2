"""The config of a run: a new folder's, or what a killed run finds in its own."""

__all__ = ["load_config", "open_run", "read_config"]

import datetime
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict

from flowshield.atomic import atomic_write
from flowshield.config import compose, resolve
from flowshield.errors import ConfigError
from flowshield.groups import config_groups, plain
from flowshield.run_folder import RunFolder
from flowshield.schema import DERIVED, flatten

_LARGEST_CONFIG = 1 << 20
_DEEPEST_CONFIG = 20
_MACHINE_KEYS = ("device", "n_threads", "num_workers", "ray")


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
            config = _reconciled(folder, config, overrides, name)
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


def _reconciled(
    folder: RunFolder, given: DictConfig, overrides: Sequence[str], name: str
) -> DictConfig:
    """The config to go on with in a folder that holds one."""
    saved = read_config(folder)
    said = {override.partition("=")[0] for override in overrides}
    free = ["ray."]
    if name == "run" and not folder.sweep.exists():  # whose trials are all judged alike
        free += [
            "evaluation.",
            "guard.",
            "probe.",
            "certificate.",
            "env.commands",
        ]  # how a trained run is measured may change
    changed = [key for key in said if key.startswith(tuple(free))]
    for key in [key for key in changed if not key.startswith("evaluation.explorer.")]:
        OmegaConf.update(saved, key, OmegaConf.select(given, key))  # one leaves the others
        said.remove(key)
    for key in ("run_dir", *_MACHINE_KEYS):  # where a run goes on may differ from where it began
        if key in said:
            saved[key] = given[key]
        else:
            given[key] = saved[key]
    _reconcile_sweeps(folder, saved, given, said)
    different = _differences(*(flatten(plain(c, resolve=True)) for c in (saved, given)))
    if not said - {"run_dir", *_MACHINE_KEYS, *filter(_is_of_sweep, said)}:
        different = list(filter(_is_of_sweep, different))  # of the rest nothing was said
    if not different:
        return saved
    if not folder.holds_work():  # nothing is lost: most likely the first try was refused
        return given
    different = _spoken_of(_stated(different, given, said), said)
    if not different:
        return saved
    raise ConfigError(
        f"{folder.place} holds a run with other settings ({'; '.join(different[:5])}): "
        "leave the overrides out to go on with it, or choose another run_dir"
    )


def _stated(different: list[str], given: DictConfig, said: set[str]) -> list[str]:
    """The differences without the numbers that the command leaves to the data."""

    def left(key: str) -> bool:
        derived = any(fnmatchcase(key, pattern) for pattern in DERIVED)
        return derived and key not in said and OmegaConf.select(given, key) is None

    return [text for text in different if not left(_key(text))]


def _spoken_of(different: list[str], said: set[str]) -> list[str]:
    """The differences that the overrides speak of: a group's choice of all, a key of itself."""
    keys = tuple(key.lstrip("+~") for key in said)
    if not any(key in config_groups() for key in keys):
        return [text for text in different if _key(text) in keys or _below(_key(text), keys)]
    return sorted(different, key=lambda text: _key(text) not in keys)  # what was typed first


def _key(text: str) -> str:
    return text.partition(" ")[0]


def _below(key: str, keys: tuple[str, ...]) -> bool:
    return key.startswith(tuple(f"{other}." for other in keys))


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


def _is_of_sweep(key: str) -> bool:
    return key.lstrip("+~").startswith("tune.")


def _differences(saved: dict[str, Any], given: dict[str, Any]) -> list[str]:
    keys = sorted(saved.keys() | given.keys())
    return [
        f"{key} is {saved.get(key)!r} there, {given.get(key)!r} asked for"
        for key in keys
        if saved.get(key) != given.get(key)
    ]


def _fresh_folder(config: DictConfig) -> Path:
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    name = f"{now}_{str(config.env.name).replace('/', '-')}_seed{config.seed}"
    names = (f"{name}_{n}" if n > 1 else name for n in itertools.count(1))
    # a clock that was set back, or two starts in one second, give a name that is taken
    return next(path for name in names if not (path := Path("runs", name)).exists())
