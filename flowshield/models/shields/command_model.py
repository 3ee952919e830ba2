"""The model of p(g | s) under every shield: density, samples, achievability."""

__all__ = ["CommandModel"]

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowshield.errors import ConfigError
from flowshield.models.checks import check_batch
from flowshield.models.scale import ReturnScale
from flowshield.models.shields.achievability import log_achievability_by_samples
from flowshield.models.shields.gaussian_mixture import least_scale
from flowshield.models.standardizer import CommandStandardizer, Standardizer, state_names

_SEED = 0  # of common noise: the same question gets the same answer
_MOST_SAMPLES = 2**16  # drawn at a time


class CommandModel(nn.Module, ABC):
    """p(g | s), the commands g = (H, R) that the data's behaviour fulfilled from s.

    Everything public takes and returns raw units: H in steps, R in raw reward. Horizons are whole
    numbers and late states nearly fix the return, so that a density could run to infinity. It is
    therefore the density of (H + U(-1/2, 1/2) * horizon_noise, R + N(0, 1) * return_noise).

    Args:
        state_dim: Size of a state.
        command_dim: Size of a command: 2.
        horizon_noise: Width of the uniform noise on horizons, steps.
        return_noise: Standard deviation of the Gaussian noise on returns, raw reward; None =
            derived from the data by `fit_standardizers` (`ReturnScale.noise`), and 1 before that.
        hyperparameters: Further arguments of the subclass's constructor.

    Attributes:
        least_scale: Deviations that H and R never fall short of, for the noise, raw [2].
        achievability_samples: Samples a state of an achievability that is not in closed form.
    """

    achievability_samples: ClassVar[int] = 256
    least_scale: Tensor

    def __init__(
        self,
        state_dim: int,
        command_dim: int = 2,
        *,
        horizon_noise: float = 1.0,
        return_noise: float | None = None,
        **hyperparameters: Any,
    ) -> None:
        if command_dim != 2:
            raise ConfigError(f"a command is (horizon, return): command_dim=2, got {command_dim}")
        super().__init__()
        self.hyperparameters: dict[str, Any] = {
            "state_dim": state_dim,
            "command_dim": command_dim,
            "horizon_noise": horizon_noise,
            "return_noise": return_noise,
            **hyperparameters,
        }
        self.state_dim, self.command_dim = state_dim, command_dim
        self.horizon_noise = horizon_noise
        self.return_noise = 1.0 if return_noise is None else return_noise
        self.state_standardizer = Standardizer(state_dim)
        self.command_standardizer = CommandStandardizer()
        least = least_scale(self.horizon_noise, self.return_noise)
        self.register_buffer("least_scale", least, persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the shield lies."""
        return self.command_standardizer.mean.device

    @abstractmethod
    def compute_loss(self, state: Tensor, command: Tensor) -> Tensor:
        """The training loss of a batch, a scalar.

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], steps and raw return.
        """

    @abstractmethod
    def log_prob(self, state: Tensor, command: Tensor, n_steps: int | None = None) -> Tensor:
        """log p(g | s), [batch], nats per (step x raw return).

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], steps and raw return.
            n_steps: Solver steps, where there is a solver; None = as configured.
        """

    @abstractmethod
    def sample_with_log_prob(
        self, state: Tensor, n_samples: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draws commands and their log-densities in one go.

        Args:
            state: [batch, state_dim], raw.
            n_samples: Commands a state.
            generator: Source of the noise; one that is seeded gives every state the same noise.

        Returns:
            (commands [batch, n_samples, 2] raw, log-densities [batch, n_samples] raw nats).
        """

    @torch.no_grad()
    def sample(self, state: Tensor, n_samples: int = 1, n_steps: int | None = None) -> Tensor:
        """Draws commands from p(g | s).

        Args:
            state: [batch, state_dim], raw.
            n_samples: Commands a state.
            n_steps: Solver steps, where there is a solver; None = as configured.

        Returns:
            Commands [batch, n_samples, 2], steps and raw return.
        """
        return self.sample_with_log_prob(state, n_samples)[0]

    def fit_standardizers(self, states: Tensor, commands: Tensor) -> None:
        """Takes the statistics of the raw training data [n, state_dim], [n, 2].

        Warns:
            DataWarning: See `Standardizer.fit`.
        """
        self.state_standardizer.fit(states, state_names(self.state_dim))
        self.command_standardizer.fit(commands)
        if self.hyperparameters["return_noise"] is None:
            # with it, a file or a checkpoint says what was derived
            noise = ReturnScale.of_commands(commands.cpu().numpy()).noise
            self.return_noise = self.hyperparameters["return_noise"] = noise
            self.least_scale.copy_(least_scale(self.horizon_noise, noise))

    def dequantize(self, command: Tensor) -> Tensor:
        """Adds the noise that makes commands [batch, 2] continuous (see the class).

        The uniform noise is centred, so that the density of a whole horizon is read at that
        horizon itself. A return follows its horizon where the standardizer says how.
        """
        unit = self.command_standardizer
        rest = unit.shear(command)
        horizon, ret = rest[:, :1], rest[:, 1:]
        horizon = horizon + self.horizon_noise * (torch.rand_like(horizon) - 0.5)
        ret = ret + self.return_noise * torch.randn_like(ret)
        return unit.unshear(torch.cat([horizon, ret], dim=1))

    def validation_loss(self, state: Tensor, command: Tensor) -> Tensor:
        """Negative log-likelihood of held-out commands, a scalar, raw nats.

        One measure for every type, so that shields and epochs can be compared.
        """
        return -self.log_prob(state, self.dequantize(command)).mean()

    def log_probs(self, state: Tensor, commands: Tensor) -> Tensor:
        """`log_prob` of several commands at each state, [batch, m].

        For a subclass whose work on the state alone can be shared by its commands to override.

        Args:
            state: [batch, state_dim], raw.
            commands: [batch, m, 2], steps and raw return.
        """
        m = commands.shape[1]
        flat = self.log_prob(state.repeat_interleave(m, dim=0), commands.flatten(0, 1))
        return flat.view(len(state), m)

    @torch.no_grad()
    def log_achievabilities(self, state: Tensor, commands: Tensor) -> Tensor:
        """log P(R' >= R, H' <= H | s) of several requests at each state, [batch, m], nats.

        By samples here, the same noise for every state; a subclass that knows it in closed form
        overrides this. H' is a whole number that the density is spread over a step about: "H
        steps at the latest" therefore ends at H + horizon_noise / 2. R' carries return_noise.

        Args:
            state: [batch, state_dim], raw.
            commands: Requests [batch, m, 2], steps and raw return.
        """
        n = self.achievability_samples
        latest = commands.double() + commands.new_tensor([self.horizon_noise / 2, 0.0]).double()
        rows = max(1, _MOST_SAMPLES // n)
        parts = [
            log_achievability_by_samples(
                self.common_samples(state[i : i + rows], n)[0],
                latest[i : i + rows],
                self.command_standardizer,
            )
            for i in range(0, len(state), rows)
        ]
        return torch.cat(parts) if parts else latest.new_empty(commands.shape[:2])

    def common_samples(self, state: Tensor, n_samples: int) -> tuple[Tensor, Tensor]:
        """Like `sample_with_log_prob`, from the same noise for every state and at every call."""
        generator = torch.Generator(device=state.device).manual_seed(_SEED)
        return self.sample_with_log_prob(state, n_samples, generator)

    def common_commands(self, state: Tensor, n_samples: int) -> Tensor:
        """The commands of `common_samples` alone [batch, n_samples, 2], to rounding."""
        return self.common_samples(state, n_samples)[0]

    def achievability(self, state: Tensor, command: Tensor) -> Tensor:
        """P(R' >= R, H' <= H | s): how likely the behaviour reaches the request or better, [batch].

        It falls in R and rises in H. That tells it from the density: a modest request is rare
        among what the behaviour did, and yet likely to be met.

        Args:
            state: [batch, state_dim], raw.
            command: Requests [batch, 2], steps and raw return.
        """
        check_batch(state=(state, self.state_dim), command=(command, self.command_dim))
        return self.log_achievabilities(state, command.unsqueeze(1)).squeeze(1).exp()
