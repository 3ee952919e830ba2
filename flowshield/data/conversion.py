"""One dataset, in another format."""

__all__ = ["convert"]

import os

from flowshield.data.arrays import TrajectoryArrays
from flowshield.data.minari import is_minari
from flowshield.data.storage import dataset_exists, load_arrays, save_arrays
from flowshield.errors import ConfigError
from flowshield.filesystem import absolute, is_uri


def convert(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, force: bool = False
) -> TrajectoryArrays:
    """Writes what lies at one place to another; the names say in which formats.

    Args:
        source: A `.npz` or `.pkl` file, a `.parquet` folder, here or at an address, or minari:ID.
        target: Likewise.
        force: Whether to replace a dataset that is there; it is there until the new one is whole.

    Returns:
        What was written: equal, array by array, to what was read.

    Raises:
        ConfigError: Both are one place, there is something at the target, or Minari is missing.
        FileFormatError, DataError, ShapeError: The source cannot be read.
        OSError: The target cannot be written.
    """
    if _place(source) == _place(target):
        raise ConfigError(f"{source} and {target} are the same place: choose another name")
    if dataset_exists(target) and not force:
        raise ConfigError(f"{target} is there already: choose another name, or --force replaces it")
    arrays = load_arrays(source)
    save_arrays(target, arrays)
    return arrays


def _place(path: str | os.PathLike[str]) -> str:
    # two names of one file are one place, too
    return absolute(path) if is_uri(path) or is_minari(path) else os.path.realpath(absolute(path))
