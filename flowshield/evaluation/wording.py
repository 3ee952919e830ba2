"""How numbers of results.json are written, the same in the terminal, README and report.

What was not measured is None or NaN in the results and a dash in writing.
"""

__all__ = [
    "MISSING",
    "alarm_basis",
    "command_label",
    "command_words",
    "decimals_for",
    "is_known",
    "listed",
    "number",
    "percent",
    "percent_interval",
    "percent_range",
    "plus_minus",
    "shield_label",
    "steps_words",
]

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

MISSING = "–"


def is_known(value: float | None) -> TypeGuard[float]:
    """Whether a value was measured."""
    return value is not None and not math.isnan(value)


def number(value: float | None, decimals: int = 2) -> str:
    """A number with so many decimals, never "-0"; a dash where it is missing."""
    if not is_known(value):
        return MISSING
    return f"{value:z.{decimals}f}".replace("-", "−")


def percent(rate: float | None, decimals: int = 0) -> str:
    """A share as a percentage; a share that is small but not nothing never reads 0%."""
    if not is_known(rate):
        return MISSING
    smallest = 10.0**-decimals
    if 0 < 100 * rate < smallest / 2:
        return f"<{smallest:.{decimals}f}%"
    return f"{100 * rate:.{decimals}f}%"


def percent_interval(low: float | None, high: float | None, decimals: int = 1) -> str:
    """The ends of an interval of a share; a dash where either is missing."""
    if not (is_known(low) and is_known(high)):
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
    """A mean and half the width of its interval: "284 ±1"; only the mean if it has none."""
    if not (is_known(mean) and is_known(low) and is_known(high)):
        return number(mean, decimals)
    half = (high - low) / 2
    finer = decimals + 1 if 0 < half < 0.95 * 10.0**-decimals else decimals  # "±0" would flatter
    return f"{number(mean, decimals)} ±{number(half, finer)}"


def decimals_for(values: Iterable[float | None]) -> int:
    """Decimals that leave the largest of the values about three significant figures."""
    sizes = [abs(value) for value in values if value is not None and math.isfinite(value)]
    largest = max(sizes, default=0.0)
    if largest == 0.0:
        return 0
    return max(0, 2 - math.floor(math.log10(largest)))


def command_label(command: Iterable[float]) -> str:
    """A command as (horizon, return), without needless zeros."""
    return "(" + ", ".join(f"{value:g}" for value in command).replace("-", "−") + ")"


def command_words(command: Iterable[float]) -> str:
    """A command in words: "return 280 in 1000 steps"."""
    horizon, target = command
    return f"return {number(target, decimals_for([target]))} in {steps_words(horizon)}"


def steps_words(horizon: float) -> str:
    """So many steps: "1 step", "154.7 steps"."""
    text = f"{horizon:.1f}".removesuffix(".0")
    return f"{text} step" if text == "1" else f"{text} steps"


def shield_label(name: str) -> str:
    """A shield's name as people write it."""
    return "no shield" if name == "none" else name.replace("_", " ")


def alarm_basis(entry: Mapping[str, Any]) -> str:
    """What a shield's false alarms are counted on, as its calibration promised.

    Args:
        entry: Its record in results.json.
    """
    calibration = entry.get("calibration") or {}
    basis = "whole episodes" if calibration.get("unit") == "episode" else "one step per episode"
    return f"{basis}, by group" if len(calibration.get("thresholds") or ()) > 1 else basis
