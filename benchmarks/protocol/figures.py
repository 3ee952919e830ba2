"""The benchmark's figures."""

__all__ = ["draw"]

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flowshield.evaluation.wording import command_label
from protocol.aggregate import Mean, by_model, label, mean_over_seeds
from protocol.behaviour import command_name
from protocol.readings import of_calibration, of_rung
from protocol.results import Results
from protocol.rungs import DISTANCES
from protocol.settings import Settings
from protocol.store import Records


def draw(results: Results, folder: Path) -> None:
    """Writes every figure for which there are results into a folder, which is made."""
    drawn: dict[str, tuple[str, Callable[[Settings, Records], Figure]]] = {
        "detection": ("detection", _detection),
        "calibration": ("calibration", _calibration),
        "behaviour": ("behaviour", _behaviour),
    }
    for name, (part, make) in drawn.items():
        records = results.of(part)
        if records:
            folder.mkdir(parents=True, exist_ok=True)
            make(results.settings, records).savefig(folder / f"{name}.png", dpi=150)


def _panels(settings: Settings, n_rows: int = 1) -> tuple[Figure, list[list[Axes]]]:
    n = len(settings.datasets)
    figure = Figure(figsize=(6.2 * n, 4.2 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, n, squeeze=False)
    for i, dataset in enumerate(settings.datasets):
        axes[0][i].set_title(dataset)
    return figure, axes.tolist()


def _detection(settings: Settings, records: Records) -> Figure:
    """Share of impossible commands flagged, by how far above the bound they ask."""
    figure, axes = _panels(settings)
    for panel, dataset in zip(axes[0], settings.datasets, strict=True):
        curves = [
            by_model(
                records, dataset, partial(of_rung, where="random", distance=d, what="detected")
            )
            for d in DISTANCES
        ]
        for i, name in enumerate(curves[0]):
            _curve(panel, list(DISTANCES), [c.get(name) for c in curves], name, i)
        panel.set(
            xlabel="asked above the provable bound (raw return)",
            ylabel="detected at a calibrated 5%",
            ylim=(-0.02, 1.02),
        )
        panel.set_xscale("symlog", linthresh=5)
        panel.set_xticks(DISTANCES, [f"{d:g}" for d in DISTANCES])
    _legend(figure, axes[0][0])
    return figure


def _calibration(settings: Settings, records: Records) -> Figure:
    """Realised against nominal false-alarm rate: mean over seeds, band of the promise."""
    figure, axes = _panels(settings, 2)
    for row, unit in zip(axes, ("step", "episode"), strict=True):
        for panel, dataset in zip(row, settings.datasets, strict=True):
            names = dict.fromkeys(label(k) for k in records if k.dataset == dataset)
            for i, name in enumerate(names):
                means = [
                    mean_over_seeds(
                        found["rate"]
                        for key, record in records.items()
                        if (key.dataset, label(key)) == (dataset, name)
                        and (found := of_calibration(record, unit, alpha))
                    )
                    for alpha in settings.alphas
                ]
                _curve(panel, list(settings.alphas), means, name, i)
            ends = [0.0, max(settings.alphas) * 1.1]
            panel.plot(ends, ends, color="#888888", lw=0.8, ls="--")
            panel.set(xlabel=f"nominal rate per {unit}", ylabel="realised on fresh episodes")
    _legend(figure, axes[0][0])
    return figure


def _behaviour(settings: Settings, records: Records) -> Figure:
    """Return and crashes by command, a bar a guard."""
    figure, axes = _panels(settings, 2)
    for column, dataset in enumerate(settings.datasets):
        for row, (word, words) in enumerate(
            [("return_mean", "mean return"), ("crash_rate", "share crashed")]
        ):
            panel = axes[row][column]
            _bars(panel, settings, records, dataset, word)
            panel.set_ylabel(words)
    _legend(figure, axes[0][0])
    return figure


def _bars(panel: Axes, settings: Settings, records: Records, dataset: str, word: str) -> None:
    width = 0.85 / max(len(settings.guards), 1)
    for i, guard in enumerate(settings.guards):
        wanted = [(dataset, guard, command_name(command)) for command in settings.commands]
        means = [
            mean_over_seeds(
                r[word] for k, r in records.items() if (k.dataset, k.model, k.detail) == cell
            )
            for cell in wanted
        ]
        x = np.arange(len(means)) + (i - len(settings.guards) / 2 + 0.5) * width
        heights = [math.nan if m is None else m.value for m in means]
        panel.bar(x, heights, width, label=guard, yerr=_errors(means), error_kw={"lw": 0.7})
    panel.axhline(0.0, color="black", lw=0.6)
    panel.set_xticks(range(len(settings.commands)), map(command_label, settings.commands))
    panel.tick_params(axis="x", labelsize=7)


def _legend(figure: Figure, panel: Axes) -> None:
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6, frameon=False, fontsize=8)


def _curve(panel: Axes, x: list[float], means: list[Mean | None], name: str, index: int) -> None:
    y = [math.nan if m is None else m.value for m in means]
    marker = "os^vDPX*<>"[index % 10]
    panel.errorbar(x, y, yerr=_errors(means), label=name, marker=marker, ms=4, lw=1.2, capsize=2)


def _errors(means: list[Mean | None]) -> list[float]:
    """Half widths; nothing where there is one seed only."""
    return [0.0 if m is None or math.isnan(m.half_width) else m.half_width for m in means]
