"""A sweep on Ray Tune: many trials of a shield, with early stopping, and to be gone on with."""

__all__ = ["check_search", "check_trial_room", "holds_sweep", "sweep"]

import importlib.util
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pyarrow import fs
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search.basic_variant import BasicVariantGenerator

from flowshield.data import TrajectoryDataset
from flowshield.distributed.session import session
from flowshield.distributed.sweep_trial import tune_trial
from flowshield.distributed.sweep_watch import (
    OnTrial,
    RememberingASHA,
    SweepWatch,
    WatchCallback,
    raising_ctrl_c,
    trial_record,
)
from flowshield.distributed.train_workers import TrainWorkers
from flowshield.errors import ConfigError
from flowshield.filesystem import absolute, open_place
from flowshield.search_space import Domain, most_epochs
from flowshield.training.own_shields import own_shields

_NAME = "trials"  # Tune's folder within the sweep's
_KEPT = 2  # checkpoints of a trial: at its second Tune writes down where the sweep is

_DOMAINS: dict[str, Callable[..., Any]] = {
    "grid": lambda *values: tune.grid_search(list(values)),
    "choice": lambda *values: tune.choice(list(values)),
    "uniform": tune.uniform,
    "loguniform": tune.loguniform,
    "randint": lambda low, high: tune.randint(low, high + 1),
}


def check_search(search: str) -> None:
    """Refuses a search whose package is not there.

    Raises:
        ConfigError: Optuna is asked for and not installed.
    """
    if search == "optuna" and importlib.util.find_spec("optuna") is None:
        raise ConfigError(
            "tune.search=optuna needs the package optuna, which is not installed; "
            'run pip install "flowshield[optuna]"'
        )


def holds_sweep(folder: str) -> bool:
    """Whether a sweep was begun in this folder, a path or an address."""
    return bool(tune.Tuner.can_restore(f"{absolute(folder)}/{_NAME}"))


def sweep(
    config: DictConfig,
    space: Sequence[Domain],
    dataset: TrajectoryDataset,
    folder: str,
    on_trial: OnTrial,
) -> list[dict[str, Any]]:
    """Runs the trials, or goes on with those of a sweep that was begun in the folder.

    Trials that are over stay as they are; those that were not go on from their last checkpoint;
    those whose worker died too often begin anew.

    Args:
        config: From `compose("tune")`.
        space: From `read_space`.
        dataset: That of all trials; the workers share one copy a node.
        folder: Where Tune keeps the sweep, a path or an address, on storage that all nodes share.
        on_trial: Called with the record of each trial that is over, and how many are.

    Returns:
        A record of each trial, see `trial_record`; of a finished one "shield_file" is where below
        the folder its shield lies, for `BaseShield.load`.

    Raises:
        KeyboardInterrupt: Ctrl-C; the folder can be gone on with.
    """
    with session(), _quiet():
        workers = _of_trial(config)
        trainable = tune.with_resources(
            tune.with_parameters(
                tune_trial,
                config=_for_worker(config, workers),
                dataset=dataset,
                shields=own_shields(),
            ),
            workers.resources(),
        )
        place = absolute(folder)
        if _is_under_way(f"{place}/{_NAME}"):
            tuner = tune.Tuner.restore(
                f"{place}/{_NAME}", trainable, resume_unfinished=True, restart_errored=True
            )
        else:
            tuner = _new_tuner(trainable, config, space, place)
        watch = SweepWatch(on_trial)
        with watch.listening(), raising_ctrl_c():
            tuner.fit()
    return [
        {**trial_record(trial), "shield_file": _shield_file(trial, place)} for trial in watch.trials
    ]


def check_trial_room(config: DictConfig) -> None:
    """Refuses, within a session, a sweep whose trials this machine has no room for.

    Raises:
        ConfigError: Its Ray has too few CPUs or GPUs for one trial.
    """
    _of_trial(config).check_room()


def _of_trial(config: DictConfig) -> TrainWorkers:
    return replace(TrainWorkers.from_config(config), number=1)


def _is_under_way(path: str) -> bool:
    """Whether Tune has written down where the sweep is."""
    system, folder = open_place(path)
    found = system.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    return any(entry.base_name.startswith("experiment_state-") for entry in found)


def _new_tuner(
    trainable: Any, config: DictConfig, space: Sequence[Domain], place: str
) -> tune.Tuner:
    settings = config.tune
    by_optuna = settings.search == "optuna"
    return tune.Tuner(
        trainable,
        param_space={
            domain.key: _DOMAINS["choice" if by_optuna and domain.kind == "grid" else domain.kind](
                *domain.values
            )
            for domain in space
        },
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            num_samples=settings.n_samples,
            search_alg=_optuna(config.seed) if by_optuna else _random(config),
            scheduler=_scheduler(config, space),
            max_concurrent_trials=settings.max_concurrent if by_optuna else None,
            reuse_actors=True,  # a new process first imports for seconds
            trial_dirname_creator=_trial_id,  # parameters make names that some storage refuses
        ),
        run_config=tune.RunConfig(
            name=_NAME,
            storage_path=place,
            verbose=0,
            callbacks=[WatchCallback()],  # beside Tune's own, TensorBoard's among them
            failure_config=tune.FailureConfig(max_failures=config.ray.max_failures),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=_KEPT),
        ),
    )


def _random(config: DictConfig) -> BasicVariantGenerator:
    return BasicVariantGenerator(
        max_concurrent=config.tune.max_concurrent or 0, random_state=config.seed
    )


def _optuna(seed: int) -> Any:
    from ray.tune.search.optuna import OptunaSearch

    return OptunaSearch(seed=seed % 2**32)


def _scheduler(config: DictConfig, space: Sequence[Domain]) -> RememberingASHA | None:
    settings = config.tune
    n_epochs = most_epochs(config, space)
    if settings.scheduler == "none" or settings.grace_epochs >= n_epochs:
        return None
    return RememberingASHA(
        time_attr="epoch",  # Tune's own count begins anew in a trial that was restored
        max_t=n_epochs - 1,  # whoever comes to the last epoch finishes
        grace_period=settings.grace_epochs,
        reduction_factor=settings.reduction_factor,
        stop_last_trials=False,
    )


def _for_worker(config: DictConfig, workers: TrainWorkers) -> DictConfig:
    """The config of the sweep where a trial is one process that Ray gave its CPUs and its GPU."""
    here = config.copy()
    here.num_workers = here.ray.num_workers = 0
    here.device = "cuda" if "GPU" in workers.resources() else "cpu"
    here.n_threads = max(1, int(workers.cpus_per_worker))
    return here


def _shield_file(trial: Trial, place: str) -> str | None:
    if trial.checkpoint is None or not trial.last_result.get("finished"):
        return None
    _, folder = open_place(place)
    return Path(os.path.relpath(trial.checkpoint.path, folder), "shield.pt").as_posix()


def _trial_id(trial: Trial) -> str:
    return str(trial.trial_id)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back Tune's own words on how a sweep goes, in place of which there are ours."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one prints a head at any verbosity
    os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
    # that it writes down where the sweep is more often than every 5 s: so do short epochs
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    # that trials are left after an interrupt, and that those have no results
    loggers = [logging.getLogger(f"ray.tune.{name}") for name in ("tune", "analysis")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
