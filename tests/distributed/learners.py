"""What the tests of training on Ray train: small, and able to fail on request."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from flowshield.data import TrajectoryDataset, TransitionTensors
from flowshield.training import FitSettings

SETTINGS = FitSettings(
    n_epochs=6, batch_size=64, learning_rate=0.03, seed=3, ema_decay=0.9, checkpoint_every=2
)
# Ray takes note of a checkpoint a little after it was written: there shall be epochs left by then
LONG = replace(SETTINGS, n_epochs=30, patience=30)


def make_rows(n_episodes, seed=0, commands="remaining"):
    """Actions are a linear function of states, and nothing else is to be learned."""
    random = np.random.default_rng(seed)
    states = random.normal(size=(n_episodes * 20, 3)).astype(np.float32)
    actions = states @ np.array([[1.0, 0.5], [-2.0, 0.0], [0.3, 1.0]], dtype=np.float32)
    ends = np.arange(len(states)) % 20 == 19
    data = TrajectoryDataset.from_arrays(states, actions, random.normal(size=len(states)), ends)
    return TransitionTensors(data, commands=commands)


class Learner(nn.Module):
    """Linear regression of actions on states and, weakly, commands; draws noise as shields do.

    A pause makes its training steps last so many seconds.
    """

    def __init__(self, pause=0.0):
        super().__init__()
        self.pause = pause
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.linear = nn.Linear(5, 2)
        self.hyperparameters = {"kind": "linear"}

    def compute_loss(self, states, actions, commands):
        if self.training:
            time.sleep(self.pause)
        states = states + 0.01 * torch.randn_like(states)
        inputs = torch.cat([states, 0.01 * commands], dim=1)
        return (self.linear(inputs) - actions).square().mean()

    def validation_loss(self, states, actions, commands):
        return self.compute_loss(states, actions, commands)


class Killed(Learner):
    """Ends its own process with SIGKILL at one of its steps, once."""

    def __init__(self, mark, step):
        super().__init__()
        self.mark, self.left = str(mark), step

    def compute_loss(self, *batch):
        if self.training:
            self.left -= 1
            if self.left == 0 and not Path(self.mark).exists():
                Path(self.mark).write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
        return super().compute_loss(*batch)


class Breaking(Learner):
    """Its training loss is NaN from the third epoch on."""

    def __init__(self, good_steps):
        super().__init__()
        self.left = good_steps

    def compute_loss(self, *batch):
        if self.training:
            self.left -= 1
        return super().compute_loss(*batch) * (float("nan") if self.left < 0 else 1.0)
