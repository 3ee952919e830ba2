"""The command plane at several moments of one episode: what is supported, asked, and made of it."""

__all__ = ["plot_moments"]

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flowshield.errors import DataError
from flowshield.evaluation.command_plane import (
    Array,
    CommandPlane,
    draw_bound,
    draw_data,
    draw_requests,
)
from flowshield.evaluation.figures import WIDTH, legend_above, plain

_LEVELS = (-20.0, -8.0, -3.0, 0.0, 1.5, 3.0, 5.0)  # nats from the threshold
_BELOW = ("#e9c9ae", "#f0d9c5", "#f5e6d8", "#faf2ea")
_ABOVE = ("#d3e5f2", "#a5cbe6", "#6fabd6", "#3d88c0")


def plot_moments(planes: Mapping[str, CommandPlane], score_label: str = "score") -> Figure:
    """One panel a moment, all in one colour scale: nats above or below the threshold.

    A request that lies outside its panel is drawn at the edge, with an arrow head.

    Args:
        planes: By title.
        score_label: What the scores are, for the colour bar.

    Raises:
        DataError: There is no plane.
    """
    if not planes:
        raise DataError("expected at least one moment to draw, got none")
    columns = min(2, len(planes))
    rows = math.ceil(len(planes) / columns)
    figure = Figure(figsize=(WIDTH, 0.9 + 3.3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(planes) :]:
        axes.remove()
    drawn = [axes for axes, _ in zip(panels.flat, planes, strict=False)]
    for axes, (title, plane) in zip(drawn, planes.items(), strict=True):
        filled = _draw(axes, plane)
        axes.set(title=plain(title), xlabel="horizon H (steps)", ylabel="return R")
        axes.title.set_fontsize(10)
    bar = figure.colorbar(filled, ax=drawn, aspect=40, ticks=_LEVELS)
    bar.set_label(f"{plain(score_label)} minus its threshold (nats)")
    legend_above(figure, *drawn)
    return figure


def _draw(axes: Axes, plane: CommandPlane) -> QuadContourSet:
    horizons, returns, scores = map(np.asarray, (plane.horizons, plane.returns, plane.log_prob))
    above = np.nan_to_num(scores - plane.threshold, neginf=2 * _LEVELS[0])
    filled = axes.contourf(
        horizons, returns, above, levels=_LEVELS, colors=[*_BELOW, *_ABOVE], extend="both"
    )
    if above.min() < 0.0 < above.max():
        axes.contour(horizons, returns, above, levels=[0.0], colors="black", linewidths=1.4)
    axes.plot([], [], color="black", lw=1.4, label="threshold")
    axes.set(xlim=(horizons[0], horizons[-1]), ylim=(returns[0], returns[-1]))
    draw_data(axes, np.asarray(plane.data_commands, dtype=float))
    requests = np.asarray(plane.requests, dtype=float).reshape(-1, 2)
    shown, beyond = _clipped(axes, requests)
    draw_requests(axes, shown, np.asarray(plane.projections, dtype=float).reshape(-1, 2))
    _draw_beyond(axes, shown[beyond], requests[beyond])
    _draw_fulfilled(axes, np.asarray(plane.fulfilled, dtype=float).reshape(-1, 2))
    draw_bound(axes, plane.bound, "provable bound on R")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return filled


def _clipped(axes: Axes, requests: Array) -> tuple[Array, Array]:
    """The requests [k, 2], at the nearest edge if outside, and which those are, bool [k]."""
    low, high = np.array([axes.get_xlim(), axes.get_ylim()]).T
    shown = requests.clip(low, high)
    return shown, (shown != requests).any(axis=1)


def _draw_beyond(axes: Axes, shown: Array, requests: Array) -> None:
    label = "request beyond the panel"
    for at, request in zip(shown, requests, strict=True):
        sideways = abs(request[0] - at[0]) > 0
        marker = (">" if request[0] > at[0] else "<") if sideways else "^"
        if not sideways and request[1] < at[1]:
            marker = "v"
        style: dict[str, Any] = {"ms": 9, "color": "#D55E00", "mec": "black", "mew": 0.6}
        axes.plot(*at, ls="", marker=marker, clip_on=False, zorder=5, label=label, **style)


def _draw_fulfilled(axes: Axes, fulfilled: Array) -> None:
    if len(fulfilled):
        style: dict[str, Any] = {"ms": 10, "color": "#E69F00", "mec": "black", "mew": 0.8}
        axes.plot(
            *fulfilled.T, ls="", marker="*", zorder=6, label="what the episode really did", **style
        )
