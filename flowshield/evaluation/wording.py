"""How numbers of results.json are written, the same in the terminal, README and report.

What was not measured is None or NaN in the results and a dash in writing.
"""

__all__ = [
    "MISSING",
    "alarm_basis",
    "all_equal",
    "command_label",
    "command_words",
    "decimals_for",
    "interval_words",
    "is_known",
    "listed",
    "number",
    "percent",
    "percent_interval",
    "percent_range",
    "plus_minus",
    "resolution_decimals",
    "short_number",
    "shield_label",
    "steps_words",
]

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

MISSING = "–"

_LEAST_DECIMALS, _MOST_DECIMALS = -3, 5  # of numbers that are written without an exponent
_FROM_EXPONENT = 1e6
_MOST_FIGURES = 7  # as many as float32 has
_NOTHING = 0.005  # of the last decimal: what is less is the rounding of a difference
_EQUAL = 1e-9  # of the ends of an interval: they differ by less where all values were equal


def is_known(value: float | None) -> TypeGuard[float]:
    """Whether a value was measured."""
    return value is not None and not math.isnan(value)


def number(value: float | None, decimals: int = 2) -> str:
    """A number to so many decimals, never "-0"; a dash where it is missing.

    Where it would have more than 5 decimals, or 7 digits before the point, it has an exponent, and
    the same decimals count: 0.5 in units of a millionth is "5.0e−7" to 8 decimals.

    Args:
        value: What is written.
        decimals: From -3 to 0 it is written as a whole number.
    """
    if not is_known(value):
        return MISSING
    scale = abs(value) if math.isfinite(value) else 0.0
    if decimals > _MOST_DECIMALS or decimals < _LEAST_DECIMALS or scale >= _FROM_EXPONENT:
        return _with_exponent(value, decimals)
    return f"{value:z.{max(decimals, 0)}f}".replace("-", "−")


def short_number(value: float) -> str:
    """A number as people type it, to six figures: "280", "0.25", "1e−6"."""
    return _minus(f"{value:zg}")


def _with_exponent(value: float, decimals: int) -> str:
    if not math.isfinite(value) or abs(value) < _NOTHING * 10.0**-decimals:
        return "0" if math.isfinite(value) else _minus(f"{value}")
    figures = math.floor(math.log10(abs(value))) + decimals
    return _minus(f"{value:.{min(max(figures, 0), _MOST_FIGURES - 1)}e}")


def _minus(text: str) -> str:
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}".replace("-", "−") if e else text.replace("-", "−")


def percent(rate: float | None, decimals: int = 0) -> str:
    """A share as a percentage; a share that is small but not nothing never reads 0%."""
    if not is_known(rate):
        return MISSING
    smallest = 10.0**-decimals
    if 0 < 100 * rate < smallest / 2:
        return f"<{smallest:.{decimals}f}%"
    return f"{100 * rate:.{decimals}f}%"


def percent_interval(low: float | None, high: float | None, decimals: int = 1) -> str:
    """The ends of an interval of a share; a dash where either is missing, or all were equal."""
    if not (is_known(low) and is_known(high)) or all_equal(low, high):
        return MISSING
    return f"{percent(low, decimals)} to {percent(high, decimals)}"


def percent_range(rates: Iterable[float | None], decimals: int = 1) -> str:
    """The one share, or the lowest and the highest; a dash where none is known."""
    known = [rate for rate in rates if is_known(rate)]
    ends = dict.fromkeys(percent(f(known), decimals) for f in (min, max)) if known else [MISSING]
    return " to ".join(ends)


def listed(names: Sequence[str]) -> str:
    """Names as people list them: "a, b and c"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def plus_minus(mean: float | None, low: float | None, high: float | None, decimals: int = 0) -> str:
    """A mean and half the width of its interval, "284 ±1", with digits enough to show the width.

    Only the mean where there is no interval, or one of no width: `all_equal` says so.
    """
    if not (is_known(mean) and is_known(low) and is_known(high)) or all_equal(low, high):
        return number(mean, decimals)
    half = (high - low) / 2
    finer = decimals + 1 if half < 0.95 * 10.0**-decimals else decimals
    if half < 0.5 * 10.0**-finer:  # "±0" would flatter
        finer = resolution_decimals(half)
    return f"{number(mean, decimals)} ±{number(half, finer)}"


def all_equal(low: float | None, high: float | None, n: int | None = None) -> str:
    """Says "all 10 equal" for an interval of no width, and nothing for any other.

    Resampling equal values gives such an interval, however few they are: it does not say how far
    the next value may lie.

    Args:
        low: Its lower end.
        high: Its upper end.
        n: How many values there were, if that is known.
    """
    if low is None or high is None or not math.isfinite(width := high - low):
        return ""
    if width > _EQUAL * max(abs(low), abs(high)):
        return ""
    return f"all {n} equal" if n else "all equal"


def interval_words(
    low: float | None, high: float | None, decimals: int, n: int | None = None
) -> str:
    """The ends of an interval, "283 to 286", or that all values are equal; a dash if it is missing.

    Args:
        low: Its lower end.
        high: Its upper end.
        decimals: With how many they are written; with more where they would look alike.
        n: How many values there were, if that is known.
    """
    if not (is_known(low) and is_known(high)):
        return MISSING
    if equal := all_equal(low, high, n):
        return equal
    if number(low, decimals) == number(high, decimals) and math.isfinite(high - low):
        decimals = max(decimals, resolution_decimals(high - low))
    return f"{number(low, decimals)} to {number(high, decimals)}"


def decimals_for(values: Iterable[float | None]) -> int:
    """Decimals that leave the largest of the values about three significant figures."""
    sizes = [abs(value) for value in values if value is not None and math.isfinite(value)]
    largest = max(sizes, default=0.0)
    return resolution_decimals(largest / 100) if largest > 0.0 else 0


def resolution_decimals(resolution: float) -> int:
    """Decimals that tell numbers apart that differ by so much; negative for millions."""
    decimals = -math.floor(math.log10(resolution))
    return decimals if decimals < _LEAST_DECIMALS else max(0, decimals)


def command_label(command: Iterable[float]) -> str:
    """A command as (horizon, return), without needless zeros."""
    return "(" + ", ".join(map(short_number, command)) + ")"


def command_words(command: Iterable[float], most_decimals: int | None = None) -> str:
    """A command in words: "return 280 in 1000 steps".

    Args:
        command: (horizon in steps, return).
        most_decimals: With how many decimals a return is written at most; None = no such limit.
    """
    horizon, target = command
    decimals = decimals_for([target])
    if most_decimals is not None:
        decimals = min(decimals, most_decimals)
    return f"return {number(target, decimals)} in {steps_words(horizon)}"


def steps_words(horizon: float) -> str:
    """So many steps: "1 step", "154.7 steps"."""
    text = f"{horizon:.1f}".removesuffix(".0")
    return f"{text} step" if text == "1" else f"{text} steps"


def shield_label(name: str) -> str:
    """A shield's name as it is typed, the same wherever it stands."""
    return "no shield" if name == "none" else name


def alarm_basis(entry: Mapping[str, Any]) -> str:
    """What a shield's false alarms are counted on, as its calibration promised.

    Args:
        entry: Its record in results.json.
    """
    calibration = entry.get("calibration") or {}
    basis = "whole episodes" if calibration.get("unit") == "episode" else "one step per episode"
    return f"{basis}, by group" if len(calibration.get("thresholds") or ()) > 1 else basis
