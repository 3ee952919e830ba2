"""A sweep over shield types and their settings, on the dataset of a run."""

__all__ = ["tune"]

from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from flowshield.atomic import atomic_write
from flowshield.counted import counted
from flowshield.data import TrajectoryDataset
from flowshield.errors import ConfigError, DataError
from flowshield.evaluation import (
    evaluate_shield,
    plot_sweep,
    ranked,
    sweep_markdown_table,
)
from flowshield.evaluation.promise import pooled, promised_alarms, promised_scores
from flowshield.evaluation.yardstick import Yardstick, margin_text
from flowshield.json_files import write_json
from flowshield.models import BaseShield
from flowshield.pipeline.collecting import check_training_request, collect
from flowshield.pipeline.dataset_check import check_dataset
from flowshield.pipeline.typed_again import typed_again
from flowshield.progress import Bar, Reporter
from flowshield.run_folder import RunFolder
from flowshield.search_space import (
    Domain,
    as_overrides,
    most_epochs,
    n_trials,
    read_space,
    trial_config,
)
from flowshield.training import Trainer

# The results' layout; see `distributed.sweep_watch.trial_record` for a trial's.
SWEEP_VERSION = 1

_METRIC = (
    "AUROC of provably impossible against fulfilled commands at validation steps, less what the "
    "false alarms on validation episodes exceed the rate that the calibration lets expect"
)


def tune(
    config: DictConfig,
    folder: RunFolder,
    reporter: Reporter,
    command: str,
    resume: bool = False,
) -> dict[str, Any]:
    """Trains and ranks the trials of a sweep, and writes the best shield as any other.

    Args:
        config: From `load_config(overrides, "tune")`.
        folder: Likewise.
        reporter: Where progress goes.
        command: What the user typed, for the results.
        resume: Whether to go on with the sweep that the folder holds.

    Returns:
        The content of sweep/results.json.

    Raises:
        ConfigError: The search space is wrong, or the folder holds a sweep and `resume` is not
            set, or the reverse.
        DataError: No trial finished.
    """
    from flowshield.distributed.session import session
    from flowshield.distributed.tune import check_search, check_trial_room, holds_sweep

    space = read_space(config)
    check_search(config.tune.search)
    _check_resume(config, folder, holds_sweep(folder.shared(folder.sweep)), resume)
    check_training_request(config, folder)
    with session():  # one Ray for both; a sweep is never without
        check_trial_room(config)
        dataset = collect(config, folder, reporter)
        if doubt := check_dataset(dataset, config):
            reporter.stage("tune", f"note: {doubt}")
        trainer = Trainer(config)
        parts = trainer.split(dataset)
        trainer.check_calibration(parts["calibration"].n_episodes)
        yardstick = Yardstick.of(dataset, config.evaluation)
        _announce(config, space, yardstick, reporter)
        trials = _trials(config, space, folder, reporter, dataset)
    return _conclude(config, space, folder, reporter, command, trials, parts["test"], yardstick)


def _check_resume(config: DictConfig, folder: RunFolder, begun: bool, resume: bool) -> None:
    if begun and not resume:
        raise ConfigError(
            f"{folder.shared(folder.sweep)} holds a sweep: to go on with it, type "
            f"{typed_again(config, 'tune', folder.place, '--resume')}, or give another run_dir"
        )
    if resume and not begun:
        raise ConfigError(
            f"{folder.shared(folder.sweep)} holds no sweep to go on with: check run_dir, or begin "
            f"one with {typed_again(config, 'tune', folder.place)}"
        )


def _announce(
    config: DictConfig, space: list[Domain], yardstick: Yardstick, reporter: Reporter
) -> None:
    settings = config.tune
    total = n_trials(space, settings.n_samples, settings.search)
    by = f"{settings.search}, " + (
        "no early stopping" if settings.scheduler == "none" else settings.scheduler
    )
    epochs = counted(most_epochs(config, space), "epoch")
    reporter.stage("tune", f"{counted(total, 'trial')} of up to {epochs} ({by})")
    for domain in space:
        reporter.stage("tune", f"searches {domain}")
    reporter.stage("tune", margin_text(yardstick.record()))
    if settings.search == "optuna" and any(domain.kind == "grid" for domain in space):
        reporter.stage("tune", "with optuna a grid is a choice: its values are drawn")


