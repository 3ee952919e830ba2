"""Unpickles arrays and plain containers, and nothing that could run code."""

__all__ = ["load_plain_pickle"]

import pickle
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray


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


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # numpy 1 wrote numpy.core where numpy 2 writes numpy._core.
        modern = module.replace("numpy.core.", "numpy._core.", 1)
        try:
            return _ADMITTED[modern, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which is neither an array nor a plain container"
            ) from None


def _empty_array(subtype: type, shape: Sequence[int], code: bytes) -> NDArray[Any]:
    """Makes the array that the pickle then fills; numpy writes the arguments for this one only."""
    return np.ndarray((0,), "b")


def _array_of_bytes(
    buffer: bytes | bytearray, dtype: np.dtype[Any], shape: Sequence[int], order: Any
) -> NDArray[Any]:
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """Gives the bytes that protocol 2, which knows none, stored as text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}; expected latin1")
    return text.encode("latin1")


# Our own functions stand in for those that numpy's pickles name: they do no more than these need.
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.numeric", "_frombuffer"): _array_of_bytes,
    ("_codecs", "encode"): _latin1_bytes,
}
