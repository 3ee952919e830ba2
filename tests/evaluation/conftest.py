"""A results.json as the pipeline hands it over, with numbers that are easy to find again."""

import copy

import numpy as np
import pytest
import torch

from flowshield.data import TrajectoryDataset
from flowshield.evaluation.command_plane import CommandPlane, plot_projection
from flowshield.evaluation.explorer import explorer_payload
from flowshield.evaluation.figures import (
    plot_calibration,
    plot_ood_detection,
    plot_returns,
    plot_training_curves,
)
from flowshield.evaluation.follow_figure import plot_followed
from flowshield.evaluation.moments_figure import plot_moments
from flowshield.models.shields import FlowMatchingShield, MixtureShield

COMMANDS = [[200, 280], [50, 350], [10, 500], [300, 400], [1000, 280], [200, 350]]
# mean return and share crashed, by shield and command: what SHIELDS measured on expert data
MEASURED = {
    "none": [(282, 0.0), (281, 0.0), (3, 0.0), (206, 0.3), (-132, 1.0), (282, 0.0)],
    "quantile": [(283, 0.0), (281, 0.0), (150, 0.1), (270, 0.05), (-40, 0.6), (280, 0.01)],
    "flow_matching": [(284, 0.0), (285, 0.0), (284, 0.0), (286, 0.01), (284, 0.0), (285, 0.0)],
}


def _cell(shield, index):
    mean, crash = MEASURED[shield][index]
    shielded = shield != "none"
    return {
        "command": COMMANDS[index],
        "shield": shield,
        "n_episodes": 123,
        "return_mean": float(mean),
        "return_low": mean - 3.0,
        "return_high": mean + 5.0,
        "return_std": 17.0,
        "worst_5_percent": mean - 44.0,
        "crash_rate": crash,
        "length_mean": 231.0,
        "flagged_rate": 0.417 if shielded else None,
        "flagged_at_start": 0.913 if shielded else None,
        "n_uncomputed": 300 if shielded else None,
        "commanded_minus_achieved": COMMANDS[index][1] - float(mean),
        "returns": [float(mean)] * 20,
        "crashed": [False] * 20,
        "vs_none": {"mean": 61.0, "low": 52.0, "high": 73.0} if shielded else None,
    }


def _shield(number):
    return {
        "threshold": -12.345,
        "alpha": 0.05,
        "n_calibration": 225,
        "detection": {
            "detection_rate": 0.871 + number / 100,
            "false_positive_rate": 0.049,
            "f1_score": 0.765,
            "auc_roc": 0.954,
            "calibration_error": 0.0077,
        },
        "false_alarms": {"rate": 0.053, "count": 8, "n": 150, "low": 0.023, "high": 0.102},
        "false_alarms_by_level": [
            {"alpha": 0.02, "rate": 0.027, "low": 0.007, "high": 0.067, "n": 150},
            {"alpha": 0.2, "rate": 0.213, "low": 0.151, "high": 0.287, "n": 150},
        ],
        "start_states": {"rate": 0.061, "low": 0.031, "high": 0.111, "n": 149},
        "flagged_at_start": [{"command": c, "rate": 0.333 + number / 10} for c in COMMANDS],
        "projection": {
            "mean_distance": 0.831,
            "mean_log_prob": -9.123,
            "projection_success": 0.999,
        },
        "test_nll": 9.321,
        "n_uncomputed": 77,
        "roc": {
            "false_positive_rate": [0.0, 0.0, 0.1, 1.0],
            "true_positive_rate": [0.0, 0.6, 0.9, 1.0],
        },
    }


def _followed(shift):
    rng = np.random.default_rng(5)
    asked = np.stack([rng.integers(150, 400, 40), rng.normal(200, 80, 40)], axis=1).astype(float)
    achieved = asked + rng.normal(0, 30, asked.shape)
    ends = ["crashed", "out of time", *["ended"] * 18] * 2
    return {
        "n_starts": 20,
        "n_starts_left_out": 3,
        "n_uncomputed": 48,
        "n_commands": 2,
        "n_episodes": 40,
        "return_tolerance": 17.5,
        "return_rank": {"mean": 0.43 + shift, "low": 0.31, "high": 0.54},
        "return_rank_pooled": {"mean": 0.62, "low": 0.51, "high": 0.74},
        "horizon_rank": {"mean": 0.21, "low": -0.11, "high": 0.37},
        "horizon_rank_pooled": {"mean": 0.24, "low": 0.09, "high": 0.41},
        "coverage": {"mean": 0.58, "low": 0.47, "high": 0.69},
        "crash_rate": 0.05,
        "levels": [
            {
                "quantile": quantile,
                "n_episodes": 20,
                "commanded_horizon": 243.0,
                "commanded_return": 123.0 + shift,
                "achieved_horizon": {"mean": 247.0, "low": 239.0, "high": 257.0},
                "achieved_return": {"mean": 137.0, "low": 119.0, "high": 153.0},
                "coverage": {"mean": 0.55, "low": 0.32, "high": 0.77},
                "crash_rate": 0.15,
            }
            for quantile in (0.25, 0.75)
        ],
        "commanded": asked.tolist(),
        "achieved": achieved.tolist(),
        "ends": ends,
    }


