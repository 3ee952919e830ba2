"""Figures of an evaluation: returns, detection, calibration, training curves.

Every function returns a `matplotlib.figure.Figure` made without pyplot, so nothing global is
touched and no display is needed. Colours are Okabe and Ito's, which the colour-blind tell apart; a
shield keeps its colour and its marker through all figures.
"""

__all__ = [
    "WIDTH",
    "Look",
    "legend_above",
    "plain",
    "plot_calibration",
    "plot_ood_detection",
    "plot_returns",
    "plot_training_curves",
    "shield_looks",
    "tidy",
]

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from flowshield.errors import DataError
from flowshield.evaluation.cell_grid import UNSHIELDED, CellGrid
from flowshield.evaluation.wording import command_label, is_known, percent, shield_label

WIDTH = 9.0  # inches: about the text width of a report, so that type keeps its size


class Look(NamedTuple):
    """What tells a shield in every figure."""

    color: str
    marker: str


_KNOWN = {
    UNSHIELDED: Look("#4D4D4D", "X"),
    "quantile": Look("#0072B2", "s"),
    "diffusion": Look("#D55E00", "^"),
    "flow_matching": Look("#009E73", "o"),
    "mixture": Look("#CC79A7", "D"),
}
_RETURN = ("return_mean", "return_low", "return_high")
_RATE = ("rate", "low", "high")
_OTHERS = (Look("#56B4E9", "v"), Look("#E69F00", "P"))


def plot_returns(cells: Iterable[Mapping[str, Any]]) -> Figure:
    """Mean return with its interval by command and shield, and the share crashed below.

    Args:
        cells: The list "cells" of results.json: "command", "shield", "return_mean", and where
            known "return_low", "return_high", "crash_rate".

    Raises:
        DataError: There is no cell, or a cell has no command or shield.
    """
    grid = CellGrid.from_cells(cells)
    if not grid.commands:
        raise DataError("expected at least one cell to draw, got none: evaluate first")
    known = any(is_known(cell.get("crash_rate")) for cell in grid)
    strip = 0.27 * len(grid.shields) if known else 0.0  # inches
    figure = Figure(figsize=(WIDTH, 3.6 + strip), layout="constrained")
    if known:
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.0, strip))
        _draw_crashes(below, grid)
    else:
        axes = below = figure.subplots()
    _draw_returns(axes, grid)
    below.set_xticks(range(len(grid.commands)), [command_label(c) for c in grid.commands])
    below.set_xlabel("command: (horizon H in steps, return R)")
    for panel in (axes, below):
        panel.tick_params(axis="x", length=0)
    legend_above(figure, axes)
    return figure


def plot_ood_detection(roc: Mapping[str, Mapping[str, Any]], alpha: float | None = None) -> Figure:
    """ROC of every shield, whole and at the low false-alarm rates at which one would use it.

    Args:
        roc: By shield: "false_positive_rate" and "true_positive_rate", both rising, [k]; the area
            is taken from "auc_roc" where given and integrated otherwise.
        alpha: The calibrated false-alarm rate, drawn as a line, in (0, 1).

    Raises:
        DataError: There is no curve, or a curve's two lists differ in length or hold NaN.
    """
    if not roc:
        raise DataError("expected at least one ROC curve, got none: run evaluate_shield first")
    figure = Figure(figsize=(WIDTH, 4.3), layout="constrained")
    whole, low = figure.subplots(1, 2)
    for name, look in shield_looks(roc).items():
        x, y, area = _read_roc(name, roc[name])
        label = plain(f"{shield_label(name)}, AUROC {area:.3f}")
        for axes in (whole, low):
            axes.plot(x, y, color=look.color, lw=1.8, label=label)
    for axes in (whole, low):
        if alpha is not None:
            axes.axvline(alpha, color="black", lw=1, ls=":", label=f"calibrated to {alpha:.2g}")
        tidy(axes, grid="both")
        axes.set(xlabel="false-alarm rate", ylabel="detection rate", ylim=(-0.02, 1.02))
    whole.plot([0, 1], [0, 1], color="#999999", lw=1, ls="--", label="by chance")
    whole.set(xlim=(-0.02, 1.02), title="all thresholds")
    edge = min(1.0, 4 * alpha) if alpha else 0.2
    low.set(xlim=(-0.02 * edge, edge), title="low false-alarm rates")
    low.xaxis.set_major_locator(MaxNLocator(5))
    legend_above(figure, whole)
    return figure


