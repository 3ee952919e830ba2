"""Stage one: the dataset."""

__all__ = ["collect", "dataset_path"]

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from flowshield.data import DataCollector, TrajectoryDataset
from flowshield.envs import make_env
from flowshield.errors import ConfigError
from flowshield.pipeline.place import place, rollout_workers
from flowshield.progress import Bar, Reporter
from flowshield.run_folder import RunFolder
from flowshield.training import Trainer


def collect(config: DictConfig, folder: RunFolder, reporter: Reporter) -> TrajectoryDataset:
    """Collects the run's dataset, unless it is there already or `data.path` names one.

    Args:
        config: From `load_config`.
        folder: Likewise.
        reporter: Where progress goes.
    """
    path = dataset_path(config, folder)
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
    with folder.timed("collect"), place(config), reporter.bar("episodes", n_episodes) as bar:
        dataset = _collected(config, collector, bar)
        dataset.save(path)
    env.close()
    reporter.stage("collect", f"wrote {path}: {_describe(dataset)}")
    return dataset


def dataset_path(config: DictConfig, folder: RunFolder) -> Path:
    """The file or folder that the run's dataset is in, or shall be."""
    return folder.dataset if config.data.path is None else Path(config.data.path)


def _collected(config: DictConfig, collector: DataCollector, bar: Bar) -> TrajectoryDataset:
    workers = rollout_workers(config)
    if workers == 0:
        return collector.collect(
            config.data.n_episodes,
            seed=config.seed,
            progress=lambda episode: bar.advance(f"return {episode.total_return:.0f}"),
        )

    def on_chunk(returns: NDArray[np.float64]) -> None:
        for value in returns:
            bar.advance(f"return {value:.0f}")

    shared = collector.collect_shared(
        config.data.n_episodes,
        seed=config.seed,
        num_workers=workers,
        envs_per_worker=config.ray.envs_per_worker,
        chunk_episodes=config.ray.chunk_episodes,
        on_chunk=on_chunk,
    )
    dataset: TrajectoryDataset = shared.to_local()
    return dataset


def _describe(dataset: TrajectoryDataset) -> str:
    returns = dataset.episode_returns
    return (
        f"{dataset.n_episodes} episodes, {len(dataset)} steps, "
        f"return {returns.mean():.0f} ± {returns.std():.0f} (highest {returns.max():.0f})"
    )
