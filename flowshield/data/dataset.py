"""Datasets of trajectories with their hindsight commands."""

__all__ = ["TrajectoryDataset"]

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from flowshield.data.action_layouts import recognised_actions
from flowshield.data.arrays import TrajectoryArrays, arrays_from_episodes, checked_arrays
from flowshield.data.batches import CommandsMode, TransitionTensors, checked_device
from flowshield.data.episode import Episode
from flowshield.data.hindsight import compute_hindsight_commands
from flowshield.data.seeding import check_seed
from flowshield.data.splitting import split_positions
from flowshield.data.storage import load_arrays, save_arrays
from flowshield.errors import ConfigError, DataError


class TrajectoryDataset:
    """N transitions of E whole episodes, one after another.

    Args:
        data_path: A `.npz` or `.pkl` file, a `.parquet` folder (also s3://... or gs://...), or
            minari:ID, a Minari dataset that is on this machine.
        device: Where sampled batches lie.
        commands_mode: Which command a sampled step gets; see `TransitionTensors`.
        seed: Seed of the sampling; `seed()` starts it over.

    Attributes:
        states: States in which the actions were taken [N, state_dim], float32.
        actions: Actions [N, action_dim], float32; discrete ones [N, 1], int64.
        rewards: Rewards [N], float64.
        terminated: Whether the environment ended the episode at this step [N], bool.
        truncated: Whether a step limit cut it off at this step [N], bool.
        dones: Either of the two [N], bool.
        episode_starts: Index of each episode's first step [E].
        episode_lengths: Number of steps of each episode [E].
        final_states: State after each episode's last action [E, state_dim], or None if unknown.
        behaviours: Name of the behaviour of each episode [E], "" where unknown.
        levels: Level of that behaviour [E], NaN where it has none.
        episode_indices: Index of each episode in its collection [E].
        requests: Command (horizon in steps, return in raw reward) that the policy was given at each
            episode's start [E, 2], float64, NaN where it was given none; None where no episode has
            one.
        metadata: Environment, seed, behaviour and counts, as far as they are known; "n_actions"
            where actions are discrete.

    Raises:
        FileFormatError: The file is missing, truncated, foreign, or of an unknown version.
        DataError: It holds NaN or infinite numbers, or no finished episode.
        ShapeError: Its arrays do not fit each other.
        ConfigError: The device, mode or seed cannot be used.
    """

    def __init__(
        self,
        data_path: str | os.PathLike[str],
        *,
        device: str | torch.device = "cpu",
        commands_mode: CommandsMode = "remaining",
        seed: int = 0,
    ) -> None:
        self._set_up(load_arrays(data_path), device, commands_mode, seed)

    @classmethod
    def from_episodes(
        cls, episodes: Sequence[Episode], metadata: Mapping[str, Any] | None = None
    ) -> Self:
        """Lays episodes end to end.

        Args:
            episodes: At least one episode.
            metadata: What is known about the whole, fit for JSON.

        Raises:
            DataError: There are no episodes, or they hold NaN or infinite numbers.
            ShapeError: They differ in the sizes of their states or actions.
        """
        return cls._from_checked(arrays_from_episodes(episodes, dict(metadata or {})))

    @classmethod
    def from_arrays(
        cls,
        states: ArrayLike,
        actions: ArrayLike,
        rewards: ArrayLike,
        terminated: ArrayLike,
        truncated: ArrayLike | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> Self:
        """Makes a dataset of flat arrays; steps after the last finished episode count as truncated.

        Args:
            states: [N, state_dim].
            actions: [N, action_dim]; discrete ones, whole numbers 0..n-1, [N, 1] or [N], with
                `metadata={"n_actions": n}`. Without that, integers of at least 0 and one-hot rows
                are taken for discrete ones, unless the metadata say "action_low".
            rewards: [N].
            terminated: Flags [N], true where the environment ended an episode.
            truncated: Flags [N], true where a step limit cut one off; nowhere if None.
            metadata: What is known about the whole, fit for JSON.

        Raises:
            DataError: The arrays are empty, hold NaN or infinite numbers, or no finished episode.
            ShapeError: They do not fit each other.
        """
        facts = dict(metadata or {})
        if facts.get("n_actions") is None:
            actions, facts = recognised_actions(actions, facts, columns=False)
        arrays = checked_arrays(
            "these arrays",
            states=states,
            actions=actions,
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            metadata=facts,
        )
        return cls._from_checked(arrays)

    @classmethod
    def _from_checked(
        cls,
        arrays: TrajectoryArrays,
        device: str | torch.device = "cpu",
        commands_mode: CommandsMode = "remaining",
        seed: int = 0,
    ) -> Self:
        dataset = cls.__new__(cls)
        dataset._set_up(arrays, device, commands_mode, seed)
        return dataset

    def _set_up(
        self,
        arrays: TrajectoryArrays,
        device: str | torch.device,
        commands_mode: CommandsMode,
        seed: int,
    ) -> None:
        self._arrays = arrays
        self.states = arrays.states
        self.actions = arrays.actions
        self.rewards = arrays.rewards
        self.terminated = arrays.terminated
        self.truncated = arrays.truncated
        self.dones = arrays.dones
        self.episode_starts = arrays.starts
        self.episode_lengths = arrays.ends - arrays.starts + 1
        self.final_states = arrays.final_states
        self.behaviours = arrays.behaviours
        self.levels = arrays.levels
        self.episode_indices = arrays.indices
        self.requests = arrays.requests
        self.metadata = arrays.metadata
        self.commands_mode: CommandsMode = commands_mode
        self._seed = check_seed(seed)
        self.to(device)

    def __len__(self) -> int:
        """Number of transitions N."""
        return len(self.states)

    def __repr__(self) -> str:
        """Says how much there is, and of what."""
        return (
            f"{type(self).__name__}({len(self)} transitions, {self.n_episodes} episodes, "
            f"state_dim={self.state_dim}, action_dim={self.action_dim})"
        )

    @property
    def state_dim(self) -> int:
        """Length of a state."""
        return int(self.states.shape[1])

    @property
    def action_dim(self) -> int:
        """Length of an action; 1 where actions are discrete."""
        return int(self.actions.shape[1])

    @property
    def n_actions(self) -> int | None:
        """Number of discrete actions; None where actions are continuous."""
        return self.metadata.get("n_actions")

    @property
    def n_episodes(self) -> int:
        """Number of episodes E."""
        return len(self.episode_lengths)

    @property
    def n_truncated(self) -> int:
        """Number of episodes that a step limit cut off."""
        return int(self.truncated.sum())

    @cached_property
    def commands(self) -> NDArray[np.float32]:
        """Steps and return that the episode still holds at every step [N, 2]: (H, R)."""
        return compute_hindsight_commands(self.rewards, self.dones)

    @cached_property
    def episode_returns(self) -> NDArray[np.float64]:
        """Undiscounted return of each episode [E]."""
        return np.add.reduceat(self.rewards, self.episode_starts)

    def subset(self, episode_indices: ArrayLike) -> Self:
        """Gives a dataset of some episodes, in the order asked for.

        Args:
            episode_indices: Positions [K] of the episodes in this dataset, in 0..E-1.

        Raises:
            DataError: There are none, or one is no whole number in 0..E-1.
        """
        positions = np.asarray(episode_indices)
        if positions.ndim != 1 or not positions.size or positions.dtype.kind not in "iu":
            raise DataError(
                f"expected a non-empty list of episode positions, got {episode_indices!r}"
            )
        if positions.min() < 0 or positions.max() >= self.n_episodes:
            raise DataError(
                f"expected episode positions in 0..{self.n_episodes - 1}, "
                f"got {positions.min()}..{positions.max()}"
            )
        taken = self._arrays.take(positions.astype(np.intp))
        return self._from_checked(taken, self.device, self.commands_mode, self._seed)

    def split(self, shares: Mapping[str, float], seed: int) -> dict[str, Self]:
        """Splits by episode, so that no episode has steps in two parts.

        Args:
            shares: Share of the episodes by the name of the part; the shares sum to one.
            seed: Seed of the permutation. The parts depend on it and on the number of episodes.

        Returns:
            The parts by their names; within a part the episodes keep their order.

        Raises:
            ConfigError: A share is not positive, or they do not sum to one.
            DataError: A part would get no episode.
        """
        parts = split_positions(self.n_episodes, shares, seed)
        return {name: self.subset(positions) for name, positions in parts.items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the dataset to a `.npz` or `.pkl` file, a `.parquet` folder, or Minari.

        Args:
            path: Where to; minari:ID for Minari. An existing dataset is replaced once the new one
                is complete.

        Raises:
            FileFormatError: The suffix is none of these.
            DataError: The metadata are not fit for JSON.
            OSError: The file cannot be written; one that was there before is still there.
        """
        save_arrays(path, self._arrays)

    def to(self, device: str | torch.device) -> Self:
        """Makes batches come from tensors on this device, and starts their sampling over.

        Raises:
            ConfigError: The device is unknown or not there.
        """
        self.device = checked_device(device)
        self._generator = torch.Generator(device=self.device)
        self.__dict__.pop("tensors", None)
        return self.seed(self._seed)

    def seed(self, seed: int) -> Self:
        """Starts the sampling of batches over from this seed.

        Raises:
            ConfigError: The seed is negative or no whole number.
        """
        self._seed = check_seed(seed)
        self._generator.manual_seed(self._seed)
        return self

    @cached_property
    def tensors(self) -> TransitionTensors:
        """All transitions on the dataset's device, made at the first batch."""
        return TransitionTensors(self, self.device, self.commands_mode, self._generator)

    def get_hindsight_batch(
        self, batch_size: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draws transitions evenly, with replacement, with their hindsight commands.

        Args:
            batch_size: Number of transitions, at least 1.

        Returns:
            States [batch, state_dim], actions [batch, action_dim] and commands [batch, 2], float32
            (discrete actions int64), on the dataset's device.

        Raises:
            ConfigError: The batch size is not positive.
        """
        return self.tensors.batch(self._draw(batch_size))

    def get_command_pairs(self, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws pairs for shield training evenly, with replacement.

        Args:
            batch_size: Number of pairs, at least 1.

        Returns:
            States [batch, state_dim] and commands [batch, 2], float32, on the dataset's device.

        Raises:
            ConfigError: The batch size is not positive.
        """
        return self.tensors.pairs(self._draw(batch_size))

    def _draw(self, batch_size: int) -> torch.Tensor:
        if batch_size < 1:
            raise ConfigError(f"expected a batch size >= 1, got {batch_size}")
        return torch.randint(
            len(self), (batch_size,), device=self.device, generator=self._generator
        )
