"""What a calibration promises, per step, per episode and per group, and how it is kept."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import beta

from flowshield.errors import ConfigError, DataError, NotCalibratedError
from flowshield.models import BaseShield
from flowshield.models.shields import Calibration, ExchangeablePairs, StateGroups


class ReturnShield(BaseShield):
    """Scores a command by its return, so that a test can choose every score."""

    def compute_loss(self, state, command):
        return -self.log_prob(state, command).mean()

    def log_prob(self, state, command, n_steps=None):
        return command[:, 1]

    def sample_with_log_prob(self, state, n_samples, generator=None):
        noise = torch.randn(1, n_samples, 2, generator=generator).expand(len(state), -1, -1)
        return noise, noise[..., 1]


class Episodes:
    """Episodes of dependent steps: a level of their own, lower in one half of the states.

    Args:
        n: Number of episodes.
        rng: Source of the draws.
    """

    def __init__(self, n, rng):
        self.episode_lengths = rng.integers(1, 12, n)
        self.episode_starts = np.cumsum(self.episode_lengths) - self.episode_lengths
        steps = int(self.episode_lengths.sum())
        level = np.repeat(rng.normal(size=n), self.episode_lengths)
        side = rng.choice([-1.0, 1.0], steps)
        self.states = np.stack([side + 0.05 * rng.normal(size=steps)], axis=1).astype(np.float32)
        score = level + rng.normal(size=steps) * 0.3 + 3 * (side > 0)
        self.commands = np.stack([np.ones(steps), score], axis=1).astype(np.float32)
        self.episodes = np.repeat(np.arange(n), self.episode_lengths)

    def flagged(self, shield):
        return shield.is_ood(torch.tensor(self.states), torch.tensor(self.commands)).numpy()


def shares(flags, episodes):
    """The share of each episode's steps that are flagged, and whether any is."""
    count = np.bincount(episodes, minlength=episodes.max() + 1)
    hits = np.bincount(episodes, flags, minlength=len(count))
    visited = count > 0
    return (hits[visited] / count[visited]).mean(), (hits[visited] > 0).mean()


@pytest.mark.parametrize("unit", ["step", "episode"])
def test_the_rate_is_the_units(unit):
    rng = np.random.default_rng(0)
    per_step, per_episode = [], []
    for repeat in range(120):
        shield = ReturnShield(1)
        shield.calibrate(Episodes(99, rng), 0.1, unit=unit, seed=repeat)
        new = Episodes(200, rng)
        step, episode = shares(new.flagged(shield), new.episodes)
        per_step.append(step)
        per_episode.append(episode)
    # the spread of one calibration is 0.03, of the mean of 120 of them 0.003
    promised, other = (per_step, per_episode) if unit == "step" else (per_episode, per_step)
    assert np.mean(promised) == pytest.approx(0.1, abs=0.012)
    assert abs(np.mean(other) - 0.1) > 0.03  # the one says nothing of the other


@pytest.mark.parametrize("unit", ["step", "episode"])
def test_every_group_keeps_the_rate_and_one_threshold_for_all_does_not(unit):
    rng = np.random.default_rng(1)
    groups = StateGroups(torch.tensor([[-1.0], [1.0]], dtype=torch.float64))
    rates = {1: [], 2: []}
    for repeat in range(80):
        new = Episodes(200, rng)
        data = Episodes(150, rng)
        for k, given in ((1, 1), (2, groups)):
            shield = ReturnShield(1)
            shield.calibrate(data, 0.1, unit=unit, groups=given, seed=repeat)
            flags = new.flagged(shield)
            rates[k].append(
                [
                    shares(flags[inside], new.episodes[inside])[unit == "episode"]
                    for inside in (new.states[:, 0] < 0, new.states[:, 0] > 0)
                ]
            )
    np.testing.assert_allclose(np.mean(rates[2], axis=0), 0.1, atol=0.014)
    assert np.abs(np.mean(rates[1], axis=0) - 0.1).max() > 0.05


def test_the_groups_are_the_clusters_and_the_same_for_a_seed():
    rng = np.random.default_rng(2)
    centers = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    states = torch.tensor(np.repeat(centers, 50, axis=0) + 0.1 * rng.normal(size=(150, 2)))
    groups = StateGroups.fit(states, 3, seed=4)
    assigned = groups.assign(states).view(3, 50)
    assert all(len(cluster.unique()) == 1 for cluster in assigned)
    assert len(assigned[:, 0].unique()) == 3
    assert torch.equal(groups.centers, StateGroups.fit(states, 3, seed=4).centers)
    with pytest.raises(DataError, match="3 groups need 3 different states at least, got 1"):
        StateGroups.fit(torch.zeros(9, 2), 3)
    with pytest.raises(ConfigError, match="at least 1 group of states, got 0"):
        StateGroups.fit(states, 0)


def test_a_number_of_groups_makes_them_of_the_given_episodes():
    shield = ReturnShield(1)
    calibration = shield.calibrate(Episodes(200, np.random.default_rng(0)), 0.1, groups=2)
    assert calibration is shield.calibration and len(calibration.groups) == 2
    low, high = sorted(calibration.thresholds)
    assert high - low == pytest.approx(3, abs=0.8)  # the better half of the states is 3 better
    state = torch.tensor([[-1.0], [1.0]])
    assert shield.limits(state).tolist() == [low, high]
    assert shield.limits(state, threshold=0.5).tolist() == [0.5, 0.5]
    assert bool((shield.limits(state, alpha=0.3) > shield.limits(state)).all())
    assert shield.threshold.shape == (2,)
    for ask in (shield.threshold_in_force, lambda: shield.threshold_at(0.2)):
        with pytest.raises(ConfigError, match="2 groups of states with a threshold each"):
            ask()
    assert shield.threshold_in_force(1.5) == 1.5


