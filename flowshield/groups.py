"""The packaged config files: where they lie, and Hydra's composition of them.

Hydra is used through its compose API, in a state of our own, and its errors become one line each.
"""

__all__ = [
    "add_shield",
    "added_shields",
    "compose_files",
    "config_dir",
    "config_groups",
    "packaged_shields",
    "plain",
]

import importlib.resources
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flowshield.errors import ConfigError, unknown_name
from flowshield.overrides import opened
from flowshield.schema import check_key, flatten

_TURN: Final = threading.RLock()
_USER_FILE: Final = "_user_config"
_ADDED: Final[dict[str, dict[str, Any]]] = {}


def config_dir() -> Path:
    """Finds the packaged configs: inside an installed wheel, or beside the package in a checkout.

    Raises:
        ConfigError: Neither is there; the installation is damaged.
    """
    package = Path(str(importlib.resources.files("flowshield")))
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError(
        f"expected configs/train.yaml in or beside {package}, found neither: reinstall flowshield"
    )


def config_groups() -> dict[str, list[str]]:
    """Lists the groups and each one's options, sorted: those packaged, and shields added."""
    folders = sorted(path for path in config_dir().iterdir() if path.is_dir())
    groups = {path.name: [file.stem for file in path.glob("*.yaml")] for path in folders}
    return {
        name: sorted([*options, *(_ADDED if name == "shield" else ())])
        for name, options in groups.items()
    }


def compose_files(
    name: str, overrides: Sequence[str] = (), user: DictConfig | None = None
) -> DictConfig:
    """Composes a packaged file, or the user's own over the packaged groups, without checking it.

    Args:
        name: File name without `.yaml`.
        overrides: In Hydra's grammar.
        user: A config with a `defaults` list that takes the place of the file `name`.

    Raises:
        ConfigError: Hydra cannot compose it: no such key, option or file, or bad grammar.
    """
    typed = [opened(override) for override in overrides]
    folder = config_dir()
    try:
        with _own_hydra(folder, user):
            config = hydra.compose(name if user is None else _USER_FILE, typed)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise _translated(error, name) from error
    OmegaConf.set_struct(config, False)
    return config


def packaged_shields() -> dict[str, dict[str, Any]]:
    """Every shield's default settings under its name: of the group files, and those added."""
    return {**_shield_files(), **_ADDED}


def add_shield(name: str, settings: dict[str, Any]) -> None:
    """Adds an option to the group `shield`, as a file with these settings would.

    Raises:
        ConfigError: The name is taken.
    """
    if packaged_shields().get(name, settings) != settings:
        raise ConfigError(f"the shield name {name!r} is taken: choose another")
    _ADDED[name] = settings


def added_shields() -> dict[str, dict[str, Any]]:
    """The settings of the shields that `add_shield` added, by name."""
    return dict(_ADDED)


@cache
def _shield_files() -> dict[str, dict[str, Any]]:
    files = {path.stem: OmegaConf.load(path) for path in (config_dir() / "shield").glob("*.yaml")}
    # A file with a defaults list only bundles others.
    return {name: plain(file) for name, file in files.items() if "defaults" not in file}


def plain(config: Any, resolve: bool = False) -> dict[str, Any]:
    """Turns a config into nested dicts and lists.

    Args:
        config: A DictConfig.
        resolve: Whether interpolations are replaced by what they stand for.

    Raises:
        ConfigError: An interpolation leads nowhere, or a value is still `???`.
    """
    try:
        tree = OmegaConf.to_container(config, resolve=resolve, throw_on_missing=resolve)
    except OmegaConfBaseException as error:
        raise ConfigError(f"cannot resolve the config: {_first_line(error)}") from error
    return {str(key): value for key, value in tree.items()} if isinstance(tree, dict) else {}


@contextmanager
def _own_hydra(folder: Path, user: DictConfig | None) -> Iterator[None]:
    """A Hydra of our own for a moment: the caller's program may be a Hydra application itself.

    Hydra keeps its state in singletons and refuses a second initialisation, so those that know of
    an application are put aside and come back untouched; the lists of plugins stay. Models that
    train side by side compose in threads: one at a time.
    """
    with _TURN:
        yield from _swapped_hydra(folder, user)


def _swapped_hydra(folder: Path, user: DictConfig | None) -> Iterator[None]:
    Plugins.instance()  # finds the plugins once and for all, outside the copy
    theirs, store = Singleton._instances, ConfigStore.instance()
    aside = (GlobalHydra, HydraConfig, JobRuntime, VersionBase, ConfigStore)
    Singleton._instances = {kind: one for kind, one in theirs.items() if kind not in aside}
    try:
        ours = ConfigStore.instance()
        ours.repo = dict(store.repo)
        for shield, settings in _ADDED.items():
            ours.store(shield, settings, group="shield", package=f"shield.{shield}")
        if user is not None:
            ours.store(_USER_FILE, user)
        with hydra.initialize_config_dir(str(folder.absolute()), version_base=None):
            yield
    finally:
        Singleton._instances = theirs


def _translated(error: Exception, name: str) -> ConfigError:
    cause: BaseException | None = error
    while cause is not None:
        if full_key := getattr(cause, "full_key", None):
            return _unknown_key(str(full_key), error, name)
        cause = cause.__cause__
    if isinstance(error, MissingConfigException):
        return _unknown_option(error, name)
    if isinstance(error, OverrideParseException):
        return ConfigError(
            f"cannot read the override {error.override!r}: {_first_line(error)}; "
            "expected key=value in Hydra's grammar, with quotes around special characters"
        )
    return ConfigError(f"cannot compose the config: {_first_line(error)}")


def _unknown_key(key: str, error: Exception, name: str) -> ConfigError:
    widest = "tune" if name == "tune" else "run"
    every = f"shield=[{','.join(packaged_shields())}]"
    known: Mapping[str, Any] = flatten(plain(compose_files(widest, [every])))
    groups = {
        name for name in config_groups() if not any(leaf.startswith(f"{name}.") for leaf in known)
    }
    try:
        check_key(key, [*known, *groups])
    except ConfigError as unknown:
        return unknown
    return ConfigError(f"config key {key!r}: {_first_line(error)}")


def _unknown_option(error: MissingConfigException, name: str) -> ConfigError:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    if group and error.options:
        return unknown_name(group, option, error.options)
    if not group and option in (name, ""):
        return unknown_name("config", name, [path.stem for path in config_dir().glob("*.yaml")])
    return unknown_name("config group", group or option, config_groups())


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
