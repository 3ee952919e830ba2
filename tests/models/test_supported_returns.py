"""The returns that are supported at a horizon, held to closed forms."""

import math

import pytest
import torch
from test_achievability import NormalShield, normal_shield, two_hills

from flowshield.errors import DataError, NotCalibratedError, ShapeError
from flowshield.models.shields.calibration import Calibration
from flowshield.models.shields.groups import StateGroups

AT_ZERO = torch.zeros(1, 1)


def with_threshold(shield, threshold):
    """Calibrated on scores of which a tenth lies below the threshold."""
    scores = threshold + torch.arange(-1.0, 9.0).double()
    shield.calibration = Calibration.of_scores(
        [scores], 0.2, unit="step", score=shield.score_type, groups=StateGroups.single(1)
    )
    assert float(shield.threshold) == threshold
    return shield


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_how_exact_the_returns_are_follows_from_their_deviation(unit):
    shield = with_threshold(normal_shield(), -7.5)
    shield.command_standardizer.std[1] = 110.0 * unit
    frontier = shield.achievable(AT_ZERO, [100.0])
    assert frontier.tolerance == pytest.approx(0.1 * unit)
    assert shield.achievable(AT_ZERO, [100.0], tolerance=3.0).tolerance == 3.0


def test_the_range_of_a_normal_density_is_its_chord():
    shield = with_threshold(normal_shield(), -7.5)
    room = -math.log(2 * math.pi * 200) + 7.5
    states = torch.tensor([[0.0], [35.0]])
    for horizon in (60.0, 100.0, 110.0):
        left = 2 * room - ((horizon - 100) / 10) ** 2
        for state, ranges in zip((0, 35), shield.supported_returns(states, horizon), strict=True):
            if left <= 0:
                assert ranges == []
                continue
            ((low, high),) = ranges
            half = 20 * math.sqrt(left)
            assert (low, high) == pytest.approx((state - half, state + half), abs=0.1)


def test_two_hills_are_two_ranges_and_every_end_is_supported():
    shield = with_threshold(two_hills(far=0.3), -13.0)
    found = shield.supported_returns(AT_ZERO, 100.0, tolerance=0.01)[0]
    expected = []
    for share, middle in ((0.7, 0), (0.3, 1000)):
        half = 20 * math.sqrt(2 * (math.log(share / (2 * math.pi * 200)) + 13))
        expected.append((middle - half, middle + half))
    assert len(found) == 2
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=0.02)
    ends = torch.tensor([[100.0, end] for pair in found for end in pair])
    assert not shield.is_ood(AT_ZERO.expand(4, 1), ends).any()
    assert shield.is_ood(AT_ZERO, torch.tensor([[100.0, 500.0]])).all()


def test_the_top_is_that_of_the_frontier():
    shield = with_threshold(two_hills(far=0.3), -13.0)
    top = float(shield.achievable(AT_ZERO, [104.0]).returns)
    assert shield.supported_returns(AT_ZERO, 104.0)[0][-1][1] == pytest.approx(top, abs=0.1)


def test_a_return_that_is_looked_at_and_supported_lies_in_a_range():
    class Spike(NormalShield):  # a hundredth wide, far from the normal's chord
        def log_prob(self, state, command, n_steps=None):
            spike = (command[:, 1] - 9000.305).abs() < 0.005
            return torch.where(spike, 0.0, super().log_prob(state, command))

    shield = with_threshold(Spike(1, horizon_noise=0.0), -8.0)
    assert len(shield.supported_returns(AT_ZERO, 100.0)[0]) == 1
    (_, (low, high)) = shield.supported_returns(AT_ZERO, 100.0, also=[9000.305])[0]
    assert low <= 9000.305 <= high + 1e-3


def test_whatever_is_less_than_achievable_is_achievable():
    shield = two_hills(far=0.0)
    shield.score_type = "achievability"
    with_threshold(shield, math.log(0.5))
    ((low, high),) = shield.supported_returns(AT_ZERO, 400.0)[0]
    assert low == -math.inf and high == pytest.approx(0.0, abs=0.1)
    assert shield.supported_returns(AT_ZERO, 50.0)[0] == []


def test_a_range_without_ends_is_infinite():
    class Flat(NormalShield):
        def log_prob(self, state, command, n_steps=None):
            return torch.zeros(len(command))

    shield = with_threshold(Flat(1), -1.0)
    assert shield.supported_returns(AT_ZERO, 9.0)[0] == [(-math.inf, math.inf)]


def test_what_cannot_be_asked_is_refused():
    shield = normal_shield()
    with pytest.raises(DataError, match="at least 1 step, got 0.5"):
        shield.supported_returns(AT_ZERO, 0.5)
    with pytest.raises(ShapeError, match=r"\[batch, 1\]"):
        shield.supported_returns(torch.zeros(1), 100.0)
    with pytest.raises(DataError, match="finite"):
        shield.supported_returns(torch.full((1, 1), math.nan), 100.0)
    with pytest.raises(NotCalibratedError):
        NormalShield(1).supported_returns(AT_ZERO, 100.0)
