"""The command plane at one state: what the shield supports there, and where it moves requests."""

__all__ = [
    "Array",
    "CommandPlane",
    "draw_bound",
    "draw_data",
    "draw_requests",
    "plot_projection",
]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from flowshield.errors import DataError, ShapeError
from flowshield.evaluation.wording import short_number

Array = NDArray[np.float64]

_REQUEST = "#D55E00"
_PROJECTION = "white"


@dataclass(frozen=True)
class CommandPlane:
    """log p(g | s) over a grid of commands g = (H, R) at one state s, and what happened there.

    Attributes:
        horizons: Grid of H in steps, rising, [h].
        returns: Grid of R in units of return, rising, [r].
        log_prob: log p((H, R) | s) in nats, [r, h]; -inf is allowed.
        threshold: Calibrated threshold in nats: less is flagged.
        requests: Commands asked for, [k, 2].
        projections: What the shield made of each, [k, 2].
        data_commands: Commands that the data hold near this state, [n, 2].
        bound: Provable upper bound on the return from s, if the environment knows one.
        fulfilled: Commands that the episode at s really fulfilled, [m, 2].
    """

    horizons: ArrayLike
    returns: ArrayLike
    log_prob: ArrayLike
    threshold: float
    requests: ArrayLike = ()
    projections: ArrayLike = ()
    data_commands: ArrayLike = ()
    bound: float | None = None
    fulfilled: ArrayLike = ()


def plot_projection(plane: CommandPlane | Mapping[str, Any]) -> Figure:
    """Density, threshold, requests and their projections over the plane of commands.

    Args:
        plane: A `CommandPlane`, or a mapping with its fields.

    Raises:
        DataError: log_prob holds NaN, +inf or nothing finite, the threshold is not finite, or a
            grid has fewer than two values or does not rise.
        ShapeError: The arrays do not fit each other.
    """
    if not isinstance(plane, CommandPlane):
        plane = CommandPlane(**plane)
    horizons, returns, log_prob = _grid(plane)
    requests, projections, data = (
        _commands(name, getattr(plane, name))
        for name in ("requests", "projections", "data_commands")
    )
    if requests.shape != projections.shape:
        raise ShapeError(
            f"expected a projection for every request, got {len(requests)} requests and "
            f"{len(projections)} projections"
        )
    figure = Figure(figsize=(7.6, 5.4), layout="constrained")
    axes = figure.subplots()
    handles = [*_draw_density(figure, axes, horizons, returns, log_prob, plane.threshold)]
    edge = [] if plane.bound is None else [[horizons[0], plane.bound]]
    _limit(axes, horizons, returns, np.array([*requests, *projections, *edge]).reshape(-1, 2))
    handles += draw_data(axes, data)
    handles += draw_requests(axes, requests, projections)
    label = (
        ""
        if plane.bound is None
        else f"provable bound on R: {short_number(float(f'{plane.bound:.4g}'))}"
    )
    handles += draw_bound(axes, plane.bound, label)
    axes.set(xlabel="horizon H (steps)", ylabel="return R")
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _draw_density(
    figure: Figure, axes: Axes, horizons: Array, returns: Array, log_prob: Array, threshold: float
) -> list[Line2D]:
    """Filled contours centred on the threshold, so that both of its sides show relief."""
    top = float(log_prob[np.isfinite(log_prob)].max())
    bottom = threshold - max(top - threshold, 3.0)
    levels = MaxNLocator(12).tick_values(bottom, max(top, bottom + 1.0))
    shown = np.clip(
        log_prob, levels[0] - 1.0, None
    )  # -inf would leave holes, not the lowest colour
    filled = axes.contourf(horizons, returns, shown, levels=levels, cmap="Blues", extend="min")
    bar = figure.colorbar(filled, ax=axes)
    bar.set_label("log p(H, R | s) (nats)")
    handles = []
    if shown.min() < threshold < shown.max():
        line: dict[str, Any] = {"colors": "black", "linewidths": 1.6, "linestyles": "solid"}
        axes.contour(horizons, returns, shown, levels=[threshold], **line)
        bar.ax.axhline(threshold, color="black", lw=1.6)
        handles.append(Line2D([], [], color="black", lw=1.6, label=f"threshold {threshold:.1f}"))
    return handles


