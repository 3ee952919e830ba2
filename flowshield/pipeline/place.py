"""Where the stages run: in this process, or on Ray."""

__all__ = ["check_room", "for_models", "on_ray", "place", "rollout_workers"]

from contextlib import AbstractContextManager, nullcontext

from omegaconf import DictConfig, ListConfig

from flowshield.training.fitter import asked_workers


def on_ray(config: DictConfig) -> bool:
    """Whether the config asks for workers; `ray.num_workers=0` keeps everything here."""
    return bool(config.ray.num_workers != 0)


def place(config: DictConfig) -> AbstractContextManager[None]:
    """Ray for as long as the body runs, where the config asks for workers."""
    if not on_ray(config):
        return nullcontext()
    from flowshield.distributed.session import session

    return session()


def rollout_workers(config: DictConfig) -> int:
    """Actors that collect and evaluate, inside `place`; 0 = this process.

    Of a range the most, as they need no fixed number; where nothing is said, one a CPU.
    """
    if not on_ray(config):
        return 0
    asked = config.ray.rollout_workers or config.ray.num_workers
    if asked is None:
        from flowshield.distributed.session import count_cpus

        return count_cpus()
    return int(max(asked)) if isinstance(asked, ListConfig) else int(asked)


def for_models(config: DictConfig) -> DictConfig:
    """The config with the workers of each model in it: on Ray one, where it does not say."""
    there = config.copy()
    there.ray.num_workers = asked_workers(config) or 1 if on_ray(config) else 0
    return there


def check_room(config: DictConfig) -> None:
    """Refuses, inside `place`, what this machine has no room for, before any work.

    Raises:
        ConfigError: Its Ray has too few CPUs or GPUs for the workers of one model.
    """
    if on_ray(config):
        from flowshield.distributed.train_workers import TrainWorkers

        TrainWorkers.from_config(for_models(config)).check_room()
