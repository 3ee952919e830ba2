"""An evaluation among the training curves, for TensorBoard and Weights & Biases."""

__all__ = ["log_evaluation"]

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig

from flowshield.evaluation import Subjects
from flowshield.evaluation.cell_grid import CellGrid
from flowshield.evaluation.harm import compare
from flowshield.evaluation.shield import detection_scores
from flowshield.evaluation.wording import is_known
from flowshield.run_folder import RunFolder
from flowshield.training import Logger, hyperparameters

_N_STATES = 1000  # steps whose scores are drawn as a histogram


def log_evaluation(
    config: DictConfig,
    folder: RunFolder,
    results: Mapping[str, Any],
    figures: Mapping[str, Figure],
    subjects: Subjects,
) -> None:
    """Logs an evaluation to its own folder beside the models', in place of an earlier one.

    Under `figures/NAME` the report's figures; under `calibration/SHIELD` the realised false-alarm
    rate, the step being the nominal one in percent; under `scores/SHIELD/true` and `/impossible`
    the scores of held-out commands and of those above the provable bound; under `outcome/coverage`
    the share of unseen episodes within the predicted 90% interval at the start (step 0) and later
    (step 1), under `outcome/failure` the share that failed, the step being the predicted one in
    percent; everything else is a metric of the HParams table.

    Args:
        config: The run's.
        folder: Its folder.
        results: The content of results.json.
        figures: The report's, by name.
        subjects: What was evaluated.
    """
    with Logger(folder.tensorboard / "evaluation", config.use_wandb, anew=True) as logger:
        logger.log_config(config)
        for name, figure in figures.items():
            logger.log_figure(f"figures/{name}", figure, 0)
        for name, record in results["shields"].items():
            for level in record["false_alarms_by_level"]:
                percent = round(100 * level["alpha"])
                logger.log_scalar(f"calibration/{name}", level["rate"], percent)
        _log_outcome(logger, (results.get("guard") or {}).get("outcome") or {})
        _log_scores(logger, subjects)
        logger.log_hparams(hyperparameters(config), dict(_metrics(results)))


def _log_outcome(logger: Logger, record: Mapping[str, Any]) -> None:
    for step, where in enumerate(("start", "later")):
        rate = ((record.get("coverage") or {}).get(where) or {}).get("rate")
        if is_known(rate):
            logger.log_scalar("outcome/coverage", rate, step)
    for found in record.get("failure") or ():
        logger.log_scalar("outcome/failure", found["rate"], round(100 * found["predicted"]))


def _log_scores(logger: Logger, subjects: Subjects) -> None:
    n_states = min(_N_STATES, subjects.n_states)
    for name, shield in subjects.shields.items():
        scores = detection_scores(
            shield,
            subjects.test,
            n_states=n_states,
            margin=subjects.bound_margin,
            seed=subjects.seed,
        )
        for kind, values in zip(("true", "impossible"), scores, strict=True):
            finite = values[np.isfinite(values)]
            if finite.size:
                logger.log_histogram(f"scores/{name}/{kind}", finite, 0)


def _metrics(results: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float | None] = {}
    for cell in results["cells"]:
        command = "_".join(f"{value:g}" for value in cell["command"])
        found[f"return/{cell['shield']}/{command}"] = cell["return_mean"]
        found[f"crash_rate/{cell['shield']}/{command}"] = cell["crash_rate"]
    for change in compare(results, CellGrid.from_cells(results["cells"])).cells:
        command = "_".join(f"{value:g}" for value in change.command)
        found[f"utility_gain/{change.shield}/{command}"] = change.utility
    for name, record in results["shields"].items():
        found[f"false_alarm_rate/{name}"] = record["false_alarms"]["rate"]
        found[f"auc_roc/{name}"] = record["detection"]["auc_roc"]
        found[f"test_nll/{name}"] = record["test_nll"]
    return {name: value for name, value in found.items() if value is not None}
