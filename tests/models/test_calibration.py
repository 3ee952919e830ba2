import functools
import math

import numpy as np
import pytest
import torch

from flowshield.errors import ConfigError, DataError, NotCalibratedError, ShapeError
from flowshield.models import (
    BaseShield,
    CommandedPolicy,
    DiffusionShield,
    FlowMatchingShield,
    MixtureShield,
    QuantileShield,
    UDRLAgent,
)
from flowshield.models.shields import ExchangeablePairs, conformal_threshold, episodes_needed

SMALL = {
    "flow_matching": functools.partial(FlowMatchingShield, field_dim=8, n_layers=1),
    "diffusion": functools.partial(DiffusionShield, field_dim=8, n_layers=1),
    "quantile": QuantileShield,
    "mixture": MixtureShield,
}


class ReturnShield(BaseShield):
    """Scores a command by its return, so that a test can choose every score."""

    def compute_loss(self, state, command):
        return -self.log_prob(state, command).mean()

    def log_prob(self, state, command, n_steps=None):
        return command[:, 1]

    def sample_with_log_prob(self, state, n_samples, generator=None):
        samples = torch.zeros(len(state), n_samples, 2)
        return samples, samples[..., 1]


def pairs(scores):
    scores = torch.as_tensor(scores, dtype=torch.float32)
    return torch.zeros(len(scores), 1), torch.stack([torch.ones_like(scores), scores], dim=1)


def given(state, command):
    return ExchangeablePairs(state.numpy(), command.numpy())


def calibrated(scores, alpha=0.1):
    shield = ReturnShield(1)
    shield.calibrate(given(*pairs(scores)), alpha)
    return shield


@pytest.mark.parametrize(
    ("n", "alpha", "k"),
    [
        (19, 0.05, 1),
        (38, 0.05, 1),
        (39, 0.05, 2),
        (99, 0.1, 10),
        (100, 0.1, 10),
        (9, 0.3, 3),
        (999, 0.05, 50),
        (1, 0.5, 1),
        (10, 0.95, 10),
    ],
)
def test_the_threshold_is_the_kth_smallest_score(n, alpha, k):
    torch.manual_seed(0)
    scores = torch.randn(n, dtype=torch.float64)
    assert conformal_threshold(scores, alpha) == float(scores.sort().values[k - 1])


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1, 0.3, 1 / 3, 0.5])
def test_episodes_needed_is_the_least_number_that_works(alpha):
    n = episodes_needed(alpha)
    assert n == max(1, math.ceil(1 / alpha - 1e-9) - 1)
    conformal_threshold(torch.arange(float(n)), alpha)
    with pytest.raises(DataError, match=f"needs at least {n} calibration episodes?, got {n - 1}"):
        conformal_threshold(torch.arange(float(n - 1)), alpha)


@pytest.mark.parametrize(("n", "alpha"), [(19, 0.05), (50, 0.1), (199, 0.05), (1000, 0.05)])
def test_the_average_rate_keeps_the_promise(n, alpha):
    # of uniform scores the share below a threshold is the threshold itself
    torch.manual_seed(0)
    repeats = 4000
    rates = [conformal_threshold(torch.rand(n), alpha) for _ in range(repeats)]
    noise = 4 * math.sqrt(alpha * (1 - alpha) / (n + 2) / repeats)
    rate = sum(rates) / repeats
    assert alpha - 1 / (n + 1) - noise <= rate <= alpha + noise


def test_the_rate_of_one_calibration_is_beta_distributed():
    torch.manual_seed(0)
    n, k = 199, 20
    rates = torch.tensor([conformal_threshold(torch.rand(n), 0.1) for _ in range(4000)])
    variance = k * (n + 1 - k) / ((n + 1) ** 2 * (n + 2))
    assert float(rates.std()) == pytest.approx(math.sqrt(variance), rel=0.06)


def test_a_calibrated_shield_flags_at_its_rate():
    torch.manual_seed(0)
    flagged = []
    for _ in range(300):
        shield = calibrated(torch.randn(99).exp(), 0.1)
        flagged.append(float(shield.is_ood(*pairs(torch.randn(200).exp())).float().mean()))
    # one deviation of the mean is 0.0021
    assert sum(flagged) / 300 == pytest.approx(0.1, abs=0.008)


def test_the_order_of_the_calibration_scores_does_not_matter():
    scores = torch.randn(77)
    assert conformal_threshold(scores, 0.1) == conformal_threshold(scores.flip(0), 0.1)


def test_a_score_at_the_threshold_is_no_alarm_and_one_below_is():
    shield = calibrated(range(19), 0.1)  # k = 2
    assert float(shield.threshold) == 1.0 and shield.calibration.alpha == 0.1
    state, command = pairs([1.0, 0.999, 1.001, -math.inf, math.nan, math.inf])
    # what cannot be computed, or is no density, is not supported
    expected = [False, True, False, True, True, True]
    assert shield.is_ood(state, command).tolist() == expected
    assert shield.is_ood(state, command, threshold=0.5).tolist()[:3] == [False, False, False]
    assert shield.is_ood(state, command, threshold=math.nan).all()


