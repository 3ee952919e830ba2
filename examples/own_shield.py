"""A shield of one's own, through the whole pipeline: python examples/own_shield.py."""

import sys

import torch
from torch import nn
from torch.distributions import Independent, Normal

from flowshield.cli import main
from flowshield.models import BaseShield
from flowshield.training import register_shield


class GaussianShield(BaseShield):
    """One Gaussian for p(g | s), H and R independent given the state."""

    shield_type = "gaussian"

    def __init__(self, state_dim, command_dim=2, *, hidden_dim=64, **noise):
        super().__init__(state_dim, command_dim, hidden_dim=hidden_dim, **noise)
        self.net = nn.Sequential(
            nn.Linear(state_dim, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, 4)
        )

    def law(self, state):
        """p(g | s), in raw units: steps and raw return."""
        mean, log_std = self.net(self.state_standardizer(state)).chunk(2, dim=1)
        unit = self.command_standardizer
        return Independent(Normal(unit.mean + unit.std * mean, unit.std * log_std.exp()), 1)

    def log_prob(self, state, command, n_steps=None):
        return self.law(state).log_prob(command)

    def compute_loss(self, state, command):
        return -self.log_prob(state, self.dequantize(command)).mean()

    def sample_with_log_prob(self, state, n_samples, generator=None):
        law = self.law(state).base_dist
        noise = torch.randn(n_samples, 1, 2, generator=generator, device=state.device)
        commands = law.mean + law.stddev * noise
        return commands.transpose(0, 1), Independent(law, 1).log_prob(commands).T


register_shield(GaussianShield, {"learning_rate": 2e-3, "hidden_dim": 64})

if __name__ == "__main__":
    sys.exit(main(["run", "shield=[gaussian,mixture]", "profile=quick", *sys.argv[1:]]))
