"""The main job and its stages: collect, train, evaluate, each on the files of a run folder."""

__all__ = ["collect", "evaluate", "run", "train"]

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from omegaconf import DictConfig, ListConfig, OmegaConf

from flowshield import __version__
from flowshield.atomic import atomic_write
from flowshield.data import DataCollector, TrajectoryDataset
from flowshield.envs import ContinuousEnvWrapper, make_env
from flowshield.errors import ConfigError, DataError
from flowshield.evaluation import (
    cell_record,
    dataset_record,
    evaluate_agent,
    evaluate_followed,
    followed_markdown_table,
    followed_record,
    lend_return_bound,
    markdown_table,
    plot_calibration,
    plot_followed,
    plot_ood_detection,
    plot_projection,
    plot_returns,
    plot_training_curves,
    shield_record,
    start_plane,
    write_report,
)
from flowshield.models import BaseShield, UDRLAgent
from flowshield.progress import Bar, Reporter
from flowshield.run_folder import RunFolder, machine, read_json, write_json
from flowshield.training import Trainer, resolve_device

# 2: false_alarms are those that were promised, per step or per episode and in each group; cells and
# "followed" count what a shield could not compute.
RESULTS_VERSION = 2
_UNSHIELDED = "none"


def run(config: DictConfig, folder: RunFolder, reporter: Reporter, command: str) -> dict[str, Any]:
    """Collects, trains and evaluates; what the folder already holds is not done again.

    Args:
        config: From `load_config`.
        folder: Likewise.
        reporter: Where progress goes.
        command: What the user typed, for the report.

    Returns:
        The content of results.json.
    """
    dataset = collect(config, folder, reporter)
    train(config, folder, reporter, dataset)
    return evaluate(config, folder, reporter, command, dataset)


# ---------------------------------------------------------------------- collect


def collect(config: DictConfig, folder: RunFolder, reporter: Reporter) -> TrajectoryDataset:
    """Collects the run's dataset, unless it is there already or `data.path` names one."""
    path = _dataset_path(config, folder)
    Trainer(config)  # a device or worker count that cannot be had is refused before the work
    if path.exists():
        dataset = TrajectoryDataset(path)
        reporter.stage("collect", f"found {path}: {_describe(dataset)}")
        return dataset
    if config.data.path is not None:
        raise ConfigError(
            f"data.path={path} does not exist: check the path, or leave data.path out to collect"
        )
    n_episodes = config.data.n_episodes
    reporter.stage("collect", f"{n_episodes} episodes of {config.env.name} with its behaviours")
    env = make_env(config.env.name, **config.env.kwargs)
    behaviour = OmegaConf.to_container(config.behaviour, resolve=True)
    collector = DataCollector(env, behaviour=behaviour)  # type: ignore[arg-type]
    with _timed(folder, "collect"), reporter.bar("episodes", n_episodes) as bar:
        if _rollout_workers(config) == 0:
            dataset = collector.collect(
                n_episodes,
                seed=config.seed,
                progress=lambda episode: bar.advance(f"return {episode.total_return:.0f}"),
            )
        else:
            dataset = _collect_on_ray(config, collector, bar)
        dataset.save(path)
    env.close()
    reporter.stage("collect", f"wrote {path}: {_describe(dataset)}")
    return dataset


def _rollout_workers(config: DictConfig) -> int:
    """Rollout actors: of a range the most, as they need no fixed number."""
    asked = config.ray.num_workers
    return int(max(asked)) if isinstance(asked, ListConfig) else int(asked or 0)


def _collect_on_ray(config: DictConfig, collector: DataCollector, bar: Bar) -> TrajectoryDataset:
    from flowshield.distributed import session

    def on_chunk(returns: NDArray[np.float64]) -> None:
        for value in returns:
            bar.advance(f"return {value:.0f}")

    with session():
        shared = collector.collect_shared(
            config.data.n_episodes,
            seed=config.seed,
            num_workers=_rollout_workers(config),
            envs_per_worker=config.ray.envs_per_worker,
            chunk_episodes=config.ray.chunk_episodes,
            on_chunk=on_chunk,
        )
        dataset: TrajectoryDataset = shared.to_local()
    return dataset


def _dataset_path(config: DictConfig, folder: RunFolder) -> Path:
    return folder.dataset if config.data.path is None else Path(config.data.path)


def _describe(dataset: TrajectoryDataset) -> str:
    returns = dataset.episode_returns
    return (
        f"{dataset.n_episodes} episodes, {len(dataset)} steps, "
        f"return {returns.mean():.0f} ± {returns.std():.0f} (highest {returns.max():.0f})"
    )


# ---------------------------------------------------------------------- train


