"""The score of a sweep on shields whose answer is known."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flowshield.data import TrajectoryDataset
from flowshield.errors import DataError
from flowshield.evaluation import FalseAlarms, ShieldJudge, sweep_score
from flowshield.evaluation.sweep_score import WORST_SCORE
from flowshield.models import BaseShield
from flowshield.models.shields.calibration import highest_expected_rate

N, ALPHA = 199, 0.05


def alarms(count, n):
    return FalseAlarms(count / n, count, n, math.nan, math.nan)


def promise(*n, alpha=ALPHA):
    return SimpleNamespace(n=n, alpha=alpha)


def test_a_kept_promise_costs_nothing_and_a_broken_one_its_excess():
    allowed = highest_expected_rate(N, ALPHA, 100)
    assert ALPHA < allowed < 0.15
    for count in (0, 5, round(allowed * 100)):
        assert sweep_score(0.9, [alarms(count, 100)], promise(N)) == 0.9
    assert sweep_score(0.9, [alarms(40, 100)], promise(N)) == pytest.approx(0.9 - 0.4 + allowed)
    assert sweep_score(0.0, [alarms(100, 100)], promise(N, alpha=1 / 200)) >= WORST_SCORE


def test_groups_count_by_their_size_and_none_makes_up_for_another():
    allowed = highest_expected_rate(N, ALPHA, 100)
    two = [alarms(0, 300), alarms(40, 100)]
    assert sweep_score(0.9, two, promise(N, N)) == pytest.approx(0.9 - (0.4 - allowed) / 4)
    nobody_there = FalseAlarms(math.nan, 0, 0, math.nan, math.nan)
    assert sweep_score(0.9, [alarms(0, 300), nobody_there], promise(N, N)) == 0.9


@pytest.mark.parametrize(("n", "n_new"), [(19, 30), (199, 100), (1999, 1000)])
def test_calibrations_that_hold_exceed_what_is_expected_once_in_forty_times(n, n_new):
    random = np.random.default_rng(0)
    k = math.floor(ALPHA * (n + 1))
    thresholds = np.sort(random.random((4000, n)), axis=1)[:, k - 1 : k]
    rates = (random.random((4000, n_new)) < thresholds).mean(axis=1)
    assert (rates > highest_expected_rate(n, ALPHA, n_new)).mean() < 0.025 + 0.008


# ------------------------------------------------------------------ the judge


class Known(BaseShield):
    """Scores a command by minus its return: what asks for more is more suspicious."""

    def __init__(self, state_dim, command_dim=2, **hyperparameters):
        super().__init__(state_dim, command_dim, **hyperparameters)
        self.asked = 0

    def scores(self, state, commands, score_type=None):
        self.asked += commands.shape[0]
        return -commands[..., 1]

    compute_loss = log_prob = sample_with_log_prob = None  # nobody asks


def make_dataset(n_episodes, seed, length=5):
    random = np.random.default_rng(seed)
    n = n_episodes * length
    ends = np.arange(n) % length == length - 1
    rewards = random.normal(size=n)
    return TrajectoryDataset.from_arrays(
        random.normal(size=(n, 3)), np.zeros((n, 1)), rewards, ends
    )


HELD_OUT, CALIBRATION = make_dataset(100, seed=0), make_dataset(199, seed=1)


def judge(calibrate=None, **options):
    calibrate = calibrate or (lambda shield: shield.calibrate(CALIBRATION, ALPHA))
    return ShieldJudge(
        calibrate, HELD_OUT, **{"n_states": 200, "margin": 20.0, "seed": 0, **options}
    )


def test_a_shield_that_tells_apart_and_keeps_its_promise_scores_its_auroc():
    shield = Known(3)
    figures = judge()(shield)
    # without a provable bound, the impossible commands ask for the range of all returns more
    assert figures["auc_roc"] == figures["score"] > 0.999
    assert figures["false_alarm_rate"] <= highest_expected_rate(199, ALPHA, 100)
    assert shield.calibration is None and shield.asked == 0  # it was a copy that was measured


def test_false_alarms_of_a_calibration_for_other_episodes_are_counted():
    def wrong(shield):
        shield.calibrate(CALIBRATION, ALPHA)
        calibration = shield.calibration
        object.__setattr__(calibration, "thresholds", (math.inf,))
        return calibration

    figures = judge(wrong)(Known(3))
    assert figures["false_alarm_rate"] == 1.0
    excess = 1.0 - highest_expected_rate(199, ALPHA, 100)
    assert figures["score"] == pytest.approx(figures["auc_roc"] - excess)


def test_a_shield_that_cannot_be_calibrated_yet_scores_worst():
    def refuse(shield):
        raise DataError("more than alpha of the scores are -inf")

    figures = judge(refuse)(Known(3))
    assert figures["score"] == WORST_SCORE and figures["auc_roc"] > 0.999
    assert math.isnan(figures["false_alarm_rate"])


def test_the_number_of_states_is_bounded():
    assert len(judge(n_states=10**6).states) == len(HELD_OUT)
    many = make_dataset(400, seed=2)
    large = ShieldJudge(lambda shield: shield.calibration, many, n_states=10**6, margin=1.0, seed=0)
    assert len(large.states) == 1000


def test_the_same_shield_has_the_same_score_twice():
    shield, ask = Known(3), judge()
    with torch.random.fork_rng(devices=[]):
        first = ask(shield)
        torch.rand(3)
        assert ask(shield) == first
