"""Unpickles a table of arrays, and nothing that could run code."""

__all__ = ["load_plain_pickle"]

import re
from pickle import UnpicklingError
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from flowshield.plain_pickle import read_plain_pickle

_CODES = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|c(8|16)|[US][0-9]{1,9})")


def load_plain_pickle(file: IO[bytes]) -> Any:
    """Reads a pickle that may hold arrays, numbers, text, bytes, lists, tuples and dicts.

    Anything else would be a class or function that the file names, and calling what a file names
    is how a pickle runs code.

    Args:
        file: A readable binary file.

    Returns:
        What was pickled. Arrays that are the values of a dict, or of dicts in a list, are numpy's;
        elsewhere they are refused.

    Raises:
        pickle.UnpicklingError: The pickle asks for anything else, or is no pickle. Other errors
            are possible, but nothing else: whatever is raised, the file is damaged.
    """
    content = file.read()
    arrays = _Arrays(len(content))
    return arrays.found_in(read_plain_pickle(content, arrays.admitted()))


class _Type:
    """A numpy type as a pickle describes it: a code, and the order of its bytes."""

    def __init__(self, code: str, align: object = False, copy: object = True) -> None:
        self.code, self.order = code, ""

    def set_state(self, state: tuple[Any, ...]) -> None:
        if state[2:5] != (None, None, None):
            raise UnpicklingError("it holds arrays of records")
        self.order = state[1]

    def made(self) -> np.dtype[Any]:
        if not isinstance(self.code, str) or not _CODES.fullmatch(self.code):
            raise UnpicklingError(f"it holds arrays of the type {self.code!r}")
        code = self.code.lstrip("<>|=")
        return np.dtype(f">{code}" if self.order == ">" else code)


class _Array:
    """An array that the pickle describes in one state: version, shape, type, order, bytes."""

    def __init__(self, owner: "_Arrays") -> None:
        self.owner = owner
        self.value: NDArray[Any] | None = None

    def set_state(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        self.value = self.owner.array(raw, dtype, shape, "F" if fortran else "C")


class _Arrays:
    """Stands in for the functions that numpy's pickles name; does no more than these need.

    Args:
        size: Bytes of the file. All arrays together have no more: each has its own in it.
    """

    def __init__(self, size: int) -> None:
        self.left = size
        self.encoded: dict[str, bytes] = {}

    def admitted(self) -> dict[str, Any]:
        return {
            "numpy.ndarray": self.refused,  # an argument of _reconstruct, never called
            "numpy.dtype": _Type,
            "numpy._core.multiarray._reconstruct": lambda *_: _Array(self),
            "numpy._core.numeric._frombuffer": self.of_bytes,
            "_codecs.encode": self.latin1_bytes,
        }

    def refused(self, *_: Any) -> None:
        raise UnpicklingError("it calls numpy.ndarray")

    def of_bytes(self, raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        array = _Array(self)
        array.value = self.array(raw, dtype, shape, order)
        return array

    def latin1_bytes(self, text: str, encoding: str) -> bytes:
        """Gives the bytes that protocol 2, which knows none, stored as text."""
        if encoding != "latin1":
            raise UnpicklingError(f"it asks for the encoding {encoding!r}; expected latin1")
        return self.encoded.setdefault(text, text.encode("latin1"))

    def array(self, raw: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
        if not isinstance(dtype, _Type) or not isinstance(raw, bytes | bytearray):
            raise UnpicklingError("it holds an array of objects, or of no bytes")
        self.left -= len(raw)
        if self.left < 0:
            raise UnpicklingError("its arrays together are larger than the file")
        return np.frombuffer(raw, dtype.made()).reshape(shape, order=order)

    def found_in(self, content: Any) -> Any:
        if isinstance(content, list):
            return [self.values_of(part) for part in content]
        return content.value if isinstance(content, _Array) else self.values_of(content)

    def values_of(self, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        return {k: v.value if isinstance(v, _Array) else v for k, v in content.items()}
