"""Reads the arrays of a `.npz` file, after a look at what it says of their sizes."""

__all__ = ["read_npz"]

import math
import os
import zipfile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from flowshield.errors import FileFormatError
from flowshield.limits import check_unfolded


def read_npz(file: IO[bytes], path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Reads all arrays.

    Args:
        file: Readable from any place.
        path: What errors call it.

    Raises:
        FileFormatError: It is no such file, damaged, or would unfold to far more than it has.
    """
    if not zipfile.is_zipfile(file):  # np.load would take a lone .npy, too
        raise FileFormatError(f"{path}: not a .npz file, or a truncated one: collect it again")
    size = file.seek(0, os.SEEK_END)
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            check_unfolded(sum(member.file_size for member in members), size, path)
            return {
                member.filename.removesuffix(".npy"): _read_member(archive, member)
                for member in members
                if member.filename.endswith(".npy")
            }
    except FileFormatError:
        raise
    except Exception as error:  # a damaged archive may raise nearly anything
        raise FileFormatError(f"{path}: damaged, or not a file of arrays: {error}") from error


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(stream)
        claimed, held = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
        if dtype.hasobject:
            raise ValueError(f"{member.filename} holds objects (allow_pickle=False)")
        if claimed != held or min(shape, default=0) < 0:
            raise ValueError(f"{member.filename} claims {claimed} bytes and has {held}")
    with archive.open(member) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
