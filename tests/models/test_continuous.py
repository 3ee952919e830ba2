"""Laws of the flow and diffusion shields that hold for any weights."""

import math

import pytest
import torch
from torch import nn

from flowshield.errors import ConfigError, ShapeError
from flowshield.models import DiffusionShield, FlowMatchingShield
from flowshield.models.shields.continuous import on_circle
from flowshield.models.shields.field import StateContext
from flowshield.models.shields.gaussian_mixture import least_scale, log_density

TYPES = (FlowMatchingShield, DiffusionShield)
MEAN, VARIANCE = torch.tensor([0.4, -0.7]).double(), torch.tensor([0.3, 2.0]).double()
SCALE, SHEAR = torch.tensor([-0.3, 0.2]).double().exp(), 0.8
COMMAND_STD = torch.tensor([60.0, 110.0]).double()


class GaussianField(nn.Module):
    """What a perfect network would say where the whitened command is N(MEAN, VARIANCE).

    v = E[cos(angle) x_1 - sin(angle) x_0 | y], y = cos(angle) x_0 + sin(angle) x_1, by the
    conditional expectations of jointly Gaussian variables. The mixture has one component.
    """

    def encode(self, s):
        one = torch.ones_like(s[:, 0])
        scale = SCALE - least_scale(1.0, 1.0).double() / COMMAND_STD
        raw = scale.expm1().log()  # the inverse of softplus
        parts = [0 * one, 0.5 * one, s[:, 0], raw[0] * one, raw[1] * one, SCALE[1] * SHEAR * one]
        return StateContext(torch.zeros_like(s[:, :1]), torch.stack(parts, dim=1))

    def time_bias(self, angle):
        return angle.unsqueeze(-1)

    def forward(self, y, angle):
        signal, noise = angle.sin(), angle.cos()
        off = (y - signal * MEAN) / (signal**2 * VARIANCE + noise**2)
        return noise * (MEAN + signal * VARIANCE * off) - signal * noise * off

    def with_divergence(self, y, angle):
        signal, noise = angle.sin(), angle.cos()
        variance = signal**2 * VARIANCE + noise**2
        trace = (signal * noise * (VARIANCE - 1) / variance).sum(dim=1)
        return self(y, angle), trace


def standardized(shield):
    shield = shield.double().eval()
    shield.state_standardizer.mean.copy_(torch.tensor([1.0, -2.0]))
    shield.state_standardizer.std.copy_(torch.tensor([3.0, 0.5]))
    shield.command_standardizer.mean.copy_(torch.tensor([120.0, 50.0]))
    shield.command_standardizer.std.copy_(torch.tensor([60.0, 110.0]))
    return shield


def perfect(cls, **options):
    small = {"hidden_dim": 4, "field_dim": 4, "n_layers": 1, "n_components": 1}
    shield = standardized(cls(2, **small, **options))
    shield.field = GaussianField()
    return shield


def random(cls, **options):
    """Weights large enough that the density is far from a Gaussian."""
    torch.manual_seed(2)
    sizes = {"hidden_dim": 16, "field_dim": 16, "time_embed_dim": 8, "n_components": 3}
    shield = cls(2, **sizes, **options)
    for parameter in shield.field.parameters():
        nn.init.normal_(parameter, std=0.22)
    return standardized(shield)


def states():
    return torch.tensor([[1.0, -2.0], [4.0, -1.5], [-3.0, -2.2]], dtype=torch.float64)


def commands():
    return torch.tensor([[130.0, 20.0], [180.0, 160.0], [60.0, -90.0]], dtype=torch.float64)


def truth(state):
    """The raw Gaussian that `perfect` shields model, by its mean and its triangular scale."""
    z = (state - torch.tensor([1.0, -2.0])) / torch.tensor([3.0, 0.5])
    location = torch.stack([torch.full_like(z[:, 0], 0.5), z[:, 0]], dim=1)
    whitener = SCALE.diag() @ torch.tensor([[1.0, 0.0], [SHEAR, 1.0]]).double()
    units = COMMAND_STD
    mean = torch.tensor([120.0, 50.0]) + units * (location + MEAN @ whitener.T)
    triangle = units.diag() @ whitener @ VARIANCE.sqrt().diag()
    return torch.distributions.MultivariateNormal(mean, scale_tril=triangle)


