"""What a given policy gets under a command: the law of return, steps and failure."""

__all__ = [
    "LEAST_VALIDATION",
    "Law",
    "Outcome",
    "OutcomeModel",
    "OutcomeRows",
    "outcome_rows",
    "weights_checksum",
]

import hashlib
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowshield.errors import DataError, ShapeError
from flowshield.models.serialization import load_payload, rebuilding, rebuilt, save_payload
from flowshield.models.standardizer import CommandStandardizer, Standardizer, state_names

COVERAGE = 0.9
"""Of the interval of `Outcome`."""

LEAST_VALIDATION = 19
"""Episodes of validation that a 90% interval needs: floor(0.9 * 20) of them lie inside."""

_CHECKS = 20  # times that the validation loss is looked at
_LEARNING_RATE = 3e-3


class Rollout(Protocol):
    """What is read of an episode: `flowshield.data.Episode` has it."""

    @property
    def states(self) -> NDArray[np.float32]:
        """States in which the actions were taken [T, state_dim]."""

    @property
    def rewards(self) -> NDArray[np.float64]:
        """Rewards [T]."""


class OutcomeRows(NamedTuple):
    """Steps of rollouts of one policy, each a row.

    Attributes:
        states: [n, state_dim], raw.
        commands: What was left of the command at that step [n, 2], steps and raw return.
        returns: Return still to come, with this step's reward [n], raw.
        steps: Steps still to come, with this one [n].
        failed: Whether the episode ended in failure, bool [n].
        episodes: Which episode the row is of [n], int64.
    """

    states: Tensor
    commands: Tensor
    returns: Tensor
    steps: Tensor
    failed: Tensor
    episodes: Tensor


class Law(NamedTuple):
    """What each member of the ensemble predicts.

    Attributes:
        returns: Quantiles of the return to come [members, batch, m, levels], raw, rising, at the
            levels (i + 1/2) / levels.
        steps: The same of the steps to come.
        failure: Probability of failure [members, batch, m]; NaN where none is known.
    """

    returns: Tensor
    steps: Tensor
    failure: Tensor


class Outcome(NamedTuple):
    """A prediction for a person, each [batch, m], or [batch] for one command per state.

    Attributes:
        mean: Of the return to come, raw.
        spread: Deviation of the members' means: how little is known, not how much returns vary.
        low: Lower end of the conformal 90% interval of the return to come.
        high: Its upper end.
        steps: Mean steps to come.
        failure: Probability of failure; NaN where the environment knows none.
    """

    mean: Tensor
    spread: Tensor
    low: Tensor
    high: Tensor
    steps: Tensor
    failure: Tensor


