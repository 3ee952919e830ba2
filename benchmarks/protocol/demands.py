"""A demand beside what was measured, in words."""

__all__ = ["Target", "by_all", "by_best", "left_out", "mean_words", "only"]

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from scipy.stats import binom  # type: ignore[attr-defined]  # its __all__ is computed

from flowshield.evaluation.wording import all_equal
from protocol.aggregate import Mean

_MISSED = 0.05  # share of 95% intervals that chance alone lets miss


class Target(NamedTuple):
    """One demand.

    Attributes:
        demand: What is asked for.
        found: What was measured; empty where nothing was.
        met: Whether that is enough.
    """

    demand: str
    found: str
    met: bool


def by_best(demand: str, found: dict[str, Mean], least: float) -> Target:
    """The best of some means is at least so much."""
    if not found:
        return Target(demand, "", False)
    name = max(found, key=lambda one: found[one].value)
    return Target(demand, f"{name} {mean_words(found[name])}", found[name].value >= least)


def by_all(demand: str, found: dict[str, Mean], holds: Callable[[float], bool]) -> Target:
    """Every mean satisfies something."""
    words = ", ".join(f"{name} {mean_words(mean)}" for name, mean in found.items())
    return Target(demand, words, all(holds(mean.value) for mean in found.values()))


def left_out(demand: str, covered: Iterable[bool]) -> Target:
    """No more of some 95% intervals miss than chance alone would let miss (its own 95%)."""
    judged = list(covered)
    n, missed = len(judged), judged.count(False)
    most = int(binom.ppf(0.95, n, _MISSED)) if n else 0
    words = f"{n - missed} of {n}; chance alone leaves out about {_MISSED * n:.2g}, "
    return Target(demand, f"{words}seldom over {most}" if n else "", missed <= most)


def only(found: dict[str, Mean], names: Iterable[str]) -> dict[str, Mean]:
    """Those of these names, whatever the score they judge by."""
    return {name: mean for name, mean in found.items() if name.split(" ")[0] in set(names)}


def mean_words(mean: Mean) -> str:
    """Mean ± half of its interval; says so where there is one seed only."""
    if math.isnan(mean.half_width):
        return f"{mean.value:.4g} (one seed)"
    if equal := all_equal(mean.value - mean.half_width, mean.value + mean.half_width):
        return f"{mean.value:.4g} ({equal})"
    return f"{mean.value:.4g} ±{mean.half_width:.2g}"