def train(
    config: DictConfig,
    folder: RunFolder,
    reporter: Reporter,
    dataset: TrajectoryDataset | None = None,
) -> None:
    """Trains the agent and the config's shields, going on from checkpoints that are there."""
    dataset = dataset or collect(config, folder, reporter)
    if config.shield:  # what would refuse the shields shall not wait for the agent
        trainer = Trainer(config)
        trainer.check_calibration(trainer.split(dataset)["calibration"])
    names = ["agent", *config.shield]
    for name in names:
        if folder.model(name).exists():
            reporter.stage("train", f"found {folder.model(name)}")
        else:
            _train_one(name, config, folder, reporter, dataset)


def _train_one(
    name: str,
    config: DictConfig,
    folder: RunFolder,
    reporter: Reporter,
    dataset: TrajectoryDataset,
) -> None:
    n_epochs = config.n_epochs if name == "agent" else config.shield_epochs
    reporter.stage("train", f"{name}: up to {n_epochs} epochs, checkpoints in {folder.checkpoints}")
    with _timed(folder, "train"), reporter.bar(f"{name}: epochs", n_epochs) as bar:
        trainer = Trainer(
            config,
            checkpoint_dir=folder.checkpoints,
            resume=True,
            on_epoch=lambda _, record: bar.advance(
                f"held-out loss {record['validation_loss']:.3f}"
            ),
        )
        model: UDRLAgent | BaseShield
        if name == "agent":
            model = trainer.train_udrl(dataset)
        else:
            model = trainer.train_shield(dataset, name)
        result = trainer.results[name]
        write_json(
            folder.models / f"{name}.json",
            {
                "epochs": len(result.history),
                "best_epoch": result.best_epoch,
                "validation_loss": result.validation_loss,
                "seconds": sum(record["seconds"] for record in result.history),
                "history": result.history,
            },
        )
        model.save(folder.model(name))
    reporter.stage(
        "train",
        f"wrote {folder.model(name)}: best epoch {result.best_epoch} of {len(result.history)}, "
        f"held-out loss {result.validation_loss:.3f} nats",
    )
    if isinstance(model, BaseShield):
        reporter.stage("train", f"{name}: {model.calibration}")


# ---------------------------------------------------------------------- evaluate


def evaluate(
    config: DictConfig,
    folder: RunFolder,
    reporter: Reporter,
    command: str,
    dataset: TrajectoryDataset | None = None,
) -> dict[str, Any]:
    """Measures every shield against none on the grid of commands, and writes the report."""
    dataset = dataset or _existing_dataset(config, folder)
    device = resolve_device(config.device)
    agent = UDRLAgent.load(folder.model("agent"), device)
    shields = {name: _load_shield(name, config, folder, device) for name in config.shield}
    parts = Trainer(config).split(dataset)
    reporter.stage(
        "evaluate",
        f"{config.evaluation.n_episodes} episodes for each of {len(config.env.commands)} commands "
        f"without a shield and with {', '.join(shields)}",
    )
    for name, shield in shields.items():
        reporter.stage("evaluate", f"{name}: {shield.calibration}")
    with _timed(folder, "evaluate"):
        measured = {
            "cells": _cells(config, folder, reporter, agent, shields),
            "shields": _shield_records(config, reporter, shields, parts["test"]),
            "followed": _followed(config, folder, reporter, agent, shields),
        }
    results = _results(config, folder, command, dataset, parts, measured)
    write_json(folder.results, results)
    with atomic_write(folder.table) as file:
        tables = (markdown_table(results), followed_markdown_table(results))
        file.write("\n".join(filter(None, tables)).encode())
    figures = _figures(results, config, shields, parts["test"])
    for name, figure in figures.items():
        folder.figures.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder.figures / f"{name}.png", dpi=150)
    captions = {_CAPTIONS[name]: figure for name, figure in figures.items()}
    write_report(folder.report, results, captions)
    reporter.stage("evaluate", f"wrote {folder.results}, {folder.figures}/ and {folder.report}")
    return results


def _load_shield(
    name: str, config: DictConfig, folder: RunFolder, device: torch.device
) -> BaseShield:
    shield = BaseShield.load(folder.model(name), device)
    if config.calibration.use_return_bound:
        lend_return_bound(shield, make_env(config.env.name, **config.env.kwargs))
    return shield


def _existing_dataset(config: DictConfig, folder: RunFolder) -> TrajectoryDataset:
    path = _dataset_path(config, folder)
    if not path.exists():
        raise DataError(f"no dataset at {path}: collect and train first, or check data.path")
    return TrajectoryDataset(path)


