"""Checks of the single arrays of a dataset, each named with its source where it is wrong."""

__all__ = [
    "LONGEST_NAME",
    "MOST_ACTIONS",
    "checked_actions",
    "checked_flags",
    "checked_levels",
    "checked_names",
    "checked_numbers",
    "checked_requests",
    "checked_shape",
    "checked_whole",
    "holds_text",
]

import sys
import warnings
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowshield.data.hindsight import place_of_step
from flowshield.errors import DataError, DataWarning, ShapeError

_Real = TypeVar("_Real", bound=np.floating[Any])

LONGEST_NAME = 1000  # of a behaviour, in bytes: in a Parquet file it stands in every row

MOST_ACTIONS = 65_536  # an agent has a weight vector for each: a file must not ask for billions
_CLEARLY_MORE = 20.0  # times what rounding changes: a deviation that has kept its digits


def checked_shape(
    values: ArrayLike, name: str, source: str, shape: tuple[int | None, ...]
) -> NDArray[Any]:
    """An array that is not empty, of this shape; None = of any size."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ShapeError(f"{source}: {name} is no rectangular array: {error}") from error
    wanted = "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"
    fits = array.ndim == len(shape) and all(
        size in (None, got) for size, got in zip(shape, array.shape, strict=False)
    )
    if not fits:
        raise ShapeError(f"{source}: expected {name} {wanted}, got shape {list(array.shape)}")
    if not array.size:
        raise DataError(f"{source}: {name} is empty; expected at least one step")
    return array


def checked_numbers(
    values: ArrayLike,
    name: str,
    source: str,
    shape: tuple[int | None, ...],
    dtype: type[_Real],
    ends: NDArray[np.intp] | None = None,
) -> NDArray[_Real]:
    """Numbers of each step where there are `ends`, else of each episode."""
    array = checked_shape(values, name, source, shape)
    if array.dtype.kind not in "fiub":
        raise DataError(f"{source}: expected numbers as {name}, got {array.dtype}")
    with np.errstate(over="ignore"):  # what does not fit is infinite, and named below
        numbers = array.astype(dtype)
    finite = np.isfinite(numbers).reshape(len(numbers), -1).all(axis=1)
    if not finite.all():
        place = int(np.argmin(finite))
        where = f"episode {place}" if ends is None else place_of_step(place, ends)
        raise DataError(
            f"{source}: {name}[{place}] is {array[place].tolist()} ({where}); expected finite "
            f"numbers that {np.dtype(dtype)} can hold: remove its episode "
            f"({int((~finite).sum())} such entries in all)"
        )
    if array.dtype.itemsize > numbers.dtype.itemsize and array.ndim == 2:
        _warn_of_lost_digits(array, numbers, name, source)
    return numbers


def _warn_of_lost_digits(
    array: NDArray[Any], numbers: NDArray[Any], name: str, source: str
) -> None:
    """Warns of columns whose differences are hardly larger than what rounding changed."""
    deviation, lost = array.std(axis=0), np.abs(array - numbers).max(axis=0)
    for i in np.flatnonzero(deviation < _CLEARLY_MORE * lost):
        warnings.warn(
            f"{source}: {name}[:, {i}] is kept as {numbers.dtype}, which changes it by up to "
            f"{lost[i]:.2g}; its values are near {np.median(array[:, i]):.4g} and deviate by only "
            f"{deviation[i]:.2g}. Subtract {np.median(array[:, i]):.4g} from them",
            DataWarning,
            stacklevel=2,
        )


def checked_actions(
    values: ArrayLike, source: str, ends: NDArray[np.intp], n_actions: Any
) -> NDArray[np.float32] | NDArray[np.int64]:
    """Actions of each step: float32, or int64 [N, 1] where there are n_actions discrete ones."""
    n_steps = int(ends[-1]) + 1
    if n_actions is None and np.ndim(values) == 1:
        raise ShapeError(
            f"{source}: expected actions [{n_steps}, any], got shape {list(np.shape(values))}: "
            "give discrete ones n_actions, in the metadata or as an array in the file, and "
            "numbers within bounds a second dimension"
        )
    if n_actions is None:
        return checked_numbers(values, "actions", source, (n_steps, None), np.float32, ends)
    if type(n_actions) is not int or not 1 <= n_actions <= MOST_ACTIONS:
        raise DataError(
            f"{source}: expected n_actions in 1..{MOST_ACTIONS} in the metadata, got {n_actions!r}"
        )
    one_a_step = np.ndim(values) == 1
    shape = (n_steps,) if one_a_step else (n_steps, 1)
    numbers = checked_numbers(values, "actions", source, shape, np.float64, ends)
    wrong = (numbers < 0) | (numbers >= n_actions) | (numbers % 1 != 0)
    if wrong.any():
        raise DataError(
            f"{source}: expected discrete actions 0..{n_actions - 1}, got {numbers[wrong][0]:g} "
            f"({int(wrong.sum())} such entries in all)"
        )
    return numbers.astype(np.int64).reshape(-1, 1)


def checked_flags(values: ArrayLike, name: str, source: str, n_steps: int) -> NDArray[np.bool_]:
    """Flags 0 or 1 of each step, as bool."""
    array = checked_shape(values, name, source, (n_steps,))
    if array.dtype.kind not in "fiub" or not np.isin(array, (0, 1)).all():
        raise DataError(f"{source}: expected flags 0 or 1 as {name}, got {array.dtype} {array}")
    return array.astype(np.bool_)


def checked_names(values: ArrayLike | None, n_episodes: int, source: str) -> NDArray[np.str_]:
    """Names of each episode; "" where there are none."""
    if values is None:
        return np.full(n_episodes, "", dtype=np.str_)
    array = checked_shape(values, "behaviours", source, (n_episodes,))
    if array.dtype.kind != "U":
        raise DataError(f"{source}: expected text as behaviours, got {array.dtype}")
    if not holds_text(array):
        raise DataError(f"{source}: behaviours hold what is no character")
    names = (name.encode() for name in array.tolist())
    if any(len(name) > LONGEST_NAME or b"\0" in name for name in names):
        raise DataError(
            f"{source}: expected behaviours of at most {LONGEST_NAME} bytes of UTF-8 without a NUL"
        )
    return array


def holds_text(array: NDArray[np.str_]) -> bool:
    """Whether all are characters: numpy takes any 32 bits for one, and half a pair, too."""
    letters = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).view(np.uint32)
    return not ((letters > sys.maxunicode) | (letters >> 11 == 0xD800 >> 11)).any()


def checked_levels(values: ArrayLike | None, n_episodes: int, source: str) -> NDArray[np.float64]:
    """Levels of each episode; NaN where there are none."""
    if values is None:
        return np.full(n_episodes, np.nan)
    array = checked_shape(values, "levels", source, (n_episodes,))
    if array.dtype.kind not in "fiu":
        raise DataError(f"{source}: expected numbers as levels, got {array.dtype}")
    return array.astype(np.float64)


def checked_requests(
    values: ArrayLike | None, n_episodes: int, source: str
) -> NDArray[np.float64] | None:
    """Requests of each episode, NaN where it has none; None where nobody recorded any."""
    if values is None:
        return None
    array = checked_shape(values, "requests", source, (n_episodes, 2))
    if array.dtype.kind not in "fiu":
        raise DataError(f"{source}: expected numbers as requests, got {array.dtype}")
    with np.errstate(over="ignore"):  # what does not fit is infinite, and named below
        requests = array.astype(np.float64)
    none = np.isnan(requests[:, 0]) & np.isnan(requests[:, 1])
    valid = none | (np.isfinite(requests).all(axis=1) & (requests[:, 0] >= 1))
    if not valid.all():
        place = int(np.argmin(valid))
        raise DataError(
            f"{source}: requests[{place}] is {array[place].tolist()} (episode {place}); expected a "
            "horizon of at least 1 step and a finite return, or NaN twice where the policy was "
            f"given no command: correct it ({int((~valid).sum())} such entries in all)"
        )
    # one NaN of the many that there are, so that equal datasets have equal bytes
    return np.where(none[:, None], np.nan, requests)


def checked_whole(values: ArrayLike, n_episodes: int, source: str) -> NDArray[np.intp]:
    """Whole numbers of each episode."""
    array = checked_shape(values, "indices", source, (n_episodes,))
    if array.dtype.kind not in "iu":
        raise DataError(f"{source}: expected whole numbers as indices, got {array.dtype}")
    return array.astype(np.intp)
