"""One trial of a sweep: a shield that is scored epoch by epoch."""

__all__ = ["Report", "run_trial", "tune_trial"]

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from ray import tune

from flowshield.data import TrajectoryDataset
from flowshield.errors import FlowshieldError, WriteError
from flowshield.evaluation.sweep_score import WORST_SCORE, ShieldJudge
from flowshield.evaluation.yardstick import Yardstick
from flowshield.scratch import ScratchFolder
from flowshield.search_space import trial_config
from flowshield.training import Trainer, register_shield
from flowshield.training.own_shields import OwnShield
from flowshield.training.worker import InProcessWorker

Report = Callable[[dict[str, Any], Path | None], None]
"""Takes the figures of a trial so far and, where there are new files to keep, their folder."""


def run_trial(config: DictConfig, dataset: TrajectoryDataset, folder: Path, report: Report) -> None:
    """Trains, scores and calibrates the shield of one trial; needs no Ray.

    What is reported is about the weights that would be kept if the fit ended there: those of the
    best epoch by held-out loss. The last report has "finished" and comes with shield.pt, or has the
    "error" that another try would only meet again: the loss is no longer finite, or the shield
    cannot be calibrated.

    Args:
        config: From `trial_config`.
        dataset: That of all trials; the split is the config's.
        folder: Where the shield's checkpoints go; from one that is there the fit goes on.
        report: Called after each epoch, and at the end.
    """
    (shield_type,) = config.shield
    reports = _Reports(report)
    trainer = Trainer(
        config, checkpoint_dir=folder, resume=True, on_epoch=reports.take, worker=reports
    )
    parts = trainer.split(dataset)
    judge = ShieldJudge(
        lambda shield: trainer.calibrate(shield, parts["calibration"]),
        parts["validation"],
        n_states=config.evaluation.n_states,
        margin=Yardstick.of(dataset, config.evaluation).bound_margin,
        seed=config.seed,
    )
    try:
        shield = trainer.train_shield(dataset, judge=judge)
    except WriteError:  # of the machine, not of the trial: another try may be luckier
        raise
    except FlowshieldError as error:
        report({**reports.figures(), "score": WORST_SCORE, "error": str(error)}, None)
        return
    shield.save(folder / shield_type / "shield.pt")
    report({**reports.figures(), "finished": True}, folder / shield_type)


class _Reports(InProcessWorker):
    """Turns the fit's records into what a trial reports.

    Args:
        report: Who is told.
    """

    def __init__(self, report: Report) -> None:
        self._report, self.history = report, list[dict[str, float]]()

    def take(self, _: str, record: dict[str, float]) -> None:
        """A record of the history, also one that a checkpoint brought along."""
        self.history.append(record)

    def report(self, record: dict[str, float], checkpoint: Path | None) -> None:
        """See `Worker.report`."""
        self._report(self.figures(), checkpoint)

    def figures(self) -> dict[str, Any]:
        """Those of the epoch whose weights the fit would keep now; before the first, no more."""
        if not self.history:
            return {"epoch": 0}
        kept = [min(self.history[:n], key=_loss) for n in range(1, len(self.history) + 1)]
        names = ("score", "auc_roc", "false_alarm_rate", "validation_loss")
        return {
            "epoch": len(self.history),
            **{name: kept[-1][name] for name in names},
            "best_epoch": int(kept[-1]["epoch"]),
            # a tuple: of a list, Tune would draw a histogram each epoch
            "scores": tuple(record["score"] for record in kept),
            "finished": False,
        }


def tune_trial(
    parameters: Mapping[str, Any],
    *,
    config: DictConfig,
    dataset: TrajectoryDataset,
    shields: Sequence[OwnShield],
) -> None:
    """What Ray Tune runs for each trial.

    A worker that dies is Tune's to replace, and the new one goes on from the last checkpoint.

    Args:
        parameters: Of the trial; see `trial_config`.
        config: Of the sweep, for this kind of worker.
        dataset: That of all trials.
        shields: The user's own, from `own_shields`.
    """
    for shield_cls, defaults in shields:
        register_shield(shield_cls, defaults)
    torch.set_num_threads(config.n_threads)
    with ScratchFolder() as folder:
        settings = trial_config(config, parameters)
        settings.log_dir = f"{folder}/tensorboard"
        _take_checkpoint(folder / parameters["shield"])
        run_trial(settings, dataset, folder, _tell)


def _tell(figures: dict[str, Any], files: Path | None) -> None:
    checkpoint = None if files is None else tune.Checkpoint.from_directory(str(files))
    # the step of TensorBoard's curves: Tune's own count begins anew in a trial that was restored
    tune.report({**figures, "timesteps_total": figures["epoch"]}, checkpoint=checkpoint)


def _take_checkpoint(folder: Path) -> None:
    """Lays the trial's last checkpoint where the fit looks for it.

    Of a sweep that was killed it may be gone, where Tune had kept a newer one instead: then the
    trial begins anew, and comes to the same end.
    """
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return
    with checkpoint.as_directory() as source:
        if (Path(source) / "last.pt").exists():
            shutil.copytree(source, folder)


def _loss(record: dict[str, float]) -> float:
    return record["validation_loss"]
