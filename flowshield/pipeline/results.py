"""What an evaluation leaves behind: the content of results.json, and the figures."""

__all__ = ["draw_figures", "gather_results"]

from importlib.metadata import version
from typing import Any

from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from flowshield import __version__
from flowshield.atomic import atomic_write
from flowshield.data import TrajectoryDataset
from flowshield.evaluation import (
    Subjects,
    dataset_record,
    moment_planes,
    plot_calibration,
    plot_followed,
    plot_moments,
    plot_ood_detection,
    plot_returns,
    plot_training_curves,
    typical_episode,
)
from flowshield.evaluation.cell_grid import CellGrid
from flowshield.evaluation.verdict import judge
from flowshield.evaluation.wording import shield_label
from flowshield.evaluation.yardstick import Yardstick
from flowshield.json_files import read_json
from flowshield.machine import machine
from flowshield.run_folder import RunFolder

# 2: false_alarms are those that were promised, per step or per episode and in each group; cells and
# "followed" count what a shield could not compute.
RESULTS_VERSION = 2

_SCORE_LABELS = {
    "density": "log p(H, R | s)",
    "achievability": "log P(at least R within H | s)",
}
_PACKAGES = ("torch", "numpy", "gymnasium", "ray", "scipy", "matplotlib")


def gather_results(
    config: DictConfig,
    folder: RunFolder,
    command: str,
    dataset: TrajectoryDataset,
    parts: dict[str, TrajectoryDataset],
    measured: dict[str, Any],
    yardstick: Yardstick,
) -> dict[str, Any]:
    """Puts what was measured beside what it was measured on and with.

    Args:
        config: The run's.
        folder: Its folder, for the models' histories and the seconds of the stages.
        command: What the user typed.
        dataset: The run's.
        parts: Its split.
        measured: "cells", "shields" and "followed".
        yardstick: By which it was measured.
    """
    return {
        "version": RESULTS_VERSION,
        "command": command,
        "config_yaml": folder.named(OmegaConf.to_yaml(config)),
        "versions": {"flowshield": __version__, **{name: version(name) for name in _PACKAGES}},
        "machine": machine(),
        "seconds": read_json(folder.timings),
        "dataset": dataset_record(dataset, parts),
        "seed": config.seed,
        "alpha": config.calibration.alpha,
        "yardstick": yardstick.record(),
        "models": {
            name: read_json(folder.models / f"{name}.json") for name in ("agent", *config.shield)
        },
        **measured,
    }


def draw_figures(
    results: dict[str, Any], folder: RunFolder, subjects: Subjects
) -> dict[str, Figure]:
    """Draws the report's figures and writes each as a PNG file.

    Args:
        results: From `gather_results`.
        folder: Where they go.
        subjects: What was evaluated.

    Returns:
        The figures by name.
    """
    histories = {name: model["history"] for name, model in results["models"].items()}
    figures = {"returns": plot_returns(results["cells"]), **_of_the_shields(results, subjects)}
    figures["training"] = plot_training_curves(histories)
    for name, figure in figures.items():
        with atomic_write(folder.figures / f"{name}.png") as file:
            figure.savefig(file, dpi=150)
    return figures


def _of_the_shields(results: dict[str, Any], subjects: Subjects) -> dict[str, Figure]:
    if not subjects.shields:
        return {}
    records = results["shields"]
    levels = {name: record["false_alarms_by_level"] for name, record in records.items()}
    figures = {
        "command_plane": _moments(results, subjects),
        "detection": plot_ood_detection(
            {name: record["roc"] for name, record in records.items()}, results["alpha"]
        ),
        "calibration": plot_calibration(levels),
    }
    if any(record["n_episodes"] for record in results["followed"].values()):
        figures["followed"] = plot_followed(results["followed"])
    return figures


def _moments(results: dict[str, Any], subjects: Subjects) -> Figure:
    """The planes of the verdict's first shield, as the explorer opens on."""
    verdict = judge(CellGrid.from_cells(results["cells"]))
    judged = [shield.shield for shield in verdict.shields] if verdict else []
    name = (judged or list(subjects.shields))[0]
    shield = subjects.shields[name]
    episode = typical_episode(subjects.test)
    planes = moment_planes(shield, subjects.test, subjects.commands, episode)
    return plot_moments(planes, f"{shield_label(name)}: {_SCORE_LABELS[shield.score_type]}")
