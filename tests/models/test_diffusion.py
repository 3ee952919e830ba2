import math

import pytest
import torch
from torch import nn

from flowshield.errors import ConfigError
from flowshield.models import DiffusionShield
from flowshield.models.shields.continuous import on_circle
from flowshield.models.shields.diffusion import _split, cumulative_signal
from flowshield.models.shields.field import StateContext
from flowshield.models.shields.gaussianization import degaussianize

SCHEDULES = ("linear", "cosine", "quadratic")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("n_timesteps", [100, 1000])
def test_the_signal_falls_from_near_1_to_near_0(schedule, n_timesteps):
    signal = cumulative_signal(schedule, n_timesteps)
    assert signal.shape == (n_timesteps,) and signal.dtype == torch.float64
    assert bool((signal.diff() < 0).all()) and float(signal.min()) > 0
    assert 0.99 < float(signal[0]) < 1
    assert float(signal[-1]) < 2e-3  # unscaled betas would leave 0.37 after 100 steps


def test_the_linear_schedule_is_that_of_ho_et_al():
    beta = [1e-4 + (0.02 - 1e-4) * k / 999 for k in range(1000)]
    expected = math.exp(sum(math.log1p(-b) for b in beta))
    assert float(cumulative_signal("linear", 1000)[-1]) == pytest.approx(expected, rel=1e-9)
    assert expected == pytest.approx(4.04e-5, rel=1e-2)


def test_the_cosine_schedule_follows_its_curve():
    signal = cumulative_signal("cosine", 1000)

    def curve(t):
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    for k in (1, 250, 500, 900):
        assert float(signal[k - 1]) == pytest.approx(curve(k / 1000) / curve(0), rel=1e-6)


def test_the_quadratic_schedule_has_betas_with_a_linear_root():
    signal = cumulative_signal("quadratic", 1000)
    beta = 1 - signal / torch.cat([torch.ones(1).double(), signal[:-1]])
    steps = beta.sqrt().diff()
    torch.testing.assert_close(steps, steps.mean().expand(999), rtol=1e-6, atol=0)
    assert float(beta[0]) == pytest.approx(1e-4) and float(beta[-1]) == pytest.approx(0.02)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_fewer_steps_are_the_same_schedule_coarser(schedule):
    fine, coarse = cumulative_signal(schedule, 1000), cumulative_signal(schedule, 100)
    middle = (fine[9::10] > 0.02) & (fine[9::10] < 0.98)
    torch.testing.assert_close(coarse[middle], fine[9::10][middle], rtol=0.15, atol=0)


@pytest.mark.parametrize(("n_timesteps", "n_steps"), [(1000, 50), (10, 10), (10, 3), (10, 1)])
def test_no_noise_is_left_in_a_sample(n_timesteps, n_steps):
    clean = torch.tensor([0.5, -1.5])

    class Point(nn.Module):
        """What a perfect network would say where every command is the same."""

        def encode(self, s):
            gaussian = torch.zeros(len(s), 6)  # one component, scales softplus(0) + least
            return StateContext(torch.zeros(len(s), 1), gaussian)

        def time_bias(self, angle):
            return angle.view(-1, 1)

        def forward(self, y, angle):
            noise = (y - angle.sin() * clean) / angle.cos()
            return angle.cos() * clean - angle.sin() * noise

    shield = DiffusionShield(2, hidden_dim=4, field_dim=4, n_layers=1, n_timesteps=n_timesteps)
    shield.field = Point()
    torch.manual_seed(0)
    samples = shield.sample(torch.zeros(1, 2), 200, n_steps=n_steps)
    mixture = shield._components(shield.field.encode(torch.zeros(1, 2)))
    expected = degaussianize(mixture, clean.view(1, 1, 2))
    torch.testing.assert_close(samples, expected.expand(1, 200, 2), rtol=0, atol=1e-3)


def test_an_unknown_schedule_lists_the_near_ones():
    with pytest.raises(ConfigError, match="unknown beta_schedule 'cosin': did you mean 'cosine'"):
        DiffusionShield(2, beta_schedule="cosin")


def test_split_inverts_the_circle():
    clean, noise = torch.randn(2, 40, 2, dtype=torch.float64).unbind()
    angle = torch.linspace(0, math.pi / 2, 40, dtype=torch.float64).unsqueeze(1)
    found = _split(*on_circle(noise, clean, angle), angle)
    torch.testing.assert_close(found[0], clean)
    torch.testing.assert_close(found[1], noise)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_angles_are_the_schedules(schedule):
    shield = DiffusionShield(2, hidden_dim=4, field_dim=4, n_layers=1, beta_schedule=schedule)
    signal = torch.sin(shield.angles.double()) ** 2
    torch.testing.assert_close(signal, cumulative_signal(schedule, 1000), rtol=1e-4, atol=1e-7)
    drawn = shield._sample_angles(5000, torch.device("cpu"))
    assert set(drawn.tolist()) <= set(shield.angles.tolist())
    assert len(set(drawn.tolist())) > 900  # every step of the schedule, not only some
