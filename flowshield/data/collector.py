"""Collects episodes into a dataset."""

__all__ = ["DataCollector", "collect_episodes", "describe_collection"]

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from flowshield.data.behaviour import Behaviour, as_behaviour
from flowshield.data.collection_size import check_room_for
from flowshield.data.dataset import TrajectoryDataset
from flowshield.data.episode import Episode
from flowshield.data.group import draw_group
from flowshield.data.rollout import rollout
from flowshield.data.seeding import check_seed, draw_env_seed, episode_generator
from flowshield.envs import EnvWrapper, wrap_env
from flowshield.errors import ConfigError, DataError

# Of a group, so that a policy acts in nearly as many episodes as there are environments until the
# last ones end. A lone environment has nobody to wait for.
_EPISODES_PER_ENV = 8


class DataCollector:
    """Collects trajectories with a behaviour policy.

    Episode i of a collection with a seed is the same episode whatever else is collected, so two
    collections with one seed hold the same bytes, and a longer one starts with a shorter one's.

    Args:
        env: Environment to collect from; one that is not from `make_env` is wrapped.
        policy: A callable state [state_dim] -> action [action_dim]; None = uniformly random
            actions, unless there is a behaviour.
        behaviour: Instead of a policy, a mapping like those in `configs/behaviour/` or an object
            that has the methods of `EpisodeBehaviour` or `GroupBehaviour`.

    Raises:
        ConfigError: Both a policy and a behaviour are given, one of them cannot be used, or the
            environment's observations or actions are not supported.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        policy: Callable[[NDArray[np.float32]], Any] | None = None,
        *,
        behaviour: Mapping[str, Any] | Behaviour | None = None,
    ) -> None:
        if policy is not None and behaviour is not None:
            raise ConfigError("expected a policy or a behaviour, got both: leave one out")
        self.env = env if isinstance(env, EnvWrapper) else wrap_env(env)
        self.behaviour = as_behaviour(policy if behaviour is None else behaviour)
        self._dataset: TrajectoryDataset | None = None

    def collect(
        self,
        n_episodes: int,
        render: bool = False,
        *,
        seed: int = 0,
        num_workers: int = 0,
        progress: Callable[[Episode], None] | None = None,
    ) -> TrajectoryDataset:
        """Collects the episodes 0..n_episodes-1 of a seed.

        Args:
            n_episodes: Number of episodes, at least 1.
            render: Shows the collection: the environment must have been made with a render_mode,
                "human" for a window.
            seed: Seed of everything random, a whole number >= 0.
            num_workers: Rollout actors on Ray; 0 collects in this process. The dataset is the same.
            progress: Called with every finished episode, in order. Without actors only: of theirs
                this process sees no episode before the end; `collect_shared(on_chunk=...)` tells.

        Returns:
            The dataset, which `save` writes to a file.

        Raises:
            ConfigError: An argument is out of its range, the environment lacks a render_mode, a
                step limit or the controller that the behaviour needs, or this machine has no room
                for so many episodes.
            DataError: The environment or the policy gave NaN or infinite numbers.
            ShapeError: The policy gave an action of the wrong shape.
        """
        self._check(n_episodes, render, num_workers)
        if num_workers > 0 and progress is not None:
            raise ConfigError(
                "progress hears the episodes of num_workers=0: with rollout actors use "
                "collect_shared(on_chunk=...), which hears their returns"
            )
        self.check_room(n_episodes, seed=seed)
        if num_workers > 0:
            from flowshield.distributed.session import session

            with session():
                shared = self.collect_shared(n_episodes, seed=seed, num_workers=num_workers)
                self._dataset = shared.to_local()
            return self._dataset
        episodes = collect_episodes(
            [self.env], self.behaviour, range(n_episodes), seed, progress, render=render
        )
        metadata = describe_collection(self.env, self.behaviour, seed)
        self._dataset = TrajectoryDataset.from_episodes(episodes, metadata)
        return self._dataset

    def check_room(
        self, n_episodes: int, *, seed: int = 0, place: Path | None = None
    ) -> str | None:
        """Refuses a collection that this machine's memory or disk cannot hold.

        Args:
            n_episodes: As for `collect`.
            seed: Likewise.
            place: Where the dataset is to be written; None = nowhere.

        Returns:
            What to know where the step limit alone allows for more than fits; else None.

        Raises:
            ConfigError: It does not fit, or the environment has no step limit.
            DataError, ShapeError: As for `collect`, where first episodes are played to be counted.
        """

        def play(n: int) -> list[Episode]:
            return collect_episodes([self.env], self.behaviour, range(n), seed)

        return check_room_for(self.env, n_episodes, play, place)

    def collect_shared(
        self,
        n_episodes: int,
        *,
        seed: int = 0,
        num_workers: int = 1,
        **settings: Any,
    ) -> Any:
        """Collects the same episodes with Ray actors, and leaves them in the object store.

        Args:
            n_episodes: Number of episodes, at least 1.
            seed: Seed of everything random, a whole number >= 0.
            num_workers: Rollout actors, at least 1, one CPU each.
            **settings: See `flowshield.distributed.collect.collect_shared`.

        Returns:
            A `flowshield.distributed.shared_dataset.SharedDataset`: `to_ray`, `to_local`,
            `write_parquet`. It lives as long as the Ray session: enter
            `flowshield.distributed.session.session()` before.

        Raises:
            ConfigError, DataError, ShapeError: As for `collect`.
        """
        self._check(n_episodes, False, num_workers)
        if num_workers == 0:
            raise ConfigError("collect_shared needs num_workers >= 1, got 0: use collect")
        check_seed(seed)
        from flowshield.distributed.collect import collect_shared

        return collect_shared(
            self.env, self.behaviour, n_episodes, seed, num_workers=num_workers, **settings
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes what was collected last to a `.npz` or `.pkl` file or a `.parquet` folder.

        Args:
            path: Where to; an existing file is replaced once the new one is complete.

        Raises:
            DataError: Nothing was collected yet.
            FileFormatError: The suffix is none of these.
            OSError: The file cannot be written; one that was there before is still there.
        """
        if self._dataset is None:
            raise DataError(f"nothing was collected to save to {path}: call collect first")
        self._dataset.save(path)

    def _check(self, n_episodes: int, render: bool, num_workers: int) -> None:
        if isinstance(n_episodes, bool) or not isinstance(n_episodes, int | np.integer):
            raise ConfigError(f"expected a whole number of episodes, got {n_episodes!r}")
        if n_episodes <= 0:
            raise ConfigError(f"expected n_episodes >= 1, got {n_episodes}")
        if isinstance(num_workers, bool) or num_workers < 0:
            raise ConfigError(f"expected num_workers >= 0, got {num_workers!r}")
        if num_workers > 0 and render:
            raise ConfigError("render=True needs num_workers=0: rollout actors have no screen")
        if render and self.env.render_mode is None:
            raise ConfigError(
                f"render=True needs an environment that can draw, and {self.env.name!r} was made "
                'without a render_mode: pass render_mode="human" (or "rgb_array") to make_env'
            )