def _model():
    history = [
        {
            "epoch": epoch,
            "train_loss": 2.0 / epoch,
            "validation_loss": 2.0 / epoch + 0.01 * epoch,
            "learning_rate": 3e-4,
        }
        for epoch in range(1, 26)
    ]
    return {
        "epochs": 25,
        "best_epoch": 14,
        "validation_loss": -1.2345,
        "seconds": 81.2,
        "history": history,
    }


@pytest.fixture
def results():
    shields = [name for name in MEASURED if name != "none"]
    return {
        "version": 1,
        "command": "flowshield run behaviour=expert",
        "config_yaml": "seed: 42\nenv:\n  name: lunarlander\n",
        "versions": {"flowshield": "0.1.0", "torch": "2.13.0"},
        "machine": "2 cores, x86_64, no GPU",
        "seconds": {"collect": 20.1, "train": 200.2, "evaluate": 180.3},
        "dataset": {
            "env": "lunarlander",
            "behaviour": "expert",
            "seed": 42,
            "n_episodes": 1500,
            "n_transitions": 390123,
            "n_truncated": 12,
            "return_mean": 276.0,
            "return_std": 35.0,
            "return_max": 311.0,
            "length_mean": 259.0,
            "splits": {"train": 975, "validation": 151, "calibration": 225, "test": 149},
        },
        "alpha": 0.05,
        "models": {"agent": _model(), **{name: _model() for name in shields}},
        "shields": {name: _shield(number) for number, name in enumerate(shields)},
        "followed": {name: _followed(shift / 2) for shift, name in enumerate(shields)},
        "cells": [_cell(shield, i) for shield in MEASURED for i in range(len(COMMANDS))],
    }


@pytest.fixture
def without_crash_test(results):
    """What an environment gives that cannot tell a crash."""
    results = copy.deepcopy(results)
    for cell in results["cells"]:
        cell["crash_rate"] = cell["crashed"] = None
    for record in results["followed"].values():
        for row in (record, *record["levels"]):
            row["crash_rate"] = None
    return results


@pytest.fixture
def plane():
    horizons, returns = np.linspace(1, 400, 30), np.linspace(-100, 400, 40)
    h, r = np.meshgrid(horizons, returns)
    return {
        "horizons": horizons,
        "returns": returns,
        "log_prob": -8.0 - ((h - 200) / 40) ** 2 - ((r - 280) / 20) ** 2,
        "threshold": -12.5,
        "requests": [[50, 350], [200, 280], [390, 100]],
        "projections": [[180, 300], [200, 280], [260, 250]],
        "data_commands": [[200, 280], [210, 290], [190, 270], [220, 260]],
        "bound": 337.0,
    }


@pytest.fixture
def draw(results, plane):
    shields = results["shields"]
    return {
        "followed": lambda: plot_followed(results["followed"]),
        "returns": lambda: plot_returns(results["cells"]),
        "detection": lambda: plot_ood_detection({k: v["roc"] for k, v in shields.items()}, 0.05),
        "calibration": lambda: plot_calibration(
            {k: v["false_alarms_by_level"] for k, v in shields.items()}
        ),
        "projection": lambda: plot_projection(plane),
        "moments": lambda: plot_moments(moments(plane), "flow_matching: log p(H, R | s)"),
        "training": lambda: plot_training_curves(
            {k: v["history"] for k, v in results["models"].items()}
        ),
    }


def moments(plane):
    later = {**plane, "requests": [[900, 350], [200, 800], [390, 100]], "fulfilled": [[180, 290]]}
    return {
        f"step {step} of 197": CommandPlane(**fields)
        for step, fields in ((0, plane), (49, later), (98, later), (147, plane))
    }


EXPLORED = [(10.0, 12.0), (500.0, 3.0)]  # commands


@pytest.fixture(scope="module")
def episodes():
    rng = np.random.default_rng(0)
    lengths = rng.integers(6, 14, 20)
    terminated = np.zeros(lengths.sum(), bool)
    terminated[np.cumsum(lengths) - 1] = True
    rewards = rng.normal(1.0, 0.5, len(terminated))
    states = rng.normal(size=(len(terminated), 3))
    return TrajectoryDataset.from_arrays(states, np.zeros((len(states), 2)), rewards, terminated)


@pytest.fixture(scope="module")
def shields(episodes):
    torch.manual_seed(0)
    mixture = MixtureShield(3, hidden_dim=8, n_layers=1, n_components=2)
    flow = FlowMatchingShield(3, hidden_dim=8, n_layers=1, n_components=2, field_dim=8)
    states, commands = map(torch.as_tensor, (episodes.states, episodes.commands))
    for shield in (mixture, flow):
        shield.fit_standardizers(states, commands)
        shield.eval().calibrate(episodes, alpha=0.2)
    return {"mixture": mixture, "mine <b>": flow}


@pytest.fixture(scope="module")
def payload(shields, episodes):
    sizes = {"n_episodes": 2, "n_moments": 2, "n_requests": 4}
    return explorer_payload(shields, episodes, EXPLORED, **sizes, title="<i>mine</i>")
