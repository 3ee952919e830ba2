"""Episodes: collected once, split by episode, and a fresh lot that nothing was fitted to."""

__all__ = ["collection", "config_for", "fresh", "measure", "parts_of"]

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from flowshield.config import compose
from flowshield.data import DataCollector, TrajectoryDataset
from flowshield.envs import make_env
from protocol.schedule import Context
from protocol.settings import KNOWN, SPLIT
from protocol.store import Key

_SEEDS = {"": 0, "fresh": 1, "more": 2}  # of the collections, so that no episode is in both


def config_for(
    context: Context, dataset: str, seed: int, further: Sequence[str] = ()
) -> DictConfig:
    """The package's run config for a dataset and a training seed, with further overrides."""
    known = context.settings.known_overrides if dataset in KNOWN else ()
    shares = [f"data.split.{name}={share}" for name, share in SPLIT.items()]
    logs = context.folder / "logs" / dataset / str(seed)
    return compose(
        "run",
        [
            *_collected_with(dataset),
            f"seed={seed}",
            f"log_dir='{logs}'",
            "device=cpu",
            *shares,
            *context.settings.overrides,
            *known,
            *further,
        ],
    )


def measure(context: Context, key: Key) -> dict[str, Any]:
    """Collects the episodes of a behaviour; details "fresh", "more": see `fresh`."""
    config = compose("run", _collected_with(key.dataset))
    settings = context.settings
    env = make_env(config.env.name, **config.env.kwargs)
    behaviour = OmegaConf.to_container(config.behaviour, resolve=True)
    collector = DataCollector(env, behaviour=behaviour)  # type: ignore[arg-type]
    lots = {"fresh": settings.n_fresh, "more": settings.n_more}
    n = lots.get(key.detail, settings.n_collected(key.dataset))
    dataset = collector.collect(n, seed=_SEEDS[key.detail])
    collector.save(context.store.episodes(_name(key.dataset, key.detail)))
    env.close()
    returns = dataset.episode_returns
    return {
        "n_episodes": dataset.n_episodes,
        "n_transitions": len(dataset),
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "return_max": float(returns.max()),
        "shares": SPLIT,
        "collection_seed": _SEEDS[key.detail],
    }


def _collected_with(dataset: str) -> list[str]:
    """Environment and behaviour as overrides."""
    if dataset in KNOWN:
        return [f"env={dataset}", "behaviour=random"]
    return [f"behaviour={dataset}"]


def collection(context: Context, dataset: str) -> TrajectoryDataset:
    """The episodes that are split."""
    return _read(context.store.episodes(_name(dataset)))


def fresh(context: Context, dataset: str, lot: str = "fresh") -> TrajectoryDataset:
    """Episodes of another seed: "fresh" ones judge only, "more" may calibrate."""
    return _read(context.store.episodes(_name(dataset, lot)))


def parts_of(context: Context, dataset: str, seed: int) -> dict[str, TrajectoryDataset]:
    """The split that the Trainer makes with this seed."""
    return _split(context.store.episodes(_name(dataset)), seed)


def _name(dataset: str, detail: str = "") -> str:
    return "_".join(part for part in (dataset, detail) if part)


@lru_cache(maxsize=2)
def _read(path: Path) -> TrajectoryDataset:
    return TrajectoryDataset(path)


@lru_cache(maxsize=1)
def _split(path: Path, seed: int) -> dict[str, TrajectoryDataset]:
    return _read(path).split(SPLIT, seed=seed)
