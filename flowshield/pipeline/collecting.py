"""Stage one: the dataset."""

__all__ = ["check_request", "check_training_request", "collect", "dataset_path"]

import math
import time
from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from flowshield.counted import counted
from flowshield.data import DataCollector, TrajectoryDataset
from flowshield.data.minari import is_minari
from flowshield.data.storage import dataset_exists
from flowshield.envs import make_env
from flowshield.errors import ConfigError, DataError
from flowshield.evaluation.wording import all_equal, number
from flowshield.filesystem import absolute
from flowshield.models.scale import ReturnScale
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
    note = check_request(config, folder)
    path = dataset_path(config, folder)
    if dataset_exists(path):
        dataset = TrajectoryDataset(path)
        reporter.stage("collect", f"found {_named(path)}: {_describe(dataset)}")
        return dataset
    n_episodes = config.data.n_episodes
    size = counted(n_episodes, "episode")
    reporter.stage("collect", f"{size} of {config.env.name} with its behaviours")
    for told in filter(None, (note, _too_few(config))):
        reporter.stage("collect", told)
    collector = _collector(config)
    with folder.timed("collect"), place(config), reporter.bar("episodes", n_episodes) as bar:
        dataset = _collected(config, collector, bar)
        dataset.save(path)
    collector.env.close()
    reporter.stage("collect", f"wrote {_named(path)}: {_describe(dataset)}")
    return dataset


def check_request(config: DictConfig, folder: RunFolder) -> str | None:
    """Refuses what cannot be had, before Ray is started for it.

    Returns:
        What to know of a collection's size; see `DataCollector.check_room`.

    Raises:
        ConfigError: Of the device, the number of workers, the file of `data.path` or, where there
            are no episodes yet, the environment or the room for so many of them.
    """
    Trainer(config)
    path = dataset_path(config, folder)
    if dataset_exists(path):
        return None
    if config.data.path is not None:
        raise ConfigError(
            f"data.path={path} does not exist: check the path, or give data.path=null to collect"
        )
    collector = _collector(config)
    note = collector.check_room(config.data.n_episodes, seed=config.seed, place=folder.dataset)
    collector.env.close()
    return note


def check_training_request(config: DictConfig, folder: RunFolder) -> None:
    """Refuses as `check_request`, and to collect episodes that are too few to train on.

    Raises:
        ConfigError: As `check_request`.
        DataError: `data.n_episodes` is too low, and there are no episodes yet.
    """
    check_request(config, folder)
    if not dataset_exists(dataset_path(config, folder)):
        Trainer(config).check_episodes(config.data.n_episodes)


def _too_few(config: DictConfig) -> str | None:
    """What training would refuse later; to collect so few may be all that is wanted."""
    try:
        Trainer(config).check_episodes(config.data.n_episodes)
    except DataError as error:
        return f"note: too few to train on: {error}"
    return None


def dataset_path(config: DictConfig, folder: RunFolder) -> str | Path:
    """The file or folder that the run's dataset is in, or shall be."""
    path: str | Path = folder.dataset if config.data.path is None else config.data.path
    return path


def _named(path: str | Path) -> str:
    """What a dataset is called from everywhere."""
    return str(path) if is_minari(path) else absolute(path)


def _collector(config: DictConfig) -> DataCollector:
    env = make_env(config.env.name, **config.env.kwargs)
    behaviour = OmegaConf.to_container(config.behaviour, resolve=True)
    return DataCollector(env, behaviour=behaviour)  # type: ignore[arg-type]


def _collected(config: DictConfig, collector: DataCollector, bar: Bar) -> TrajectoryDataset:
    workers = rollout_workers(config)
    tell = _Teller(bar)
    if workers == 0:
        return collector.collect(
            config.data.n_episodes,
            seed=config.seed,
            progress=lambda episode: tell([episode.total_return]),
        )
    shared = collector.collect_shared(
        config.data.n_episodes,
        seed=config.seed,
        num_workers=workers,
        envs_per_worker=config.ray.envs_per_worker,
        chunk_episodes=config.ray.chunk_episodes,
        on_chunk=tell,
    )
    dataset: TrajectoryDataset = shared.to_local()
    return dataset


class _Teller:
    """Shows how fast episodes come, and what they are worth on average."""

    def __init__(self, bar: Bar) -> None:
        self.bar, self.start = bar, time.monotonic()
        self.n, self.mean, self.squares = 0, 0.0, 0.0

    def __call__(self, returns: Iterable[float]) -> None:
        for value in map(float, returns):
            self.n, before = self.n + 1, self.mean
            self.mean += (value - before) / self.n
            self.squares += (value - before) * (value - self.mean)  # Welford's sum
            rate = self.n / max(time.monotonic() - self.start, 1e-9)
            deviation = math.sqrt(self.squares / self.n)
            decimals = ReturnScale(deviation, None).decimals if deviation else 2
            mean = number(self.mean, decimals)
            self.bar.advance(f"{rate:.0f} episodes/s, mean return {mean}")


def _describe(dataset: TrajectoryDataset) -> str:
    returns = dataset.episode_returns
    told_by = dataset.metadata.get("n_actions_from")
    actions = f", {dataset.n_actions} discrete actions (told by {told_by})" if told_by else ""
    size = f"{counted(dataset.n_episodes, 'episode')}, {counted(len(dataset), 'step')}{actions}"
    decimals = ReturnScale.of_commands(dataset.commands).decimals
    mean, deviation, top = (number(f(), decimals) for f in (returns.mean, returns.std, returns.max))
    if equal := all_equal(returns.min(), returns.max()):
        return f"{size}, return {mean} ({equal})"
    return f"{size}, return {mean} ± {deviation} (highest {top})"
