"""Training batches by index from tensors that already lie on the training device."""

__all__ = ["CommandPairs", "CommandsMode", "TransitionTensors", "checked_device"]

from typing import TYPE_CHECKING, Literal, get_args

import torch

from flowshield.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from flowshield.data.dataset import TrajectoryDataset

CommandsMode = Literal["remaining", "future"]
"""Which hindsight command a step gets: to the end of its episode, or to a random later step."""


class TransitionTensors:
    """All transitions of a dataset as float32 tensors on one device; discrete actions as int64.

    A batch is a few gathers by index: no Python loop over samples, no copy between devices, and no
    synchronisation with the host, so it can be captured in a CUDA graph.

    Args:
        dataset: Where the transitions come from.
        device: Where the tensors shall lie.
        commands: "remaining" gives every step the steps and return that its episode still holds.
            "future" draws, anew at every visit, a later step of the episode evenly and gives the
            steps and return up to it, both ends included.
        generator: What "future" draws from, on the same device; None = torch's own.

    Attributes:
        states: [N, state_dim].
        actions: [N, action_dim].
        commands: Remaining (H in steps, R in units of the reward) [N, 2], in both modes.
        return_after: Return that remains after each step, of ALL rows of the dataset [rows].
        rows: Where these transitions lie among all rows [N], int64; None = they are all of them.
        device: Where they lie.
        mode: "remaining" or "future".

    Raises:
        ConfigError: The mode is unknown, or the device is not there.
    """

    def __init__(
        self,
        dataset: "TrajectoryDataset",
        device: str | torch.device = "cpu",
        commands: CommandsMode = "remaining",
        generator: torch.Generator | None = None,
    ) -> None:
        if commands not in get_args(CommandsMode):
            raise unknown_name("commands mode", commands, get_args(CommandsMode))
        self.device = checked_device(device)
        self.mode: CommandsMode = commands
        self.states = torch.from_numpy(dataset.states).to(self.device)
        self.actions = torch.from_numpy(dataset.actions).to(self.device)
        self.commands = torch.from_numpy(dataset.commands).to(self.device)
        rewards = torch.from_numpy(dataset.rewards).to(torch.float32).to(self.device)
        # Exactly 0 at an episode's last step, where what remains is the reward itself.
        self.return_after: torch.Tensor | None = self.commands[:, 1] - rewards
        self.rows: torch.Tensor | None = None
        self._generator = generator

    @classmethod
    def of_rows(
        cls,
        states: torch.Tensor,
        actions: torch.Tensor,
        commands: torch.Tensor,
        *,
        rows: torch.Tensor | None = None,
        return_after: torch.Tensor | None = None,
    ) -> "TransitionTensors":
        """Some transitions of a dataset whose other rows lie elsewhere.

        Args:
            states: [N, state_dim].
            actions: [N, action_dim].
            commands: Remaining (H in steps, R) [N, 2].
            rows: Where these transitions lie among all rows [N], int64; for "future" alone.
            return_after: Return after each of ALL rows, for the "future" commands; None =
                "remaining".
        """
        part = cls.__new__(cls)
        part.device, part.mode = states.device, "remaining" if return_after is None else "future"
        part.states, part.actions, part.commands = states, actions, commands
        part.rows, part.return_after, part._generator = rows, return_after, None
        return part

    def take(self, indices: torch.Tensor) -> "TransitionTensors":
        """The transitions `indices` [n] alone, which draw the same commands as they do here."""
        return TransitionTensors.of_rows(
            _rows(self.states, indices),
            _rows(self.actions, indices),
            _rows(self.commands, indices),
            rows=indices if self.rows is None else _rows(self.rows, indices),
            return_after=self.return_after if self.mode == "future" else None,
        )

    def to(self, device: torch.device) -> "TransitionTensors":
        """The same transitions on another device; "future" draws from that one's generator."""
        return TransitionTensors.of_rows(
            self.states.to(device),
            self.actions.to(device),
            self.commands.to(device),
            rows=_moved(self.rows, device),
            return_after=_moved(self.return_after, device) if self.mode == "future" else None,
        )

    def __len__(self) -> int:
        """Number of transitions N."""
        return len(self.states)

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gathers transitions.

        Args:
            indices: Which ones [batch], int64, on the same device, in 0..N-1.

        Returns:
            States [batch, state_dim], actions [batch, action_dim] and commands [batch, 2].
        """
        return _rows(self.states, indices), _rows(self.actions, indices), self._commands_at(indices)

    def pairs(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gathers states [batch, state_dim] and commands [batch, 2]; see `batch`."""
        return _rows(self.states, indices), self._commands_at(indices)

    def _commands_at(self, indices: torch.Tensor) -> torch.Tensor:
        remaining = _rows(self.commands, indices)
        if self.mode == "remaining":
            return remaining
        horizon, total = remaining.unbind(-1)
        chance = torch.rand(horizon.shape, device=self.device, generator=self._generator)
        # The product may round up to the horizon itself, one step past the episode's last.
        ahead = torch.minimum((chance * horizon).floor(), horizon - 1)
        assert self.return_after is not None  # of_rows chose the mode by it
        rows = indices if self.rows is None else _rows(self.rows, indices)
        after = _rows(self.return_after, rows + ahead.long())
        return torch.stack([ahead + 1, total - after], dim=-1)


class CommandPairs:
    """Rows of (state, command), for shields.

    Args:
        tensors: The transitions.
    """

    def __init__(self, tensors: TransitionTensors) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self.tensors)

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """States [batch, state_dim] and commands [batch, 2]; see `TransitionTensors.pairs`."""
        return self.tensors.pairs(indices)


def _rows(tensor: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    # on CPUs several times as fast as tensor[indices], which admits what rows do not need
    return tensor.index_select(0, indices)


def _moved(tensor: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    return None if tensor is None else tensor.to(device)


def checked_device(device: str | torch.device) -> torch.device:
    """Returns the device, or raises a ConfigError if there is none of this name or kind."""
    try:
        checked = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            f"unknown device {device!r}: expected cpu, cuda or cuda:0, say"
        ) from error
    if checked.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r}: torch finds no CUDA device here; use device=cpu")
    return checked
