"""Speeds of contenders that took turns, one number a round, and how they are told."""

__all__ = ["median_and_range", "ratio"]

import statistics
from collections.abc import Sequence


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over the rounds of our speed as a multiple of theirs in the same round."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def median_and_range(speeds: Sequence[float]) -> tuple[str, str]:
    """Two cells of a table: the median, and the slowest and the fastest round."""
    return f"{statistics.median(speeds):,.0f}", f"{min(speeds):,.0f} - {max(speeds):,.0f}"
