"""What every shield can do: score, sample, calibrate, decide, project, save and load."""

__all__ = ["BaseShield"]

import os
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowshield.errors import ConfigError, FileFormatError, NotCalibratedError, unknown_name
from flowshield.models.checks import check_batch, check_finite
from flowshield.models.networks import Standardizer
from flowshield.models.serialization import load_payload, save_payload
from flowshield.models.shields.calibration import conformal_threshold
from flowshield.models.shields.projection import Projection, ProjectionSettings, nearest_supported


class BaseShield(nn.Module, ABC):
    """A model of p(g | s), the commands g = (H, R) that the data's behaviour fulfilled from s.

    It answers question A of three that are not to be mixed: whether a command is *supported by the
    data*; not whether some policy could achieve it, nor whether a given policy follows it.

    Everything public takes and returns raw units: H in steps, R in raw reward. Horizons are whole
    numbers and late states nearly fix the return, so that a density could run to infinity. It is
    therefore the density of (H + U(-1/2, 1/2) * horizon_noise, R + N(0, 1) * return_noise).

    A subclass sets `shield_type`, passes its constructor's arguments up as `hyperparameters`, and
    writes `compute_loss`, `log_prob` and `sample_with_log_prob`.

    Args:
        state_dim: Size of a state.
        command_dim: Size of a command: 2.
        horizon_noise: Width of the uniform noise on horizons, steps.
        return_noise: Standard deviation of the Gaussian noise on returns, raw reward.
        hyperparameters: Further arguments of the subclass's constructor.
    """

    shield_type: ClassVar[str] = ""
    _types: ClassVar[dict[str, type["BaseShield"]]] = {}
    calibration_scores: Tensor
    threshold: Tensor
    alpha: Tensor

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Makes the subclass known by its `shield_type`, for `BaseShield.load`."""
        super().__init_subclass__(**kwargs)
        if cls.shield_type:
            BaseShield._types[cls.shield_type] = cls

    def __init__(
        self,
        state_dim: int,
        command_dim: int = 2,
        *,
        horizon_noise: float = 1.0,
        return_noise: float = 1.0,
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
        self.horizon_noise, self.return_noise = horizon_noise, return_noise
        self.projection = ProjectionSettings()
        self.state_standardizer = Standardizer(state_dim)
        self.command_standardizer = Standardizer(command_dim)
        self.register_buffer("calibration_scores", torch.empty(0, dtype=torch.float64))
        self.register_buffer("threshold", torch.tensor(float("nan"), dtype=torch.float64))
        self.register_buffer("alpha", torch.tensor(float("nan"), dtype=torch.float64))

    # ------------------------------------------------------------------ the model of p(g | s)

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
        """Takes the statistics of the raw training data [n, state_dim], [n, 2]."""
        self.state_standardizer.fit(states)
        self.command_standardizer.fit(commands)

    def dequantize(self, command: Tensor) -> Tensor:
        """Adds the noise that makes commands [batch, 2] continuous (see the class).

        The uniform noise is centred, so that the density of a whole horizon is read at that
        horizon itself.
        """
        horizon, ret = command[:, :1], command[:, 1:]
        horizon = horizon + self.horizon_noise * (torch.rand_like(horizon) - 0.5)
        return torch.cat([horizon, ret + self.return_noise * torch.randn_like(ret)], dim=1)

    def validation_loss(self, state: Tensor, command: Tensor) -> Tensor:
        """Negative log-likelihood of held-out commands, a scalar, raw nats.

        One measure for every type, so that shields and epochs can be compared.
        """
        return -self.log_prob(state, self.dequantize(command)).mean()

    # ------------------------------------------------------------------ verdicts

    @torch.no_grad()
    def score(self, state: Tensor, command: Tensor) -> Tensor:
        """How well supported, [batch]: log p(g | s), and -inf where it cannot be computed.

        A verdict must fail closed: what cannot be computed is not supported.
        """
        value = self.log_prob(state, command)
        return torch.where(torch.isfinite(value), value, -torch.inf)

    @torch.no_grad()
    def calibrate(self, states: Tensor, commands: Tensor, alpha: float = 0.05) -> float:
        """Sets the threshold that flags at most a share `alpha` of what the data support.

        The promise holds for a new pair that is exchangeable with the given ones. Steps of one
        episode are not: give one random step of each held-out episode.

        Args:
            states: [n, state_dim], raw, from episodes that trained and selected nothing.
            commands: [n, 2], the commands that were fulfilled there.
            alpha: The false-alarm rate, in (0, 1).

        Returns:
            The threshold on `score`.

        Raises:
            DataError: Too few pairs for alpha (the message says how many are needed), or NaN.
            ShapeError: A shape is wrong.
        """
        check_batch(state=(states, self.state_dim), command=(commands, self.command_dim))
        check_finite(states=states, commands=commands)
        scores = self.score(states, commands).double()
        threshold = conformal_threshold(scores, alpha)
        self.calibration_scores = scores.sort().values
        self.threshold.fill_(threshold)
        self.alpha.fill_(alpha)
        return threshold

    def threshold_at(self, alpha: float) -> float:
        """The threshold for another false-alarm rate, from the stored calibration scores."""
        self._require_calibration()
        return conformal_threshold(self.calibration_scores, alpha)

    def threshold_in_force(self, given: float | None = None) -> float:
        """The given threshold, or the calibrated one.

        Raises:
            NotCalibratedError: None was given and the shield was never calibrated.
        """
        if given is not None:
            return given
        self._require_calibration()
        return float(self.threshold)

    @torch.no_grad()
    def is_ood(self, state: Tensor, command: Tensor, threshold: float | None = None) -> Tensor:
        """Whether the data do not support a command at a state.

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], steps and raw return.
            threshold: Least log p(g | s) that counts as supported; None = the calibrated one.

        Returns:
            Bool [batch]; True also where the score cannot be computed.

        Raises:
            NotCalibratedError: No threshold was given and the shield was never calibrated.
            ShapeError: A shape is wrong.
        """
        check_batch(state=(state, self.state_dim), command=(command, self.command_dim))
        # not `score < threshold`: a threshold of NaN must not pass everything
        return ~(self.score(state, command) >= self.threshold_in_force(threshold))

    def project(
        self, state: Tensor, command: Tensor, n_steps: int | None = None, lr: float | None = None
    ) -> Tensor:
        """Replaces unsupported commands by the nearest supported ones found.

        Args:
            state: [batch, state_dim], raw.
            command: [batch, 2], steps and raw return.
            n_steps: Rounds of refinement towards the request; None = as configured.
            lr: Share of the remaining way that the first round explores; None = as configured.

        Returns:
            Commands [batch, 2]; supported requests come back unchanged.
        """
        return self.project_in_detail(state, command, n_steps, lr).command

    @torch.no_grad()
    def project_in_detail(
        self, state: Tensor, command: Tensor, n_steps: int | None = None, lr: float | None = None
    ) -> Projection:
        """Like `project`, with distance, score and verdict of each row."""
        check_batch(state=(state, self.state_dim), command=(command, self.command_dim))
        settings = self.projection.replace(n_steps=n_steps, lr=lr)
        return nearest_supported(self, state, command, self.threshold_in_force(), settings)

    # ------------------------------------------------------------------ files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes type, hyperparameters, weights, standardizers and calibration to one file."""
        save_payload(path, "shield", self.payload())

    def payload(self) -> dict[str, Any]:
        """The content of the shield's file."""
        return {
            "shield_type": self.shield_type,
            "hyperparameters": self.hyperparameters,
            "projection": self.projection._asdict(),
            "state_dict": self.state_dict(),
        }

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], device: str | torch.device = "cpu"
    ) -> "BaseShield":
        """Reads a shield of any type that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            FileFormatError: The file is not a shield of a known version, or not of this type.
        """
        payload = load_payload(path, "shield", device=device)
        shield = BaseShield.from_payload(payload).to(device)
        if not isinstance(shield, cls):
            raise FileFormatError(
                f"{path} holds a {shield.shield_type!r} shield, expected {cls.shield_type!r}"
            )
        return shield

    @staticmethod
    def from_payload(payload: dict[str, Any]) -> "BaseShield":
        """Rebuilds a shield from the content of its file."""
        shield = BaseShield.of_type(payload["shield_type"])(**payload["hyperparameters"])
        shield.projection = ProjectionSettings(**payload["projection"])
        # the only buffer whose size is not known from the hyperparameters
        shield.calibration_scores = payload["state_dict"]["calibration_scores"].clone()
        shield.load_state_dict(payload["state_dict"])
        return shield.eval()

    @staticmethod
    def of_type(shield_type: str) -> type["BaseShield"]:
        """The class of a shield type.

        Raises:
            ConfigError: The type is unknown; the message lists the known ones.
        """
        if shield_type not in BaseShield._types:
            raise unknown_name("shield", shield_type, BaseShield._types)
        return BaseShield._types[shield_type]

    # ------------------------------------------------------------------

    def _require_calibration(self) -> None:
        if len(self.calibration_scores) == 0:
            raise NotCalibratedError(
                f"the {self.shield_type} shield has no threshold yet: call "
                "calibrate(states, commands, alpha) on held-out episodes, or pass threshold="
            )
