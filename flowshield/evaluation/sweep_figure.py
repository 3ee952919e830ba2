"""The figure of a sweep: how the trials went, and what each searched key did to them."""

__all__ = ["plot_sweep"]

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flowshield.errors import DataError
from flowshield.evaluation.figures import WIDTH, Look, legend_above, plain, shield_looks, tidy
from flowshield.evaluation.wording import shield_label

Trials = Sequence[Mapping[str, Any]]

_LOG_RATIO = 5.0  # largest over smallest value from which an axis is logarithmic


def plot_sweep(results: Mapping[str, Any]) -> Figure:
    """Score by epoch of every trial, and final score against each searched number.

    Trials that were stopped early end in a cross, and are hollow in the other panels.

    Args:
        results: The content of the sweep's results.json; only "trials" is read.

    Raises:
        DataError: No trial has a score.
    """
    trials = [trial for trial in results["trials"] if trial["scores"]]
    if not trials:
        raise DataError("expected at least one trial with a score, got none: see their errors")
    keys = _numeric_keys(trials)
    columns = min(2, 1 + len(keys))
    rows = math.ceil((1 + len(keys)) / columns)
    figure = Figure(figsize=(WIDTH, 0.6 + 3.0 * rows), layout="constrained")
    first, *others = figure.subplots(rows, columns, squeeze=False).flat
    looks = shield_looks(dict.fromkeys(trial["parameters"]["shield"] for trial in trials))
    _draw_epochs(first, trials, looks)
    for axes, key in zip(others, keys, strict=False):
        _draw_key(axes, trials, key, looks)
    for axes in others[len(keys) :]:
        axes.remove()
    legend_above(figure, first)
    return figure


def _draw_epochs(axes: Axes, trials: Trials, looks: Mapping[str, Look]) -> None:
    for trial in trials:
        name, scores = trial["parameters"]["shield"], trial["scores"]
        axes.plot(
            range(1, len(scores) + 1),
            scores,
            color=looks[name].color,
            marker=looks[name].marker if trial["status"] == "finished" else "x",
            markevery=[len(scores) - 1],
            lw=1.2,
            alpha=0.8,
            label=plain(shield_label(name)),
        )
    axes.set(xlabel="epoch", ylabel="score", title="by epoch (x: stopped)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes, grid="y")


def _draw_key(axes: Axes, trials: Trials, key: str, looks: Mapping[str, Look]) -> None:
    found = [trial for trial in trials if _is_number(trial["parameters"].get(key))]
    values = [trial["parameters"][key] for trial in found]
    for trial, value in zip(found, values, strict=True):
        look = looks[trial["parameters"]["shield"]]
        inside = look.color if trial["status"] == "finished" else "none"
        axes.plot(value, trial["scores"][-1], ls="", marker=look.marker, mfc=inside, mec=look.color)
    if min(values) > 0 and max(values) > _LOG_RATIO * min(values):
        axes.set_xscale("log")
    axes.set(xlabel=plain(key), ylabel="score", title="at the end (hollow: stopped)")
    tidy(axes, grid="both")


def _numeric_keys(trials: Trials) -> list[str]:
    """The searched keys of which there are different numbers."""
    keys = dict.fromkeys(key for trial in trials for key in trial["parameters"])
    values = {key: {v for t in trials if _is_number(v := t["parameters"].get(key))} for key in keys}
    return [key for key in keys if len(values[key]) > 1]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
