"""The controls of a sceptic: what ten lines without any learning know about commands.

Each is a `BaseShield`, so that calibration, evaluation, `CommandedPolicy` and the benchmark treat
it like a shield. Its score is no density, though nothing but its order counts for verdicts: it is
minus how far a command lies outside of what the training data hold. There is nothing to train by
gradient and nothing to save: `make_control` fits one in seconds.

    control = make_control("state_box", train_dataset)
    control.calibrate(calibration_dataset, alpha=0.05)
"""

__all__ = [
    "CONTROLS",
    "BinnedBox",
    "Control",
    "GlobalBox",
    "KNN",
    "ReturnClip",
    "make_control",
]

from abc import abstractmethod
from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from flowshield.data import TrajectoryDataset
from flowshield.errors import unknown_name
from flowshield.models import BaseShield
from flowshield.models.shields.groups import StateGroups
from flowshield.models.shields.projection import Projection, scaled_distance

_QUANTILES = (0.01, 0.99)  # sides of a box; the extremes themselves are single lucky episodes
_N_BINS = 256
_LEAST_ROWS = 20  # in a bin; below, its box is that of all data
_MARGIN = 1e-4  # deviations by which a clamp stays inside, so that its recheck passes
_N_NEIGHBOURS = 10
_MOST_ROWS = 50_000  # of the training data that a nearest-neighbour search keeps
_SEED = 0


