"""From results of single seeds to means with intervals."""

__all__ = ["Mean", "by_model", "label", "mean_over_seeds", "paired_returns"]

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t  # type: ignore[attr-defined]  # its __all__ is computed

from flowshield.evaluation import paired_difference
from flowshield.evaluation.statistics import Interval
from protocol.store import Key, Records


@dataclass(frozen=True)
class Mean:
    """A mean over training seeds.

    Attributes:
        value: The mean.
        half_width: Half of its 95% t-interval over the seeds; NaN for a single seed.
        values: One a seed.
    """

    value: float
    half_width: float
    values: tuple[float, ...]

    def holds(self, value: float) -> bool | None:
        """Whether the interval holds a value; None where there is no interval."""
        if math.isnan(self.half_width):
            return None
        return abs(value - self.value) <= self.half_width


def mean_over_seeds(values: Iterable[float | None]) -> Mean | None:
    """Mean and t-interval of one value a seed; None where there is none."""
    known = [float(v) for v in values if v is not None and not math.isnan(v)]
    if not known:
        return None
    if len(known) == 1:
        return Mean(known[0], math.nan, tuple(known))
    spread = float(np.std(known, ddof=1)) / math.sqrt(len(known))
    half = float(t.ppf(0.975, len(known) - 1)) * spread
    return Mean(float(np.mean(known)), half, tuple(known))


def by_model(
    records: Records, dataset: str, read: Callable[[Mapping[str, Any]], float | None]
) -> dict[str, Mean]:
    """One number of every model of a dataset, over its seeds, in the order of the records."""
    found: dict[str, list[float | None]] = {}
    for key, record in records.items():
        if key.dataset == dataset:
            found.setdefault(label(key), []).append(read(record))
    means = {name: mean_over_seeds(values) for name, values in found.items()}
    return {name: mean for name, mean in means.items() if mean is not None}


def label(key: Key) -> str:
    """A model as in the tables, with the score it judges by if that is not its usual one."""
    return f"{key.model} ({key.detail})" if key.detail else key.model


def paired_returns(records: Records, dataset: str, guard: str, detail: str) -> Interval | None:
    """Return with a guard less return without, over the same starts, seeds averaged first.

    The bootstrap resamples starts; each start's difference is the mean over the training seeds
    that both cells have.
    """
    differences = []
    for key, record in records.items():
        if (key.dataset, key.model, key.detail) != (dataset, guard, detail):
            continue
        alone = records.get(key._replace(model="none"))
        if alone is not None:
            differences.append(np.subtract(record["returns"], alone["returns"]))
    if not differences:
        return None
    mean = np.mean(differences, axis=0)
    return paired_difference(mean, np.zeros_like(mean))