def plot_calibration(levels: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Realised against nominal false-alarm rate, with its interval.

    Args:
        levels: By shield its "false_alarms_by_level": "alpha", "rate", "low", "high", shares of 1.

    Raises:
        DataError: There is no level at all.
    """
    rows = [row for shield in levels.values() for row in shield]
    if not rows:
        raise DataError("expected false alarms at one level at least, got none: calibrate first")
    figure = Figure(figsize=(WIDTH * 0.72, 4.4), layout="constrained")
    axes = figure.subplots()
    end = 1.1 * max(row["alpha"] for row in rows)
    axes.plot([0, end], [0, end], color="#999999", lw=1, ls="--", label="as promised", zorder=1)
    for (name, look), shift in zip(shield_looks(levels).items(), _dodge(len(levels)), strict=True):
        alpha = np.array([row["alpha"] for row in levels[name]], dtype=float)
        _error_bars(axes, alpha + 0.04 * end * shift, levels[name], _RATE, name, look)
    axes.set(xlim=(0, end), ylim=(-0.02 * end, None))
    axes.set(xlabel="nominal false-alarm rate", ylabel="realised on held-out episodes")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    tidy(axes, grid="both")
    legend_above(figure, axes)
    return figure


def plot_training_curves(history: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Train and validation loss by epoch, one panel per model, the best epoch marked.

    Args:
        history: By model: rows with "epoch", "train_loss" and where known "validation_loss".

    Raises:
        DataError: There is no model, or a model has no epoch.
    """
    empty = [name for name, rows in history.items() if not rows]
    if not history or empty:
        raise DataError(f"expected epochs of one model at least, got none of {empty or 'any'}")
    columns = min(2, len(history))
    rows = math.ceil(len(history) / columns)
    figure = Figure(figsize=(WIDTH, 0.6 + 2.5 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(history) :]:
        axes.remove()
    for (name, epochs), axes in zip(history.items(), panels.flat, strict=False):
        _draw_training(axes, name, epochs)
    legend_above(figure, *figure.axes)
    return figure


def _draw_returns(axes: Axes, grid: CellGrid) -> None:
    looks = shield_looks(grid.shields)
    for shield, shift in zip(grid.shields, _dodge(len(grid.shields)), strict=True):
        row = [(grid.commands.index(command), cell) for command, cell in grid.row(shield)]
        x = np.array([column for column, _ in row]) + 0.7 * shift
        _error_bars(axes, x, [cell for _, cell in row], _RETURN, shield, looks[shield])
    for column in range(1, len(grid.commands)):
        axes.axvline(column - 0.5, color="#DDDDDD", lw=0.8, zorder=0)
    axes.set(ylabel="mean return R achieved", xlim=(-0.5, len(grid.commands) - 0.5))
    tidy(axes, grid="y")


def _draw_crashes(axes: Axes, grid: CellGrid) -> None:
    """A strip of text: the share crashed, a row per shield and a column per command."""
    looks = shield_looks(grid.shields)
    for row, shield in enumerate(grid.shields):
        for command, cell in grid.row(shield):
            rate = cell.get("crash_rate")
            heavy = "bold" if is_known(rate) and rate > 0 else "normal"
            axes.text(
                grid.commands.index(command),
                row,
                percent(rate),
                ha="center",
                va="center",
                fontsize=9,
                color=looks[shield].color,
                fontweight=heavy,
            )
    axes.set_yticks(range(len(grid.shields)), [plain(shield_label(s)) for s in grid.shields])
    for label, shield in zip(axes.get_yticklabels(), grid.shields, strict=True):
        label.set_color(looks[shield].color)
    axes.set_ylim(len(grid.shields) - 0.5, -0.5)
    axes.set_title("share of episodes that crashed", fontsize=9, loc="left")
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.spines[:].set_visible(False)


def _draw_training(axes: Axes, name: str, epochs: Sequence[Mapping[str, Any]]) -> None:
    epoch = [row["epoch"] for row in epochs]
    one = "o" if len(epochs) == 1 else ""  # a line through one point is invisible
    axes.plot(
        epoch, [row["train_loss"] for row in epochs], color="#0072B2", label="train", marker=one
    )
    held = [(r["epoch"], r["validation_loss"]) for r in epochs if not _absent(r, "validation_loss")]
    if held:
        axes.plot(*zip(*held, strict=True), color="#D55E00", ls="--", label="held-out episodes")
        best = min(held, key=lambda point: point[1])
        axes.plot(*best, ls="", marker="o", ms=6, color="#D55E00", mec="black", label="best")
    axes.set(title=plain(name.replace("_", " ")), xlabel="epoch", ylabel="loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes, grid="y")


def _error_bars(
    axes: Axes,
    x: np.ndarray,
    rows: Sequence[Mapping[str, Any]],
    keys: tuple[str, str, str],
    name: str,
    look: Look,
) -> None:
    """Points with intervals that need not be symmetric; a missing interval is no bar."""
    middle, *ends = keys
    mean = np.array([row[middle] for row in rows], dtype=float)
    limits = [[row[middle] if _absent(row, end) else row[end] for row in rows] for end in ends]
    axes.errorbar(
        x,
        mean,
        yerr=np.abs(np.array(limits, dtype=float) - mean),
        fmt=look.marker,
        color=look.color,
        ms=6,
        capsize=2.5,
        elinewidth=1.4,
        label=plain(shield_label(name)),
    )


def _read_roc(name: str, curve: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, float]:
    x = np.asarray(curve["false_positive_rate"], dtype=float)
    y = np.asarray(curve["true_positive_rate"], dtype=float)
    if x.shape != y.shape or x.ndim != 1 or not np.isfinite([x, y]).all():
        raise DataError(
            f"expected two finite lists of one length for the ROC of {name!r}, got shapes "
            f"{list(x.shape)} and {list(y.shape)}: use metrics.roc_curve"
        )
    area = curve.get("auc_roc")
    return x, y, float(np.trapezoid(y, x)) if area is None else float(area)


def shield_looks(names: Iterable[str]) -> dict[str, Look]:
    """Colour and marker of each shield, the same in all figures."""
    others = cycle(_OTHERS)
    return {name: _KNOWN.get(name) or next(others) for name in names}


def _dodge(count: int) -> np.ndarray:
    """Offsets in (-0.5, 0.5), one for each of the things that share a tick."""
    return (np.arange(count) + 0.5) / count - 0.5


def tidy(axes: Axes, grid: str) -> None:
    """Two spines and a pale grid along "x", "y" or "both"."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#E6E6E6", lw=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def legend_above(figure: Figure, *panels: Axes) -> None:
    """One legend for the figure, with every label once."""
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    columns = len(handles) if len(handles) <= 4 else math.ceil(len(handles) / 2)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside upper center",
        ncols=columns,
        frameon=False,
    )


def _absent(row: Mapping[str, Any], key: str) -> bool:
    return not is_known(row.get(key))


def plain(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")