def _cells(
    config: DictConfig,
    folder: RunFolder,
    reporter: Reporter,
    agent: UDRLAgent,
    shields: dict[str, BaseShield],
) -> list[dict[str, Any]]:
    """Every cell of the grid; one that is on file is read, not run."""
    n_episodes = config.evaluation.n_episodes
    commands = [(float(h), float(r)) for h, r in config.env.commands]
    guards: dict[str, BaseShield | None] = {_UNSHIELDED: None, **shields}
    envs = [make_env(config.env.name, **config.env.kwargs) for _ in range(n_episodes)]
    records: list[dict[str, Any]] = []
    unshielded: dict[tuple[float, float], list[float]] = {}
    with reporter.bar("cells", len(commands) * len(guards)) as bar:
        for name, shield in guards.items():
            for command in commands:
                path = folder.cell(name, command)
                if not path.exists():
                    cell = evaluate_agent(
                        agent, envs, command, shield, n_episodes=n_episodes, seed=config.seed
                    )
                    write_json(path, cell_record(cell, unshielded.get(command)))
                record = read_json(path)
                unshielded.setdefault(command, record["returns"])
                records.append(record)
                bar.advance(
                    f"{name} ({command[0]:g}, {command[1]:g}): return {record['return_mean']:.0f}"
                )
    for env in envs:
        env.close()
    return records


def _followed(
    config: DictConfig,
    folder: RunFolder,
    reporter: Reporter,
    agent: UDRLAgent,
    shields: dict[str, BaseShield],
) -> dict[str, Any]:
    """The agent alone on what each shield supports; what is on file is read, not run."""
    settings = config.evaluation.followed
    n_episodes = settings.n_starts * settings.n_commands
    envs: list[ContinuousEnvWrapper] = []
    records = {}
    with reporter.bar("supported commands", len(shields)) as bar:
        for name, shield in shields.items():
            path = folder.followed_by(name)
            if not path.exists():
                envs = envs or [
                    make_env(config.env.name, **config.env.kwargs) for _ in range(n_episodes)
                ]
                followed = evaluate_followed(
                    agent,
                    envs,
                    shield,
                    n_starts=settings.n_starts,
                    n_commands=settings.n_commands,
                    seed=config.seed,
                )
                write_json(path, followed_record(followed, settings.return_tolerance))
            records[name] = read_json(path)
            bar.advance(name)
    for env in envs:
        env.close()
    return records


def _shield_records(
    config: DictConfig,
    reporter: Reporter,
    shields: dict[str, BaseShield],
    test: TrajectoryDataset,
) -> dict[str, Any]:
    records = {}
    with reporter.bar("detection and calibration", len(shields)) as bar:
        for name, shield in shields.items():
            records[name] = shield_record(
                shield,
                test,
                [tuple(command) for command in config.env.commands],
                n_states=config.evaluation.n_states,
                margin=config.evaluation.bound_margin,
                seed=config.seed,
            )
            bar.advance(name)
    return records


def _results(
    config: DictConfig,
    folder: RunFolder,
    command: str,
    dataset: TrajectoryDataset,
    parts: dict[str, TrajectoryDataset],
    measured: dict[str, Any],
) -> dict[str, Any]:
    packages = ("torch", "numpy", "gymnasium")
    return {
        "version": RESULTS_VERSION,
        "command": command,
        "config_yaml": OmegaConf.to_yaml(config),
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


_CAPTIONS = {
    "returns": "Return by command and shield, with 95% intervals and the share crashed",
    "followed": "Achieved against commanded: the agent alone on commands that the shield supports",
    "command_plane": "What is supported at the start of a held-out episode, and where requests go",
    "detection": "Impossible commands flagged against true commands flagged",
    "calibration": "Realised against nominal rate of the false alarms that the promise is about",
    "training": "Training and held-out loss by epoch",
}


def _figures(
    results: dict[str, Any],
    config: DictConfig,
    shields: dict[str, BaseShield],
    test: TrajectoryDataset,
) -> dict[str, Figure]:
    drawn: dict[str, Callable[[], Figure]] = {
        "returns": lambda: plot_returns(results["cells"]),
        "training": lambda: plot_training_curves(
            {name: model["history"] for name, model in results["models"].items()}
        ),
    }
    if shields:
        records = results["shields"]
        if any(record["n_episodes"] for record in results["followed"].values()):
            drawn["followed"] = lambda: plot_followed(results["followed"])
        # the last is the one that the config's shield group ends with: flow matching by default
        last = next(reversed(shields.values()))
        requests = [tuple(command) for command in config.env.commands]
        drawn["command_plane"] = lambda: plot_projection(start_plane(last, test, requests))
        drawn["detection"] = lambda: plot_ood_detection(
            {name: record["roc"] for name, record in records.items()}, results["alpha"]
        )
        drawn["calibration"] = lambda: plot_calibration(
            {name: record["false_alarms_by_level"] for name, record in records.items()}
        )
    return {name: drawn[name]() for name in _CAPTIONS if name in drawn}


@contextmanager
def _timed(folder: RunFolder, stage: str) -> Iterator[None]:
    """Adds the seconds of the body to the stage's, also when it is interrupted."""
    start = time.perf_counter()
    try:
        yield
    finally:
        folder.add_seconds(stage, time.perf_counter() - start)