@pytest.mark.parametrize("cls", TYPES)
@pytest.mark.parametrize(
    ("solver", "n_steps", "tolerance"), [("rk4", 64, 1e-6), ("rk4", 8, 5e-3), ("dopri5", 8, 1e-4)]
)
def test_log_prob_of_a_perfect_network_is_exact_in_raw_units(cls, solver, n_steps, tolerance):
    shield = perfect(cls, solver=solver, n_steps=n_steps)
    command = commands().requires_grad_()
    found, expected = shield.log_prob(states(), command), truth(states()).log_prob(command)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    gradients = [torch.autograd.grad(value.sum(), command)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=tolerance)


@pytest.mark.parametrize("cls", TYPES)
def test_samples_of_a_perfect_network_are_exact(cls):
    shield = perfect(cls, n_steps=24)
    generator = torch.Generator().manual_seed(0)
    samples, log_prob = shield.sample_with_log_prob(states(), 20_000, generator)
    distribution = truth(states())
    expected = distribution.log_prob(samples.transpose(0, 1)).T
    torch.testing.assert_close(log_prob, expected, rtol=0, atol=1e-5)
    assert_moments(samples, distribution, 0.03)


def assert_moments(samples, distribution, tolerance):
    deviation = distribution.variance.sqrt()
    assert float(((samples.mean(1) - distribution.mean) / deviation).abs().max()) < tolerance
    for i in range(len(samples)):
        scale = deviation[i].unsqueeze(1) * deviation[i]
        error = (samples[i].T.cov() - distribution.covariance_matrix) / scale
        assert float(error.abs().max()) < tolerance


def test_ddim_of_a_perfect_network_nears_the_truth_at_first_order():
    shield = perfect(DiffusionShield)
    deviation = truth(states()[:1]).variance.sqrt()

    def error(n_steps):
        torch.manual_seed(0)
        samples = shield.sample(states()[:1], 40_000, n_steps)
        return float((samples.std(1) / deviation - 1).abs().max())

    torch.manual_seed(0)
    assert_moments(shield.sample(states(), 20_000, 1000), truth(states()), 0.04)
    assert error(10) > 3 * error(100)


@pytest.mark.parametrize("timestep", [1, 250, 600, 1000])
def test_denoise_is_the_conditional_expectation(timestep):
    shield = perfect(DiffusionShield)
    noisy = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # alpha-bar of the linear schedule of Ho et al., with its thousand betas
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    signal = (1 - beta[:timestep]).prod()
    gain = signal.sqrt() * VARIANCE / (signal * VARIANCE + 1 - signal)
    found = shield.denoise(noisy, torch.full((3,), timestep), states())
    expected = MEAN + gain * (noisy - signal.sqrt() * MEAN)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_circle_starts_at_the_noise_ends_at_the_data_and_has_the_velocity_it_says():
    noise, data = torch.randn(2, 50, 2, dtype=torch.float64).unbind()
    column = torch.ones(50, 1, dtype=torch.float64)
    torch.testing.assert_close(on_circle(noise, data, 0 * column)[0], noise)
    torch.testing.assert_close(on_circle(noise, data, math.pi / 2 * column)[0], data)
    angle = torch.linspace(0, math.pi / 2, 50, dtype=torch.float64).unsqueeze(1)
    _, moved = torch.autograd.functional.jvp(
        lambda u: on_circle(noise, data, u)[0], angle, torch.ones_like(angle)
    )
    torch.testing.assert_close(on_circle(noise, data, angle)[1], moved)


def test_the_circle_keeps_the_variance():
    torch.manual_seed(0)
    noise, data = torch.randn(2, 200_000).unbind()
    for angle in (0.2, 0.8, 1.3):
        assert float(on_circle(noise, data, torch.tensor(angle))[0].std()) == pytest.approx(
            1, abs=0.01
        )


