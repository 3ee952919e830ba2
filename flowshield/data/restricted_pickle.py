"""Unpickles arrays and plain containers, and nothing that could run code."""

__all__ = ["load_plain_pickle"]

import pickle
from typing import IO, Any

import numpy as np
from numpy._core.multiarray import _reconstruct  # what numpy itself writes into its pickles

_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # numpy 1 wrote numpy.core, numpy 2 writes numpy._core.
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which is neither an array nor a plain container"
            ) from None


def load_plain_pickle(file: IO[bytes]) -> Any:
    """Reads a pickle that may hold arrays, numbers, text, bytes, lists, tuples, dicts and sets.

    Anything else would be a class or function that the file names, and calling what a file names
    is how a pickle runs code.

    Args:
        file: A readable binary file.

    Raises:
        pickle.UnpicklingError: The pickle asks for anything else, or is no pickle.
        EOFError: The file is truncated or empty.
    """
    return _PlainUnpickler(file).load()