def test_threshold_at_answers_for_other_rates():
    shield = calibrated(torch.arange(99.0).flip(0), 0.1)
    assert [shield.threshold_at(a) for a in (0.01, 0.05, 0.1, 0.5)] == [0.0, 4.0, 9.0, 49.0]
    assert shield.threshold_at(0.1) == shield.threshold_in_force() == float(shield.threshold)
    assert shield.threshold_in_force(-3.0) == -3.0
    with pytest.raises(DataError, match="0.001 needs at least 999 calibration episodes, got 99"):
        shield.threshold_at(0.001)


@pytest.mark.parametrize("name", SMALL)
def test_an_uncalibrated_shield_says_so(name):
    shield = SMALL[name](1, hidden_dim=8)
    state, command = pairs([0.0])
    asks = (
        lambda: shield.is_ood(state, command),
        lambda: shield.project(state, command),
        lambda: shield.threshold_at(0.1),
        lambda: shield.threshold_in_force(),
    )
    for ask in asks:
        with pytest.raises(NotCalibratedError, match=f"{name} shield.*calibrate.*threshold="):
            ask()
    assert shield.is_ood(state, command, threshold=-1e9).tolist() == [False]


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 5.0, math.nan])
def test_alpha_outside_0_to_1_is_refused(alpha):
    with pytest.raises(DataError, match=r"alpha in \(0, 1\), got"):
        conformal_threshold(torch.arange(99.0), alpha)


def test_bad_calibration_data_are_refused_and_change_nothing():
    shield = calibrated(range(19))
    state, command = pairs(range(40))
    with pytest.raises(DataError, match=r"commands.*1 that are not, the first at \[3, 1\]"):
        bad = command.index_put((torch.tensor(3), torch.tensor(1)), torch.tensor(math.nan))
        shield.calibrate(given(state, bad))
    with pytest.raises(ShapeError, match=r"state: expected shape \[batch, 1\], got \[40\]"):
        shield.calibrate(given(state[:, 0], command))
    with pytest.raises(ShapeError, match="expected 40 rows like the other, got 39"):
        shield.calibrate(given(state, command[:39]))
    with pytest.raises(DataError, match="needs at least 99"):
        shield.calibrate(given(state, command), 0.01)
    with pytest.raises(DataError, match="2 of 3 scores are NaN"):
        conformal_threshold(torch.tensor([1.0, math.nan, math.nan]), 0.5)
    assert float(shield.threshold) == 1.0 and shield.calibration.n == (19,)


@pytest.mark.parametrize("name", SMALL)
def test_a_shield_that_cannot_compute_fails_closed(name):
    shield = SMALL[name](1, hidden_dim=8)
    state, command = torch.zeros(40, 1), torch.randn(40, 2)
    shield.calibrate(given(state, command), 0.1)
    for parameter in shield.parameters():
        parameter.data.fill_(math.nan)
    assert shield.is_ood(state, command).all()
    projection = shield.project_in_detail(state, command)
    assert projection.changed.all() and not projection.supported.any()
    # nor can it be calibrated into passing everything
    with pytest.raises(DataError, match="40 of 40 calibration scores are -inf"):
        shield.calibrate(given(state, command), 0.1)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_supported(name, bad):
    shield = SMALL[name](1, hidden_dim=8)
    shield.calibrate(given(torch.zeros(40, 1), torch.randn(40, 2)), 0.1)
    command = torch.tensor([[bad, 0.0], [0.0, bad], [bad, bad], [0.0, 0.0]])
    assert shield.is_ood(torch.zeros(4, 1), command).tolist() == [True, True, True, False]
    if math.isnan(bad):
        assert shield.is_ood(torch.full((1, 1), bad), command[3:]).tolist() == [True]
    with pytest.raises(DataError, match="command: expected finite numbers, got 4"):
        shield.project(torch.zeros(4, 1), command)


@pytest.mark.parametrize("name", ["flow_matching", "diffusion"])
@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_an_equation_that_runs_away_fails_closed_and_is_counted(name, solver):
    """Weights that are numbers, and a field so stiff that its solution is none."""
    shield = SMALL[name](1, hidden_dim=8, solver=solver)
    state, command = torch.zeros(40, 1), torch.randn(40, 2)
    shield.calibrate(given(state, command), 0.1)
    for parameter in shield.parameters():
        parameter.data.fill_(1e20)
    assert shield.is_ood(state, command).all()
    assert shield.n_uncomputed == 40
    projection = shield.project_in_detail(state, command)
    assert projection.changed.all() and not projection.supported.any()
    policy = CommandedPolicy(UDRLAgent(1, 1, hidden_dim=4, n_layers=1), (1, 0), shield)
    policy.begin(np.zeros((2, 1)))
    with pytest.raises(DataError, match=r"no command at all at the state .*2 of 2 rows"):
        policy.act(np.zeros((2, 1)), np.arange(2))


def test_is_ood_refuses_wrong_shapes():
    with pytest.raises(ShapeError, match=r"command: expected shape \[batch, 2\], got \[19, 1\]"):
        calibrated(range(19)).is_ood(torch.zeros(19, 1), torch.zeros(19, 1))


def test_shields_are_known_by_their_type():
    assert BaseShield.of_type("flow_matching") is FlowMatchingShield
    with pytest.raises(ConfigError, match="unknown shield 'flow'.*flow_matching"):
        BaseShield.of_type("flow")
    assert not any(cls is ReturnShield for cls in BaseShield._types.values())
