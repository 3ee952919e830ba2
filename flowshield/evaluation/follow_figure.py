"""Figure of what was achieved against what was commanded."""

__all__ = ["plot_followed"]

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flowshield.errors import DataError
from flowshield.evaluation.figures import WIDTH, legend_above, plain, tidy
from flowshield.evaluation.wording import shield_label

_ENDS = {
    "ended": ("#0072B2", "o", "ended by itself"),
    "out of time": ("#E69F00", "s", "ran out of time"),
    "crashed": ("#D55E00", "X", "crashed"),
}


def plot_followed(followed: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Every episode's achieved return and horizon over the commanded one, with the diagonal.

    Args:
        followed: By shield: "commanded" and "achieved" pairs (steps, return) and "ends", one of
            "ended", "out of time", "crashed", an episode.

    Raises:
        DataError: There is no episode at all.
    """
    drawn = {name: record for name, record in followed.items() if record.get("commanded")}
    if not drawn:
        raise DataError("expected one episode at least, got none: no command was supported")
    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    panels = figure.subplots(2, len(drawn), squeeze=False, sharex="row", sharey="row")
    for (name, record), column in zip(drawn.items(), panels.T, strict=True):
        pairs = np.stack([record["commanded"], record["achieved"]]).astype(float)  # [2, n, 2]
        for axes, values in zip(column, (pairs[..., 1], pairs[..., 0]), strict=True):
            _draw(axes, values, np.array(record["ends"]))
        column[0].set_title(plain(shield_label(name)), fontsize=10)
    for row, quantity in zip(panels, ("return R", "horizon H"), strict=True):
        for axes in row:
            axes.set_xlabel(f"{quantity} asked")
        row[0].set_ylabel(f"{quantity} achieved")
        _draw_diagonals(row)
    legend_above(figure, *panels.flat)
    return figure


def _draw(axes: Axes, values: np.ndarray, ends: np.ndarray) -> None:
    """Commanded and achieved values [2, n], by how the episode ended."""
    for end, (color, marker, label) in _ENDS.items():
        asked, got = values[:, ends == end]
        if len(asked):
            axes.scatter(asked, got, s=16, color=color, marker=marker, alpha=0.7, lw=0, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    tidy(axes, grid="both")


def _draw_diagonals(row: np.ndarray) -> None:
    """The line of what was asked, as far as the panels of the row reach across."""
    low, high = row[0].get_xlim()
    bottom, top = row[0].get_ylim()
    for axes in row:
        line = [low, high]
        axes.plot(line, line, color="#999999", lw=1, ls="--", zorder=0, label="as asked")
    row[0].set_xlim(low, high)
    row[0].set_ylim(min(bottom, low), max(top, high))
