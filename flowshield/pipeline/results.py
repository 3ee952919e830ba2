"""What an evaluation leaves behind: the content of results.json, and the figures."""

__all__ = ["draw_figures", "gather_results"]

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from flowshield import __version__
from flowshield.data import TrajectoryDataset
from flowshield.evaluation import (
    Subjects,
    dataset_record,
    plot_calibration,
    plot_followed,
    plot_ood_detection,
    plot_projection,
    plot_returns,
    plot_training_curves,
    start_plane,
)
from flowshield.run_folder import RunFolder, machine, read_json

# 2: false_alarms are those that were promised, per step or per episode and in each group; cells and
# "followed" count what a shield could not compute.
RESULTS_VERSION = 2

_CAPTIONS = {
    "returns": "Return by command and shield, with 95% intervals and the share crashed",
    "followed": "Achieved against commanded: the agent alone on commands that the shield supports",
    "command_plane": "What is supported at the start of a held-out episode, and where requests go",
    "detection": "Impossible commands flagged against true commands flagged",
    "calibration": "Realised against nominal rate of the false alarms that the promise is about",
    "training": "Training and held-out loss by epoch",
}


def gather_results(
    config: DictConfig,
    folder: RunFolder,
    command: str,
    dataset: TrajectoryDataset,
    parts: dict[str, TrajectoryDataset],
    measured: dict[str, Any],
) -> dict[str, Any]:
    """Puts what was measured beside what it was measured on and with.

    Args:
        config: The run's.
        folder: Its folder, for the models' histories and the seconds of the stages.
        command: What the user typed.
        dataset: The run's.
        parts: Its split.
        measured: "cells", "shields" and "followed".
    """
    packages = ("torch", "numpy", "gymnasium")
    return {
        "version": RESULTS_VERSION,
        "command": command,
        "config_yaml": folder.named(OmegaConf.to_yaml(config)),
        "versions": {"flowshield": __version__, **{name: version(name) for name in packages}},
        "machine": machine(),
        "seconds": read_json(folder.timings),
        "dataset": dataset_record(dataset, parts),
        "alpha": config.calibration.alpha,
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
        The figures by caption, in the order of the report.
    """
    drawn: dict[str, Callable[[], Figure]] = {
        "returns": lambda: plot_returns(results["cells"]),
        "training": lambda: plot_training_curves(
            {name: model["history"] for name, model in results["models"].items()}
        ),
    }
    if subjects.shields:
        records = results["shields"]
        if any(record["n_episodes"] for record in results["followed"].values()):
            drawn["followed"] = lambda: plot_followed(results["followed"])
        # the last is the one that the config's shield group ends with: flow matching by default
        last = list(subjects.shields.values())[-1]
        drawn["command_plane"] = lambda: plot_projection(
            start_plane(last, subjects.test, subjects.commands)
        )
        drawn["detection"] = lambda: plot_ood_detection(
            {name: record["roc"] for name, record in records.items()}, results["alpha"]
        )
        drawn["calibration"] = lambda: plot_calibration(
            {name: record["false_alarms_by_level"] for name, record in records.items()}
        )
    figures = {name: drawn[name]() for name in _CAPTIONS if name in drawn}
    folder.figures.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder.figures / f"{name}.png", dpi=150)
    return {_CAPTIONS[name]: figure for name, figure in figures.items()}