def _trials(
    config: DictConfig,
    space: list[Domain],
    folder: RunFolder,
    reporter: Reporter,
    dataset: TrajectoryDataset,
) -> list[dict[str, Any]]:
    from flowshield.distributed.tune import sweep

    total = n_trials(space, config.tune.n_samples, config.tune.search)
    with folder.timed("tune"), reporter.bar("trials", total) as bar:
        place, teller = folder.shared(folder.sweep), _Teller(reporter, bar, total)
        return ranked(sweep(config, space, dataset, place, teller))


class _Teller:
    """A line for every trial that is over."""

    def __init__(self, reporter: Reporter, bar: Bar, total: int) -> None:
        self.reporter, self.bar, self.total = reporter, bar, total

    def __call__(self, trial: dict[str, Any], over: int) -> None:
        values = ", ".join(f"{key}={_short(value)}" for key, value in trial["parameters"].items())
        outcome = f"{trial['status']} after epoch {trial['epochs']}"
        outcome += f": {trial['error']}" if trial["error"] else f", score {trial['score']:.4f}"
        self.reporter.stage("tune", f"trial {over} of {self.total}: {values}: {outcome}")
        self.bar.advance()


def _conclude(
    config: DictConfig,
    space: list[Domain],
    folder: RunFolder,
    reporter: Reporter,
    command: str,
    trials: list[dict[str, Any]],
    test: TrajectoryDataset,
    yardstick: Yardstick,
) -> dict[str, Any]:
    """Writes everything that a sweep leaves behind."""
    results: dict[str, Any] = {
        "version": SWEEP_VERSION,
        "command": command,
        "config_yaml": folder.named(OmegaConf.to_yaml(config)),
        "metric": _METRIC,
        "yardstick": yardstick.record(),
        "space": [asdict(domain) for domain in space],
        "trials": trials,
        "best": None,
    }
    best = trials[0]
    if best["status"] == "finished":
        shield = BaseShield.load(folder.fetched(folder.sweep / best["shield_file"]))
        shield.save(folder.sweep / "best_shield.pt")
        settings = trial_config(config, best["parameters"])
        with atomic_write(folder.sweep / "best.yaml") as file:
            file.write(_best_yaml(best, settings).encode())
        results["best"] = {"trial": best["trial"], "test": _tested(config, shield, test, yardstick)}
    write_json(folder.sweep / "results.json", results)
    folder.send()
    if best["status"] != "finished":
        raise DataError(f"none of {len(trials)} trials finished; the best says: {best['error']}")
    with atomic_write(folder.sweep / "table.md") as file:
        file.write(sweep_markdown_table(results).encode())
    with atomic_write(folder.sweep / "sweep.png") as file:
        plot_sweep(results).savefig(file, dpi=150)
    folder.send()
    return results


def _tested(
    config: DictConfig, shield: BaseShield, test: TrajectoryDataset, yardstick: Yardstick
) -> dict[str, Any]:
    """Detection and false alarms on the test episodes, which chose nothing."""
    n_states, seed = config.evaluation.n_states, config.seed
    alarms = promised_alarms(promised_scores(shield, test, seed), shield.calibration_in_force())
    return {
        "detection": evaluate_shield(
            shield, test, n_states=n_states, margin=yardstick.bound_margin, seed=seed
        ),
        "false_alarms": asdict(pooled(alarms)),
    }


def _best_yaml(best: dict[str, Any], settings: DictConfig) -> str:
    with open_dict(settings):  # where it goes is not where the sweep went
        del settings["run_dir"], settings["log_dir"]
    return (
        "# All settings of the best trial's shield, which this trains again:\n"
        "# Trainer(OmegaConf.load(THIS_FILE)).train_shield(dataset).\n"
        f"# Beside the sweep's own overrides: {' '.join(as_overrides(best['parameters']))}\n"
        f"{OmegaConf.to_yaml(settings)}"
    )


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