class Control(BaseShield):
    """A shield that is fitted by looking at the data once.

    Args:
        state_dim: Size of a state.
    """

    @abstractmethod
    def _fit(self, states: Tensor, commands: Tensor) -> None:
        """Takes what it needs of the training data [n, state_dim], [n, 2], raw."""

    def fit(self, dataset: TrajectoryDataset) -> Self:
        """Looks at the true commands of all training steps."""
        states, commands = torch.as_tensor(dataset.states), torch.as_tensor(dataset.commands)
        self.fit_standardizers(states, commands)
        self._fit(states, commands)
        return self

    def compute_loss(self, state: Tensor, command: Tensor) -> Tensor:
        """There is none."""
        raise NotImplementedError("a control is not trained by gradient: call fit(dataset)")

    def sample_with_log_prob(
        self, state: Tensor, n_samples: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """There is none: a box or a bound is no distribution."""
        raise NotImplementedError(f"the control {self.shield_type!r} does not sample")


class GlobalBox(Control):
    """One box around all training commands: from their 1st to their 99th percentile each.

    The score is minus the distance by which a command lies outside, the larger of the two in
    deviations of all the data's horizons and returns; inside it goes on, positive, as the distance
    from the nearest side. A calibrated threshold thus moves all sides alike, out or in, until the
    box holds the promised share, and the projection clamps into that box. (Distances in units of
    the box's own sides detect less in LunarLander: late bins are narrow, and low returns make the
    others wide.)
    """

    shield_type = "box"

    def _fit(self, states: Tensor, commands: Tensor) -> None:
        self._box = _quantile_box(commands)

    def _boxes(self, state: Tensor) -> Tensor:
        """Lowest and highest command [batch, 2 (low, high), 2], raw."""
        return self._box.to(state).expand(len(state), 2, 2)

    def log_prob(self, state: Tensor, command: Tensor, n_steps: int | None = None) -> Tensor:
        """The score (see the class), [batch]; no density."""
        low, high = self._boxes(state).unbind(dim=1)
        inside = torch.minimum(command - low, high - command) / self.command_standardizer.std
        return inside.amin(dim=1)

    @torch.no_grad()
    def project_in_detail(
        self, state: Tensor, command: Tensor, n_steps: int | None = None, lr: float | None = None
    ) -> Projection:
        """Clamps what is not supported into the calibrated box, or to its centre if it is empty."""
        low, high = self._boxes(state).unbind(dim=1)
        depth = (self.limits(state) + _MARGIN).to(state).unsqueeze(1)
        moved, center = depth * self.command_standardizer.std, (low + high) / 2
        low, high = torch.minimum(low + moved, center), torch.maximum(high - moved, center)
        low[:, 0] = torch.minimum(low[:, 0].clamp(min=1.0), high[:, 0])
        return _replaced(self, state, command, torch.clamp(command, low, high))


class BinnedBox(GlobalBox):
    """A `GlobalBox` for each of 256 bins of states, which are k-means of the standardized states.

    A bin with fewer than 20 training steps takes the box of all data.
    """

    shield_type = "state_box"

    def _fit(self, states: Tensor, commands: Tensor) -> None:
        standardized = self.state_standardizer(states)
        n_bins = min(_N_BINS, len(torch.unique(standardized, dim=0)))
        self._bins = StateGroups.fit(standardized, n_bins, _SEED)
        assigned = self._bins.assign(standardized)
        members = [commands[assigned == i] for i in range(n_bins)]
        boxes = [_quantile_box(m if len(m) >= _LEAST_ROWS else commands) for m in members]
        self._boxes_by_bin = torch.stack(boxes)

    def _boxes(self, state: Tensor) -> Tensor:
        return self._boxes_by_bin.to(state)[self._bins.assign(self.state_standardizer(state))]


class ReturnClip(Control):
    """Clips returns to the highest in the training data; horizons are left alone.

    The score is how much less is asked for than that, so that the calibrated threshold flags the
    highest returns whatever the state. The projection is the plain clip, to the maximum itself and
    not to the threshold, which is what one writes in ten lines: what it returns may be unsupported
    by its own threshold, and then says so.
    """

    shield_type = "clip"

    def _fit(self, states: Tensor, commands: Tensor) -> None:
        self._highest = float(commands[:, 1].max())

    def log_prob(self, state: Tensor, command: Tensor, n_steps: int | None = None) -> Tensor:
        """The score (see the class), [batch]; no density."""
        return self._highest - command[:, 1]

    @torch.no_grad()
    def project_in_detail(
        self, state: Tensor, command: Tensor, n_steps: int | None = None, lr: float | None = None
    ) -> Projection:
        """Lowers returns above the highest of the data to it."""
        clipped = torch.stack([command[:, 0], command[:, 1].clamp(max=self._highest)], dim=1)
        return _replaced(self, state, command, clipped)


class KNN(Control):
    """k nearest neighbours among the training pairs (s, g), each coordinate standardized.

    The score is minus the Euclidean distance to the tenth nearest; of many pairs a random 50,000
    are kept. The projection looks among the commands of the training states nearest to the state
    and is that of all shields: nearest to the request, rechecked.
    """

    shield_type = "knn"

    def _fit(self, states: Tensor, commands: Tensor) -> None:
        rows = np.random.default_rng(_SEED).permutation(len(states))[:_MOST_ROWS]
        self._commands = commands[rows]
        pairs = self._pairs(states[rows], commands[rows])
        self._tree = KDTree(pairs)
        self._state_tree = KDTree(pairs[:, : self.state_dim])

    def _pairs(self, state: Tensor, command: Tensor) -> np.ndarray:
        standardized = [self.state_standardizer(state), self.command_standardizer(command)]
        return torch.cat(standardized, dim=1).double().cpu().numpy()

    @torch.no_grad()
    def log_prob(self, state: Tensor, command: Tensor, n_steps: int | None = None) -> Tensor:
        """The score (see the class), [batch]; no density. NaN where a number is not finite."""
        pairs = self._pairs(state, command)
        known = np.isfinite(pairs).all(axis=1)
        distances = np.full(len(pairs), np.nan)
        k = min(_N_NEIGHBOURS, self._tree.n)
        distances[known] = self._tree.query(pairs[known], k=[k])[0][:, 0]
        return -torch.from_numpy(distances).to(command)

    def sample_with_log_prob(
        self, state: Tensor, n_samples: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """The commands of the nearest training states, with their scores; no draws."""
        nearest = self._state_tree.query(
            self.state_standardizer(state).double().cpu().numpy(),
            k=np.arange(n_samples) % self._tree.n + 1,
        )[1]
        commands = self._commands.to(state)[torch.from_numpy(nearest).to(state.device)]
        rows = state.repeat_interleave(n_samples, dim=0)
        scores = self.log_prob(rows, commands.flatten(0, 1))
        return commands, scores.view(len(state), n_samples)


CONTROLS: dict[str, Callable[[int], Control]] = {
    control.shield_type: control for control in (GlobalBox, BinnedBox, ReturnClip, KNN)
}
"""The controls by name, each made from the size of a state."""


def make_control(name: str, dataset: TrajectoryDataset) -> Control:
    """Fits a control to training episodes; it is not calibrated yet.

    Args:
        name: A key of `CONTROLS`: box, state_box, clip, knn.
        dataset: The training episodes.

    Raises:
        ConfigError: There is no such control.
    """
    if name not in CONTROLS:
        raise unknown_name("control", name, CONTROLS)
    return CONTROLS[name](dataset.state_dim).fit(dataset).eval()


def _quantile_box(commands: Tensor) -> Tensor:
    """The box [2 (low, high), 2] between the quantiles of commands [n, 2]."""
    sides = np.quantile(commands.double().numpy(), _QUANTILES, axis=0)
    sides[:, 0] += (-0.5, 0.5)  # a whole horizon is a step wide: late states know but one
    return torch.from_numpy(sides).to(commands)


def _replaced(shield: Control, state: Tensor, command: Tensor, other: Tensor) -> Projection:
    """Requests that are supported as they are, and the other command [batch, 2] elsewhere."""
    limits = shield.limits(state)
    flagged = ~(shield.score(state, command) >= limits)
    chosen = torch.where(flagged.unsqueeze(1), other, command)
    score = shield.score(state, chosen)
    weight = shield.projection.horizon_weight
    distance = scaled_distance(chosen, command, shield.command_standardizer, weight)
    changed = (chosen != command).any(dim=1)
    return Projection(chosen, score, distance, changed, score >= limits)