@pytest.mark.parametrize("t", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_velocity_is_the_conditional_expectation_on_the_straight_path(t):
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    off = (x - t * MEAN) / (t**2 * VARIANCE + (1 - t) ** 2)
    expected = MEAN + t * VARIANCE * off - (1 - t) * off  # E[x_1 - x_0 | x_t]
    for time in (torch.tensor(t).double(), torch.full((3,), t).double()):
        found = perfect(FlowMatchingShield).velocity(x, time, states())
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_flows_loss_is_that_of_the_straight_path():
    # Lipman et al. 2022, eq. 23: t uniform, |v(x_t, t) - (x_1 - x_0)|^2
    shield = random(FlowMatchingShield)
    torch.manual_seed(0)
    angles = shield._sample_angles(4000, torch.device("cpu")).double()
    t = angles.tan() / (1 + angles.tan())
    assert float((t.sort().values - (torch.arange(4000) + 0.5) / 4000).abs().max()) < 2e-4
    noise, data = torch.randn(2, 4000, 2, dtype=torch.float64).unbind()
    state = torch.randn(4000, 2, dtype=torch.float64)
    x = (1 - t).unsqueeze(1) * noise + t.unsqueeze(1) * data
    expected = (shield.velocity(x, t, state) - (data - noise)).square().sum(1)
    features = shield.field.encode(shield.state_standardizer(state)).features
    point, velocity = on_circle(noise, data, angles.unsqueeze(1))
    error = shield.field(point, features + shield.field.time_bias(angles)) - velocity
    torch.testing.assert_close(shield._error_weights(angles) * error.square().sum(1), expected)


@pytest.mark.parametrize("cls", TYPES)
def test_a_new_network_is_its_mixture(cls):
    torch.manual_seed(0)
    shield = standardized(cls(2, hidden_dim=16, field_dim=8, n_layers=1))
    context, g = shield._encode(states(), commands())
    expected = log_density(shield._components(context), g).squeeze(1) - math.log(60.0 * 110.0)
    torch.testing.assert_close(shield.log_prob(states(), commands()), expected)


@pytest.mark.parametrize("cls", TYPES)
@torch.no_grad()
def test_the_density_of_any_weights_integrates_to_1_in_raw_units(cls):
    shield, state = random(cls, n_steps=24), states()[1:2]
    samples = shield.sample_with_log_prob(state, 2000)[0][0]
    middle, reach = samples.mean(0), 7 * samples.std(0)
    axes = [torch.linspace(-1, 1, 110).double() * reach[i] + middle[i] for i in (0, 1)]
    grid = torch.cartesian_prod(*axes)
    density = shield.log_prob(state.expand(len(grid), 2), grid).exp()
    area = float((axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0]))
    assert float(density.sum()) * area == pytest.approx(1.0, abs=3e-3)
    # and the samples are drawn from it
    mean = (density.unsqueeze(1) * grid).sum(0) * area
    deviation = ((density.unsqueeze(1) * (grid - mean) ** 2).sum(0) * area).sqrt()
    assert float(((middle - mean) / deviation).abs().max()) < 0.1
    assert float((samples.std(0) / deviation - 1).abs().max()) < 0.1


@pytest.mark.parametrize("cls", TYPES)
@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_samples_come_with_their_own_log_prob(cls, solver):
    shield = random(cls, solver=solver, n_steps=64)
    samples, log_prob = shield.sample_with_log_prob(states(), 5)
    again = shield.log_prob(states().repeat_interleave(5, 0), samples.reshape(-1, 2))
    torch.testing.assert_close(log_prob.reshape(-1), again, rtol=0, atol=1e-4)
    assert bool(log_prob.std() > 0.1)


@pytest.mark.parametrize("cls", TYPES)
def test_more_steps_settle_on_what_dopri5_says(cls):
    coarse, fine = (random(cls).log_prob(states(), commands(), n) for n in (4, 64))
    adaptive = random(cls, solver="dopri5").log_prob(states(), commands())
    error = (fine - adaptive).abs().max()
    assert bool(error < 1e-4) and bool(error < (coarse - adaptive).abs().max())


@pytest.mark.parametrize("cls", TYPES)
def test_one_generator_gives_every_state_the_same_noise(cls):
    shield = random(cls)

    def draw(state):
        return shield.sample_with_log_prob(state, 4, torch.Generator().manual_seed(7))

    together = draw(states())
    assert torch.equal(together[0], draw(states())[0])
    for i in range(3):
        alone = draw(states()[i : i + 1])
        torch.testing.assert_close(alone[0][0], together[0][i])
        torch.testing.assert_close(alone[1][0], together[1][i])


