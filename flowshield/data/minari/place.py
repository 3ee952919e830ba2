"""Where Minari keeps a dataset on this machine."""

__all__ = ["dataset_folder", "dataset_id", "is_minari", "minari_exists"]

import os
from pathlib import Path

from flowshield.errors import ConfigError
from flowshield.paths import expanded

_SCHEME = "minari:"
_ROOT = "MINARI_DATASETS_PATH"


def is_minari(path: str | os.PathLike[str]) -> bool:
    """Whether this names a Minari dataset, minari:ID, and not a file."""
    return os.fspath(path).startswith(_SCHEME)


def dataset_id(path: str | os.PathLike[str]) -> str:
    """The id in minari:ID."""
    return os.fspath(path).removeprefix(_SCHEME)


def dataset_folder(path: str | os.PathLike[str]) -> Path:
    """The folder of a dataset, there or not; its files lie in `data` below it.

    Args:
        path: minari:ID.

    Raises:
        ConfigError: Minari is not installed, the id is not of Minari's form, or
            MINARI_DATASETS_PATH is no path.
    """
    try:
        import h5py  # noqa: F401  # Minari's default format; without it Minari fails only later
        from minari.dataset.minari_dataset import parse_dataset_id
        from minari.storage.datasets_root_dir import get_dataset_path
    except ImportError as error:
        raise ConfigError(
            f'{path}: Minari datasets need Minari and h5py: pip install "flowshield[minari]" '
            f"({error})"
        ) from error
    try:
        parse_dataset_id(dataset_id(path))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path}: expected the id of a Minari dataset, (namespace/)name-v0, such as "
            f"pendulum/random-v0; got {dataset_id(path)!r}"
        ) from error
    root = os.environ.get(_ROOT)
    if root is None:
        return Path(get_dataset_path(dataset_id(path)))
    try:  # not by Minari, which takes ~ for a folder of that name, and makes it
        return Path(expanded(root), dataset_id(path))
    except ConfigError as error:
        raise ConfigError(f"{_ROOT}: {error}") from error


def minari_exists(path: str | os.PathLike[str]) -> bool:
    """Whether Minari has this dataset on this machine.

    Raises:
        ConfigError: As for `dataset_folder`.
    """
    return (dataset_folder(path) / "data").is_dir()
