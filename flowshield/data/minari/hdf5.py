"""A look at an HDF5 file before anything in it is read."""

__all__ = ["check_hdf5"]

import mmap
import struct
from pathlib import Path
from typing import Any

from flowshield.errors import FileFormatError

_HEAP = b"GCOL\x01\0\0\0"  # a global heap, HDF5 file format specification, III.E
_LARGEST_RATIO = 1100  # deflate cannot compress further than 1032 : 1


def check_hdf5(path: Path) -> None:
    """Refuses what would lead a reader to other files, or fill its memory from a tiny file.

    Args:
        path: The file.

    Raises:
        FileFormatError: It is missing or damaged, links to elsewhere, or holds an array that is
            larger than its bytes can be.
    """
    import h5py

    try:
        with (
            open(path, "rb") as raw,
            mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            _check_heaps(content)
        with h5py.File(path, "r") as file:
            _check_group(file, path)
    except FileFormatError:
        raise
    except Exception as error:  # a damaged file may raise nearly anything
        raise FileFormatError(f"{path}: missing, damaged, or not HDF5: {error}") from error


def _check_heaps(content: mmap.mmap) -> None:
    """Walks through the heaps that hold texts as HDF5 will, which an object of size 0 never ends.

    Raises:
        ValueError: An object of a heap does not end within it.
    """
    at = content.find(_HEAP)
    while at >= 0:
        place, end = at + 16, at + _number(content, at + 8)
        while place + 16 <= min(end, len(content)):
            index, size = content[place] | content[place + 1] << 8, _number(content, place + 8)
            step = 16 + (size + 7) // 8 * 8 if index else size  # free space counts its own head
            if not 16 <= step <= end - place:
                raise ValueError(f"the heap at {at} has an object of {step} bytes")
            place += step
        at = content.find(_HEAP, at + len(_HEAP))


def _number(content: mmap.mmap, place: int) -> int:
    return int(struct.unpack_from("<Q", content, place)[0])


def _check_group(group: Any, path: Path) -> None:
    import h5py

    for name in group:
        place = f"{path}: {group.name.rstrip('/')}/{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise FileFormatError(f"{place} is a link, and links are not followed")
        item = group[name]
        if isinstance(item, h5py.Group):
            _check_group(item, path)
        elif isinstance(item, h5py.Dataset):
            _check_array(item, place)


def _check_array(array: Any, place: str) -> None:
    if array.external or array.is_virtual:
        raise FileFormatError(f"{place} keeps its numbers in another file, which is not opened")
    filtered = array.id.get_create_plist().get_nfilters() > 0
    stored = array.id.get_storage_size()
    if array.nbytes > stored * (_LARGEST_RATIO if filtered else 1):
        raise FileFormatError(
            f"{place} claims {array.nbytes} bytes and holds {stored}: it was never written whole"
        )