@pytest.mark.parametrize("cls", TYPES)
def test_rows_do_not_mix(cls):
    shield, order = random(cls), torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        shield.log_prob(states()[order], commands()[order]),
        shield.log_prob(states(), commands())[order],
    )


@pytest.mark.parametrize("cls", TYPES)
def test_sample_has_the_documented_shapes(cls):
    shield = random(cls)
    assert shield.sample(states()).shape == (3, 1, 2)
    assert shield.sample(states(), 6, 3).shape == (3, 6, 2)
    assert shield.sample_with_log_prob(states(), 6)[1].shape == (3, 6)
    assert not torch.equal(shield.sample(states(), 6), shield.sample(states(), 6))


@pytest.mark.parametrize("cls", TYPES)
@pytest.mark.parametrize("n_steps", [0, -1])
def test_no_steps_are_refused(cls, n_steps):
    for ask in (
        lambda: random(cls).log_prob(states(), commands(), n_steps),
        lambda: random(cls).sample(states(), 2, n_steps),
    ):
        with pytest.raises(ConfigError, match=f"n_steps: expected >= 1.*got {n_steps}"):
            ask()


@pytest.mark.parametrize("cls", TYPES)
def test_an_unknown_solver_is_refused_at_once(cls):
    with pytest.raises(ConfigError, match="unknown solver 'rk44': did you mean 'rk4'"):
        cls(2, solver="rk44")


@pytest.mark.parametrize("cls", TYPES)
def test_wrong_shapes_are_refused(cls):
    shield = random(cls)
    with pytest.raises(ShapeError, match=r"state: expected shape \[batch, 2\], got \[3, 3\]"):
        shield.log_prob(torch.zeros(3, 3), commands())
    with pytest.raises(ShapeError, match=r"command: expected shape \[batch, 2\], got \[2\]"):
        shield.log_prob(states(), commands()[0])
    with pytest.raises(ShapeError, match="command: expected 3 rows like the other, got 2"):
        shield.log_prob(states(), commands()[:2])
    with pytest.raises(ShapeError, match="unsqueeze"):
        shield.sample(states()[0])


@torch.no_grad()
def test_the_compiled_path_gives_the_same_numbers():
    shield, compiled = (random(FlowMatchingShield, n_steps=1) for _ in range(2))
    # captured whole and run as captured: a C++ compiler takes too long for a test
    compiled.compile(backend="eager", fullgraph=True)
    state, command = states(), commands()
    torch.testing.assert_close(compiled.log_prob(state, command), shield.log_prob(state, command))
    for found, wanted in zip(
        compiled.common_samples(state, 7), shield.common_samples(state, 7), strict=True
    ):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("cls", TYPES)
def test_the_tolerance_is_dopri5s(cls):
    exact = random(cls, solver="dopri5", tolerance=1e-10).log_prob(states(), commands())
    errors = [
        float(
            (random(cls, solver="dopri5", tolerance=t).log_prob(states(), commands()) - exact)
            .abs()
            .max()
        )
        for t in (1e-2, 1e-6)
    ]
    assert errors[1] < 1e-4 and errors[1] < errors[0]


@pytest.mark.parametrize("cls", TYPES)
@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_common_commands_are_the_common_samples(cls, solver):
    shield = random(cls, solver=solver)
    found, known = shield.common_commands(states(), 32), shield.common_samples(states(), 32)[0]
    assert found.shape == (len(states()), 32, 2) and float(found.std()) > 0.1
    torch.testing.assert_close(found, known, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_common_samples_estimate_probabilities_better_than_random_ones():
    shield, state = perfect(FlowMatchingShield, n_steps=16), states()[:1]
    middle = truth(state).mean[0, 1]

    def error(samples):
        return abs(float((samples[0, :, 1] > middle).double().mean()) - 0.5)

    random_errors = [
        error(shield.sample_with_log_prob(state, 256, torch.Generator().manual_seed(i))[0])
        for i in range(20)
    ]
    common = shield.common_samples(state, 256)[0]
    assert error(common) < 0.01 < sum(random_errors) / 20
    assert torch.equal(common, shield.common_samples(state, 256)[0])
    assert_moments(shield.common_samples(state, 1024)[0], truth(state), 0.02)