def draw_data(axes: Axes, data: Array) -> list[Line2D]:
    """The commands [n, 2] that the data hold, as small dots."""
    if not len(data):
        return []
    label = "commands in the data"
    return axes.plot(*data.T, ls="", marker=".", ms=3, color="#444444", alpha=0.35, label=label)


def draw_requests(axes: Axes, requests: Array, projections: Array) -> list[Line2D]:
    """Requests [k, 2] with arrows to what became of them [k, 2]."""
    if not len(requests):
        return []
    reach = np.ptp(np.array([axes.get_xlim(), axes.get_ylim()]), axis=1)
    for start, end in zip(requests, projections, strict=True):
        if np.abs((end - start) / reach).max() < 0.01:
            continue  # left where it was: an arrow would be a blot
        axes.annotate(
            "",
            xy=tuple(end),
            xytext=tuple(start),
            arrowprops={"arrowstyle": "-|>", "color": _REQUEST, "lw": 1.3, "shrinkB": 4},
            annotation_clip=False,
        )
    style: dict[str, Any] = {"ls": "", "zorder": 4, "clip_on": False}
    ends = axes.plot(
        *projections.T,
        marker="o",
        ms=7,
        color=_PROJECTION,
        mec="black",
        label="projection",
        **style,
    )
    starts = axes.plot(
        *requests.T, marker="x", ms=8, mew=2.2, color=_REQUEST, label="request", **style
    )
    return [*starts, *ends]


def draw_bound(axes: Axes, bound: float | None, label: str) -> list[Line2D]:
    """A line at the return that no policy can pass, where that is known."""
    if bound is None:
        return []
    return [axes.axhline(bound, color="#AA3377", lw=1.5, ls="--", label=label)]


def _limit(axes: Axes, horizons: Array, returns: Array, points: Array) -> None:
    """Shows the whole grid, and with some air whatever lies outside it."""
    for set_limit, grid, extra in (
        (axes.set_xlim, horizons, points[:, 0]),
        (axes.set_ylim, returns, points[:, 1]),
    ):
        air = 0.04 * np.ptp(grid)
        outside = np.concatenate([extra[extra < grid[0]] - air, extra[extra > grid[-1]] + air])
        set_limit(min([grid[0], *outside]), max([grid[-1], *outside]))


def _grid(plane: CommandPlane) -> tuple[Array, Array, Array]:
    horizons, returns = (np.asarray(a, dtype=float) for a in (plane.horizons, plane.returns))
    log_prob = np.asarray(plane.log_prob, dtype=float)
    if log_prob.shape != (*returns.shape, *horizons.shape) or log_prob.ndim != 2:
        raise ShapeError(
            f"expected log_prob of shape [r, h] = [{returns.size}, {horizons.size}], got "
            f"{list(log_prob.shape)}: the rows are the returns"
        )
    for name, axis in (("horizons", horizons), ("returns", returns)):
        if axis.size < 2 or not (np.diff(axis) > 0).all():
            raise DataError(f"expected {name} to hold two rising values at least, got {axis.size}")
    if np.isnan(log_prob).any() or np.isposinf(log_prob).any() or np.isneginf(log_prob).all():
        raise DataError("expected log_prob finite or -inf, finite somewhere: check the shield")
    if not np.isfinite(plane.threshold):
        raise DataError(f"expected a finite threshold, got {plane.threshold}: calibrate the shield")
    return horizons, returns, log_prob


def _commands(name: str, values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        return np.empty((0, 2))
    if array.ndim != 2 or array.shape[1] != 2:
        raise ShapeError(f"expected {name} of shape [n, 2] as (H, R), got {list(array.shape)}")
    return array