def test_the_interval_is_the_beta_distributions():
    shield = ReturnShield(1)
    data = ExchangeablePairs(np.zeros((199, 1)), np.random.default_rng(0).normal(size=(199, 2)))
    ((low, high),) = shield.calibrate(data, 0.1).intervals
    assert (low, high) == pytest.approx(beta.interval(0.95, 20, 180))
    assert f"{low:.3f} to {high:.3f}" in str(shield.calibration)


def test_the_sentence_says_what_is_promised():
    rng, shield = np.random.default_rng(3), ReturnShield(1)
    sentence = str(shield.calibrate(Episodes(99, rng), 0.05))
    assert "one random step of a new episode is flagged with probability at most 0.05" in sentence
    assert "99 calibration episodes" in sentence
    sentence = str(shield.calibrate(Episodes(150, rng), 0.1, unit="episode", groups=2))
    assert "a new episode is flagged at all" in sentence
    assert "in each of 2 groups of states" in sentence


def test_too_few_episodes_in_a_group_say_how_many_are_needed():
    states = np.concatenate([np.zeros((60, 1)), np.full((5, 1), 9.0)])
    data = ExchangeablePairs(states, np.random.default_rng(0).normal(size=(65, 2)))
    shield = ReturnShield(1)
    words = r"group \d of 2 groups.*needs at least 19 calibration episodes, got 5.*fewer groups"
    with pytest.raises(DataError, match=words):
        shield.calibrate(data, 0.05, groups=2)
    assert shield.calibration is None
    shield.calibrate(data, 0.05)
    with pytest.raises(DataError, match="needs at least 99 calibration episodes, got 65"):
        shield.calibrate(data, 0.01)
    with pytest.raises(ConfigError, match="unit: expected one of step, episode, got 'steps'"):
        shield.calibrate(data, 0.05, unit="steps")
    assert shield.calibration.alpha == 0.05


@pytest.mark.parametrize("lost", [0, 1, 2, 5])
def test_a_rate_suffices_exactly_where_it_has_a_threshold(lost):
    scores = torch.linspace(0, 1, 100)
    scores[:lost] = -math.inf  # a density that is 0 there, or what could not be computed
    groups = StateGroups(torch.zeros(1, 1))
    calibration = Calibration.of_scores([scores], 0.1, unit="step", score="density", groups=groups)
    for alpha in (0.001, 0.009, 0.01, 0.02, 0.03, 0.05, 0.06, 0.2):
        if calibration.suffices(alpha):
            assert math.isfinite(calibration.at(alpha).thresholds[0])
        else:
            with pytest.raises(DataError):
                calibration.at(alpha)


def test_the_worst_step_of_each_episode_is_the_episodes_score():
    class Two:
        states = np.zeros((5, 1))
        commands = np.array([[1, 4.0], [1, 2.0], [1, 9.0], [1, 7.0], [1, 8.0]])
        episode_starts, episode_lengths = np.array([0, 2]), np.array([2, 3])

    calibration = ReturnShield(1).calibrate(Two(), 0.4, unit="episode")
    assert calibration.scores[0].tolist() == [2.0, 7.0] and calibration.thresholds == (2.0,)


def test_a_calibration_travels_as_plain_containers():
    shield = ReturnShield(1)
    made = shield.calibrate(Episodes(200, np.random.default_rng(0)), 0.1, "episode", 2)
    loaded = Calibration.from_payload(made.payload())
    assert str(loaded) == str(made) and loaded.thresholds == made.thresholds
    state = torch.randn(40, 1)
    assert torch.equal(loaded.limits(state), made.limits(state))
    assert loaded.at(0.3).thresholds == made.at(0.3).thresholds


def test_another_score_drops_the_calibration():
    shield = ReturnShield(1)
    shield.calibrate(Episodes(99, np.random.default_rng(0)), 0.1)
    shield.score_type = "density"  # the same
    assert shield.calibration is not None
    shield.score_type = "achievability"
    with pytest.raises(NotCalibratedError):
        shield.is_ood(torch.zeros(1, 1), torch.zeros(1, 2))
    with pytest.raises(ConfigError, match="unknown score 'densty': did you mean 'density'"):
        shield.score_type = "densty"


def test_what_cannot_be_computed_is_counted_and_what_the_bound_excludes_is_not():
    shield = ReturnShield(1)
    shield.calibrate(Episodes(99, np.random.default_rng(0)), 0.1)
    command = torch.tensor([[1, math.nan], [math.inf, 5], [1, math.inf], [1, -math.inf], [1, 5]])
    assert shield.n_uncomputed == 0
    assert shield.is_ood(torch.zeros(5, 1), command).tolist() == [True, True, True, True, False]
    assert shield.n_uncomputed == 4
    assert shield.is_ood(torch.full((5, 1), math.nan), command).all()
    assert shield.n_uncomputed == 9
    shield.return_bound = lambda states: torch.full((len(states),), 4.0)
    command = torch.tensor([[1, 5.0], [1, 4.0]])
    assert shield.is_ood(torch.zeros(2, 1), command).tolist() == [True, False]
    shield.return_bound = lambda states: torch.full((len(states),), math.nan)
    assert shield.is_ood(torch.zeros(2, 1), command).all()  # a bound that is no number
    assert shield.n_uncomputed == 9
