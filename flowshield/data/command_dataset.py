"""The (state, command) pairs of a dataset for torch's own loaders."""

__all__ = ["CommandDataset"]

import torch
from torch.utils.data import Dataset

from flowshield.data.dataset import TrajectoryDataset


class CommandDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Every state with the command that its episode obeyed from there on.

    Args:
        trajectory_dataset: Where the pairs come from. They lie in main memory, whatever its device,
            because a DataLoader's workers cannot share a GPU's.
    """

    def __init__(self, trajectory_dataset: TrajectoryDataset) -> None:
        self.states = torch.from_numpy(trajectory_dataset.states)
        self.commands = torch.from_numpy(trajectory_dataset.commands)

    def __len__(self) -> int:
        """Number of pairs N."""
        return len(self.states)

    def __getitem__(self, idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Gives the state [state_dim] and the command [2] = (H, R) of one step."""
        return self.states[idx], self.commands[idx]