class OutcomeModel(nn.Module):
    """An ensemble of networks with quantile heads for return and steps, and one for failure.

    Members differ by their first weights and by a bootstrap over episodes (Lakshminarayanan et al.
    2017, arXiv 1612.01474; Osband et al. 2016, arXiv 1602.04621): where they disagree, the data say
    little. Half of the rows of a batch are starts, where commands are given and all is still open.
    Each is trained with the pinball loss of all quantiles (Koenker & Bassett 1978; Dabney
    et al. 2018, arXiv 1710.10044, eq. 9) and the cross entropy of failure. The 90% interval is made
    to hold by conformalised quantile regression (Romano et al. 2019, arXiv 1905.03222, eq. 8) on
    the start of each validation episode: what a request gets is asked there first.

    Everything public is in raw units; the standardizers are buffers of the model.

    Args:
        state_dim: Size of a state.
        n_members: Networks.
        hidden_dim: Width of the hidden layers.
        n_layers: Number of hidden layers, at least 1.
        n_levels: Quantiles of return and of steps.
        knows_failure: Whether the environment tells failure.
        policy_checksum: See `weights_checksum`; None = the policy has none.

    Attributes:
        margin: What the interval is widened by on either side, in standardized returns.
    """

    margin: Tensor
    levels: Tensor

    def __init__(
        self,
        state_dim: int,
        *,
        n_members: int = 5,
        hidden_dim: int = 64,
        n_layers: int = 2,
        n_levels: int = 16,
        knows_failure: bool = True,
        policy_checksum: str | None = None,
    ) -> None:
        super().__init__()
        self.hyperparameters: dict[str, Any] = {
            "state_dim": state_dim,
            "n_members": n_members,
            "hidden_dim": hidden_dim,
            "n_layers": n_layers,
            "n_levels": n_levels,
            "knows_failure": knows_failure,
            "policy_checksum": policy_checksum,
        }
        self.state_dim, self.n_members, self.n_levels = state_dim, n_members, n_levels
        self.knows_failure, self.policy_checksum = knows_failure, policy_checksum
        self.state_standardizer = Standardizer(state_dim)
        self.command_standardizer = CommandStandardizer()
        self.return_standardizer, self.step_standardizer = Standardizer(1), Standardizer(1)
        sizes = [state_dim + 2, *[hidden_dim] * n_layers, 2 * n_levels + 1]
        shapes = list(zip(sizes[:-1], sizes[1:], strict=True))
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(n_members, *s)) for s in shapes)
        self.biases = nn.ParameterList(
            nn.Parameter(torch.empty(n_members, 1, s[1])) for s in shapes
        )
        self.register_buffer("margin", torch.zeros(()))
        self.register_buffer("levels", (torch.arange(n_levels) + 0.5) / n_levels, persistent=False)
        self._start(0)

    def fit(
        self,
        rows: OutcomeRows,
        validation: OutcomeRows,
        *,
        n_steps: int = 1000,
        batch_size: int = 256,
        seed: int = 0,
    ) -> Self:
        """Fits all members, keeps the best of several moments, and makes the interval hold.

        Args:
            rows: What is learnt from.
            validation: Episodes that choose the moment and set the interval's margin.
            n_steps: Steps of the optimizer.
            batch_size: Rows of a step, for each member its own.
            seed: Of first weights, bootstrap and batches; torch's own generator is not touched.

        Returns:
            The model.

        Raises:
            DataError: There are no rows, some are not finite, or there are too few episodes.
            ShapeError: The rows have another shape than said.
        """
        for name, given, least in (
            ("rows", rows, 2),
            ("validation", validation, LEAST_VALIDATION),
        ):
            _check(name, given, self.state_dim, least)
        self._fit_standardizers(rows)
        self._start(seed)
        generator = torch.Generator().manual_seed(seed)
        pools = [_bootstrap(rows.episodes, generator) for _ in range(self.n_members)]
        is_start = _is_start(rows.episodes)
        at_start = [pool[is_start[pool]] for pool in pools]
        inputs, targets = self._inputs(rows.states, rows.commands), self._targets(rows)
        held = [
            (self._inputs(part.states, part.commands), self._targets(part))
            for part in (validation, _starts(validation))
        ]
        adam = torch.optim.AdamW(self.parameters(), lr=_LEARNING_RATE, weight_decay=1e-3)
        rate = torch.optim.lr_scheduler.OneCycleLR(adam, _LEARNING_RATE, total_steps=n_steps)
        best, kept = math.inf, self.state_dict()
        for step in range(1, n_steps + 1):
            anywhere = _drawn(pools, batch_size - batch_size // 2, generator)
            picked = torch.cat([anywhere, _drawn(at_start, batch_size // 2, generator)], dim=1)
            loss = self._loss(inputs[picked], targets[picked])
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            rate.step()
            if step % max(1, n_steps // _CHECKS) == 0 or step == n_steps:
                with torch.no_grad():
                    now = sum(
                        float(self._loss(x.expand(self.n_members, -1, -1), y)) for x, y in held
                    )
                if now < best:
                    best, kept = now, {k: v.clone() for k, v in self.state_dict().items()}
        self.load_state_dict(kept)
        self._conformalize(validation)
        return self.eval()

    @torch.no_grad()
    def law(self, state: Tensor, commands: Tensor) -> Law:
        """What each member predicts of several commands at each state.

        Args:
            state: [batch, state_dim], raw.
            commands: [batch, m, 2], steps and raw return.

        Raises:
            ShapeError: A shape is wrong.
        """
        if state.shape[1:] != (self.state_dim,) or commands.shape != (
            len(state),
            *commands.shape[1:2],
            2,
        ):
            raise ShapeError(
                f"expected states [batch, {self.state_dim}] and commands [batch, m, 2], got "
                f"{list(state.shape)} and {list(commands.shape)}"
            )
        batch, m = commands.shape[:2]
        s = self.state_standardizer(state).unsqueeze(1).expand(-1, m, -1)
        x = torch.cat([s, self.command_standardizer(commands)], dim=2).flatten(0, 1)
        returns, steps, logit = self._outputs(x.expand(self.n_members, -1, -1))
        shape = (self.n_members, batch, m)
        failure = torch.sigmoid(logit) if self.knows_failure else torch.full_like(logit, math.nan)
        return Law(
            self._raw(self.return_standardizer, returns).view(*shape, self.n_levels),
            self._raw(self.step_standardizer, steps).view(*shape, self.n_levels),
            failure.view(shape),
        )

    def predict(self, state: Tensor, command: Tensor) -> Outcome:
        """What the policy gets under commands at states.

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], or several per state [batch, m, 2]; steps and raw return.

        Raises:
            ShapeError: A shape is wrong.
        """
        if command.ndim == 2:
            each = self.predict(state, command.unsqueeze(1))
            return Outcome(*(value.squeeze(1) for value in each))
        law = self.law(state, command)
        means = law.returns.mean(dim=3)
        low, high = self._interval(self.return_standardizer(law.returns.unsqueeze(-1)).squeeze(-1))
        ends = [self._raw(self.return_standardizer, end) for end in (low, high)]
        return Outcome(
            mean=means.mean(dim=0),
            spread=means.std(dim=0, correction=min(1, self.n_members - 1)),
            low=ends[0],
            high=ends[1],
            steps=law.steps.mean(dim=(0, 3)),
            failure=law.failure.mean(dim=0),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes settings, weights and standardizers to one file."""
        payload = {"hyperparameters": self.hyperparameters, "state_dict": self.state_dict()}
        save_payload(path, "outcome", payload)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Self:
        """Reads a model that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            FileFormatError: The file is not an outcome model of a known version, or its settings
                or weights are those of another release.
        """
        payload = load_payload(path, "outcome", device=device)
        with rebuilding(path, "outcome"):
            model = rebuilt(cls, payload["hyperparameters"], payload["state_dict"]).eval()
        return model.to(device)

    def _start(self, seed: int) -> None:
        """Draws the first weights: uniform, as torch's own layers start."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight, bias in zip(self.weights, self.biases, strict=True):
                bound = 1.0 / math.sqrt(weight.shape[1])
                weight.uniform_(-bound, bound, generator=generator)
                bias.uniform_(-bound, bound, generator=generator)
            for part in self.biases[-1].split([self.n_levels, self.n_levels, 1], dim=2)[:2]:
                part[..., 1:] -= 3.0  # grids start out about one unit wide

    def _fit_standardizers(self, rows: OutcomeRows) -> None:
        self.state_standardizer.fit(rows.states, state_names(self.state_dim))
        self.command_standardizer.fit(rows.commands)
        self.return_standardizer.fit(rows.returns.unsqueeze(1), ["returns to come"])
        self.step_standardizer.fit(rows.steps.unsqueeze(1), ["steps to come"])

    def _inputs(self, states: Tensor, commands: Tensor) -> Tensor:
        """Standardized [n, state_dim + 2]."""
        s, g = self.state_standardizer(states), self.command_standardizer(commands)
        return torch.cat([s, g], dim=1).float()

    def _targets(self, rows: OutcomeRows) -> Tensor:
        """Standardized return and steps, and failure as 0 or 1, [n, 3]."""
        ret = self.return_standardizer(rows.returns.unsqueeze(1))
        steps = self.step_standardizer(rows.steps.unsqueeze(1))
        return torch.cat([ret, steps, rows.failed.unsqueeze(1)], dim=1).float()

    def _outputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Standardized quantiles [members, n, levels] of return and steps, and logits [members, n].

        Args:
            x: Inputs [members, n, state_dim + 2].
        """
        last = len(self.weights) - 1
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if number < last:
                x = nn.functional.silu(x)
        n = self.n_levels
        return _rising(x[..., :n]), _rising(x[..., n : 2 * n]), x[..., 2 * n]

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Pinball loss of both grids and cross entropy of failure, a scalar."""
        returns, steps, logit = self._outputs(inputs)
        loss = self._pinball(returns, targets[..., :1]) + self._pinball(steps, targets[..., 1:2])
        if self.knows_failure:
            failed = targets[..., 2].expand_as(logit)
            loss = loss + nn.functional.binary_cross_entropy_with_logits(logit, failed)
        return loss

    def _pinball(self, quantiles: Tensor, y: Tensor) -> Tensor:
        error = y - quantiles
        return torch.maximum(self.levels * error, (self.levels - 1) * error).mean()

    def _interval(self, returns: Tensor) -> tuple[Tensor, Tensor]:
        """Ends of the interval, from standardized quantiles [members, ..., levels]."""
        grid = returns.mean(dim=0)
        tail = (1.0 - COVERAGE) / 2
        low, high = (_at_level(grid, level) for level in (tail, 1.0 - tail))
        return low - self.margin, high + self.margin

    @torch.no_grad()
    def _conformalize(self, rows: OutcomeRows) -> None:
        """Sets the margin from the first row of each episode, its start."""
        starts = _starts(rows)
        self.margin.zero_()
        inputs = self._inputs(starts.states, starts.commands)
        low, high = self._interval(self._outputs(inputs.expand(self.n_members, -1, -1))[0])
        y = self._targets(starts)[:, 0]
        beyond = torch.maximum(low - y, y - high).sort().values
        rank = math.ceil(COVERAGE * (len(y) + 1))
        self.margin.copy_(beyond[rank - 1])

    @staticmethod
    def _raw(standardizer: Standardizer, values: Tensor) -> Tensor:
        return standardizer.inverse(values.unsqueeze(-1)).squeeze(-1)


def outcome_rows(
    episodes: Sequence[Rollout],
    commands: Sequence[tuple[float, float]],
    failed: Sequence[bool],
    *,
    n_rows: int = 10,
    seed: int = 0,
) -> OutcomeRows:
    """Takes steps of rollouts: the first of each and others at random.

    Args:
        episodes: Of one policy.
        commands: What each was asked for at its start, (steps, raw return).
        failed: Whether each ended in failure.
        n_rows: Most steps per episode.
        seed: Of the choice.

    Raises:
        DataError: There is no episode.
        ShapeError: There are not as many commands and failures as episodes.
    """
    if not len(episodes) == len(commands) == len(failed):
        raise ShapeError(
            f"expected a command and a failure for each of {len(episodes)} episodes, got "
            f"{len(commands)} and {len(failed)}"
        )
    if not episodes:
        raise DataError("expected at least one episode, got none: roll the policy out first")
    rng = np.random.default_rng(seed)
    parts: list[list[Any]] = []
    for number, (episode, (horizon, asked)) in enumerate(zip(episodes, commands, strict=True)):
        length = len(episode.rewards)
        others = rng.permutation(np.arange(1, length))[: n_rows - 1]
        at = np.sort(np.append(0, others))
        gained = np.append(0.0, np.cumsum(episode.rewards))
        left = [np.maximum(horizon - at, 1.0), asked - gained[at]]
        count = np.full(len(at), number)
        parts.append(
            [episode.states[at], np.stack(left, axis=1), gained[-1] - gained[at], length - at,
             np.full(len(at), failed[number]), count]
        )  # fmt: skip
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    states, asked_of, returns, steps, failures, owners = map(torch.from_numpy, columns)
    return OutcomeRows(
        states.float(), asked_of.float(), returns.float(), steps.float(), failures, owners
    )


def weights_checksum(policy: object) -> str | None:
    """SHA-256 of all weights and buffers of a module, by name; None where there are none."""
    if not isinstance(policy, nn.Module):
        return None
    digest = hashlib.sha256()
    for name, value in policy.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().tobytes())  # numpy has no bfloat16
    return digest.hexdigest()


def _check(name: str, rows: OutcomeRows, state_dim: int, least: int) -> None:
    n = len(rows.episodes)
    shapes = [list(column.shape) for column in rows]
    if shapes != [[n, state_dim], [n, 2], [n], [n], [n], [n]]:
        raise ShapeError(
            f"{name}: expected states [n, {state_dim}], commands [n, 2] and four columns [n], got "
            f"{shapes}"
        )
    bad = sum(int((~column.isfinite()).sum()) for column in rows[:4])
    if bad:
        raise DataError(f"{name}: expected finite numbers, got {bad} that are not")
    found = len(rows.episodes.unique())  # type: ignore[no-untyped-call]
    if found < least:
        raise DataError(
            f"{name}: expected at least {least} episodes, got {found}: probe more episodes"
        )


def _bootstrap(episodes: Tensor, generator: torch.Generator) -> Tensor:
    """Rows of as many episodes as there are, drawn with replacement."""
    names = episodes.unique()  # type: ignore[no-untyped-call]
    drawn = names[torch.randint(len(names), (len(names),), generator=generator)]
    return torch.cat([(episodes == name).nonzero().squeeze(1) for name in drawn])


def _drawn(pools: Sequence[Tensor], size: int, generator: torch.Generator) -> Tensor:
    """Rows drawn evenly from each pool [pools, size]."""
    return torch.stack(
        [pool[torch.randint(len(pool), (size,), generator=generator)] for pool in pools]
    )


def _is_start(episodes: Tensor) -> Tensor:
    """Whether a row is the first of its episode, bool [n]."""
    first = np.unique(episodes.numpy(), return_index=True)[1]
    there = torch.zeros(len(episodes), dtype=torch.bool)
    there[torch.from_numpy(first)] = True
    return there


def _starts(rows: OutcomeRows) -> OutcomeRows:
    """The first row of each episode."""
    at = _is_start(rows.episodes)
    return OutcomeRows(*(column[at] for column in rows))


def _rising(raw: Tensor) -> Tensor:
    """Rising numbers [..., levels] about the first of the network's."""
    steps = nn.functional.softplus(raw[..., 1:])
    rise = torch.cat([torch.zeros_like(raw[..., :1]), steps.cumsum(dim=-1)], dim=-1)
    middle = rise[..., raw.shape[-1] // 2 : raw.shape[-1] // 2 + 1]
    return raw[..., :1] + rise - middle


def _at_level(grid: Tensor, level: float) -> Tensor:
    """The quantile at a level, between those of a grid at (i + 1/2) / levels; its ends beyond."""
    n = grid.shape[-1]
    place = min(max(level * n - 0.5, 0.0), n - 1.0)
    below = min(math.floor(place), n - 2)
    share = place - below
    return (1.0 - share) * grid[..., below] + share * grid[..., below + 1]
