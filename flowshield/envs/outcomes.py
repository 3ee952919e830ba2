"""Checks what an environment's reset and step gave against what Gymnasium's API promises."""

__all__ = ["FLAG_TYPES", "NUMBER_TYPES", "checked_outcome", "initial_state", "other_api"]

import re
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowshield.envs.wrapper import EnvWrapper
from flowshield.errors import DataError

FLAG_TYPES = frozenset({bool, np.bool_})
# rewards that numpy reads as they are meant; of others it makes NaN, or a real number of a complex
NUMBER_TYPES = frozenset({float, int, bool, np.float32, np.float64, np.int32, np.int64, np.bool_})

_API = (
    "Gymnasium's reset(seed=, options=) returns (observation, info), and its step(action) returns "
    "(observation, reward, terminated, truncated, info). Change the environment, or wrap it: "
    "docs/guides/own_environment.md has the lines, with gymnasium.utils.step_api_compatibility"
)
# Python's words for a tuple of another length, no tuple, and an argument that is not taken
_MISUNDERSTOOD = re.compile(r"values to unpack|cannot unpack|unexpected keyword|positional arg")


class Outcome(NamedTuple):
    """What a step brought.

    Attributes:
        state: Numbers [state_dim], of any type.
        reward: One number.
        terminated: Whether the environment ended the episode.
        truncated: Whether a limit cut it off.
    """

    state: NDArray[Any]
    reward: float
    terminated: bool
    truncated: bool


def initial_state(env: EnvWrapper, seed: int) -> NDArray[np.float32]:
    """Resets an environment.

    Args:
        env: What to reset.
        seed: Of the reset, as Gymnasium takes it.

    Returns:
        The state [state_dim], a copy: some environments write the next state into the same array.

    Raises:
        DataError: The environment is not of Gymnasium's API, or its state is not what its
            observation space promises.
    """
    try:
        given = env.reset(seed=seed)
    except (TypeError, ValueError) as error:
        if refusal := other_api(env, error):
            raise refusal from error
        raise
    pair = isinstance(given, tuple | list) and len(given) == 2
    if not pair or not isinstance(given[1], Mapping | None):
        raise _not_the_api(env, f"its reset returned {_described(given)}")
    return _state(env, given[0], "at its reset").astype(np.float32)


def checked_outcome(
    env: EnvWrapper, given: tuple[Any, Any, Any, Any], where: Callable[..., str], row: int
) -> Outcome:
    """Brings what a step gave to its types, where it can be.

    Args:
        env: What gave it.
        given: Observation, reward, terminated and truncated.
        where: Says for a row in which episode and step it is, `after` so many steps, for errors.
        row: That row.

    Raises:
        DataError: The state is of another shape than the observation space promises, the reward is
            not one number, or a flag is not true or false.
    """
    state, reward, terminated, truncated = given
    if isinstance(truncated, Mapping):  # the old step's info, with something behind it
        raise _not_the_api(env, f"the fourth value of its step is a {type(truncated).__name__}")
    values = _state(env, state, f"in {where(row, after=1)}")
    number = _array(reward)
    if number is None or number.shape != ():
        first = ", such as float(reward[0])" if number is not None and number.shape == (1,) else ""
        raise DataError(
            f"environment {env.name!r} gave {_described(reward)} as the reward in {where(row)}; "
            f"its step must return one real number{first}"
        )
    flags = [_flag(value) for value in (terminated, truncated)]
    for name, value, flag in zip(("terminated", "truncated"), given[2:], flags, strict=True):
        if flag is None:
            raise DataError(
                f"environment {env.name!r} gave {_described(value)} as {name} in {where(row)}; "
                "its step must return true or false"
            )
    return Outcome(values, float(number), bool(flags[0]), bool(flags[1]))


def other_api(env: EnvWrapper, error: Exception) -> DataError | None:
    """The error for an environment of another API, where that is what an exception comes from.

    Gymnasium's own wrappers are the first to unpack what an environment gives. So the exception
    tells: it comes from a line that calls reset or step.

    Args:
        env: What was reset or stepped.
        error: What that raised.
    """
    text = str(error)
    line = traceback.extract_tb(error.__traceback__)[-1].line or ""
    called = re.search(r"\.(reset|step)\(", line)
    if called is None or not _MISUNDERSTOOD.search(text):
        return None
    if isinstance(error, TypeError) and "unpack" not in text:
        return _not_the_api(env, f"its {called[1]} cannot be called as Gymnasium calls it ({text})")
    got = re.search(r"got (\d+)|non-iterable (\w+)|too many .*expected (\d+)", text)
    count, kind, most = got.groups() if got else (None, "something else", None)
    came = f"{count} values" if count else f"more than {most} values" if most else f"a {kind}"
    return _not_the_api(env, f"its {called[1]} returned {came}")


def _not_the_api(env: EnvWrapper, came: str) -> DataError:
    return DataError(f"environment {env.name!r} is not of Gymnasium's API: {came}. {_API}")


def _state(env: EnvWrapper, state: Any, when: str) -> NDArray[Any]:
    values = _array(state)
    if values is None:
        raise DataError(
            f"environment {env.name!r} gave the state {_described(state)} {when}; its observation "
            f"space promises real numbers [{env.state_dim}]: mend the environment"
        )
    if values.shape != (env.state_dim,):
        raise DataError(
            f"environment {env.name!r} gave a state of shape {list(values.shape)} {when}; its "
            f"observation space promises [{env.state_dim}]: make them agree"
        )
    with np.errstate(over="ignore"):
        beyond = np.isinf(values.astype(np.float32)) & np.isfinite(values)
    if beyond.any():
        raise DataError(
            f"environment {env.name!r} gave a state with the number {values[beyond][0]:g} {when}; "
            f"float32 holds numbers up to {np.finfo(np.float32).max:.1e}: give it another unit"
        )
    return values


def _array(value: Any) -> NDArray[Any] | None:
    """The value as real numbers, or None where it is something else."""
    try:
        # a tensor that gradients flow through, or of another device, is no array by itself
        values = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        if values.dtype.kind == "O":
            if any(number is None for number in values.flat):  # which numpy takes for NaN
                return None
            values = values.astype(np.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # no numbers, or not in float64
        return None
    return values if values.dtype.kind in "fiub" else None


def _flag(value: Any) -> bool | None:
    flag = _array(value)
    return bool(flag) if flag is not None and flag.shape == () and flag in (0, 1) else None


def _described(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, np.ndarray) and not value.ndim:
        return _described(value.item())
    if isinstance(value, np.ndarray):
        kind = "" if value.dtype.kind in "fiub" else f", {value.dtype}"
        return f"an array of shape {list(value.shape)}{kind}{_with_none(value)}"
    if isinstance(value, tuple | list) and len(value) <= 5:
        return f"a {type(value).__name__} of {len(value)} values{_with_none(value)}"
    if isinstance(value, int) and value.bit_length() > 128:  # of more digits than anybody reads
        return f"a whole number of {value.bit_length()} bits"
    if value is None or isinstance(value, bool | int | float | complex | str | np.generic):
        return repr(value)[:40]
    shape = f" of shape {list(value.shape)}, {value.dtype}" if hasattr(value, "detach") else ""
    return f"a {type(value).__name__}{shape}"


def _with_none(values: NDArray[Any] | tuple[Any, ...] | list[Any]) -> str:
    flat = values.flat if isinstance(values, np.ndarray) else values
    return ", one of which is None" if any(value is None for value in flat) else ""