def collect_episodes(
    envs: Sequence[EnvWrapper],
    behaviour: Behaviour,
    indices: Iterable[int],
    seed: int,
    progress: Callable[[Episode], None] | None = None,
    *,
    render: bool = False,
) -> list[Episode]:
    """Collects the episodes with these indices, as many at a time as there are environments.

    Args:
        envs: Environments of one kind.
        behaviour: What gives each episode its policy.
        indices: Indices of the episodes in their collection.
        seed: Seed of the collection; what an episode draws depends on it and on the index alone.
        progress: Called with every finished episode, in the order of the indices.
        render: As for `rollout`.

    Returns:
        The episodes in the order of the indices.

    Raises:
        ConfigError, DataError, ShapeError: As `DataCollector.collect`.
    """
    check_seed(seed)
    remaining = iter(indices)
    episodes: list[Episode] = []
    size = len(envs) * (_EPISODES_PER_ENV if len(envs) > 1 else 1)
    while group := list(islice(remaining, size)):
        for episode in _collect_group(envs[: len(group)], behaviour, group, seed, render):
            episodes.append(episode)
            if progress is not None:
                progress(episode)
    return episodes


def describe_collection(env: EnvWrapper, behaviour: Behaviour, seed: int) -> dict[str, Any]:
    """Gives the metadata of a collection: what is needed to repeat it, and what the actions are."""
    facts = {
        "env": env.name,
        "env_id": env.spec.id if env.spec else None,
        "env_kwargs": dict(env.make_kwargs),
        "max_episode_steps": env.max_episode_steps,
        **env.action_facts(),
        "seed": int(seed),
        "behaviour": behaviour.describe(),
    }
    # Made fit for JSON here, so that an odd argument of the environment cannot spoil the saving of
    # what took hours to collect.
    plain: dict[str, Any] = json.loads(json.dumps(facts, default=_plain))
    return plain


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else repr(value)


def _collect_group(
    envs: Sequence[EnvWrapper],
    behaviour: Behaviour,
    indices: list[int],
    seed: int,
    render: bool,
) -> list[Episode]:
    generators = [episode_generator(seed, index) for index in indices]
    env_seeds = [draw_env_seed(rng) for rng in generators]
    drawn = draw_group(behaviour, envs, generators, indices)
    played = rollout(envs, drawn.policy, env_seeds, indices=indices, render=render)
    requests = [None] * len(indices) if drawn.requests is None else drawn.requests
    labels = zip(drawn.behaviours, drawn.levels, requests, strict=True)
    return [
        dataclasses.replace(episode, behaviour=name, level=level, request=request)
        for episode, (name, level, request) in zip(played, labels, strict=True)
    ]
