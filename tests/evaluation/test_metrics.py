import math

import numpy as np
import pytest
from scipy import stats

from flowshield.errors import ConfigError, DataError, ShapeError
from flowshield.evaluation.metrics import (
    MetricsTracker,
    auc_roc,
    f1_score,
    roc_curve,
    worst_share_mean,
)


def scores(seed=0, ties=False):
    rng = np.random.default_rng(seed)
    positive, negative = rng.normal(1.0, 1.0, 300), rng.normal(0.0, 1.0, 170)
    return (positive.round(1), negative.round(1)) if ties else (positive, negative)


def test_auc_of_two_normals_is_the_closed_form():
    rng = np.random.default_rng(1)
    found = auc_roc(rng.normal(1.5, 1.0, 20_000), rng.normal(0.0, 2.0, 20_000))
    assert found == pytest.approx(stats.norm.cdf(1.5 / math.sqrt(5)), abs=0.006)


@pytest.mark.parametrize(
    ("positive", "negative", "expected"),
    [([2, 3], [0, 1], 1.0), ([0, 1], [2, 3], 0.0), ([1], [1, 1], 0.5), ([1, 2], [1, 0], 0.875)],
)
def test_auc_by_hand(positive, negative, expected):
    assert auc_roc(positive, negative) == expected


def test_auc_counts_pairs_with_ties_as_halves():
    positive, negative = scores(ties=True)
    difference = positive[:, None] - negative[None, :]
    assert auc_roc(positive, negative) == pytest.approx(
        (difference > 0).mean() + (difference == 0).mean() / 2, abs=1e-12
    )


def test_auc_is_invariant_to_monotone_maps_and_turns_over_when_sides_swap():
    positive, negative = scores(ties=True)
    found = auc_roc(positive, negative)
    assert auc_roc(np.exp(positive), np.exp(negative)) == pytest.approx(found, abs=1e-12)
    assert auc_roc(negative, positive) == pytest.approx(1 - found, abs=1e-12)


def test_auc_takes_infinite_scores():
    assert auc_roc([np.inf, 1.0], [-np.inf, 1.0]) == 0.875


@pytest.mark.parametrize("ties", [False, True])
def test_area_under_roc_curve_is_auc(ties):
    positive, negative = scores(ties=ties)
    curve = roc_curve(positive, negative)
    area = np.trapezoid(curve.true_positive_rate, curve.false_positive_rate)
    assert area == pytest.approx(auc_roc(positive, negative), abs=1e-12)


def test_roc_curve_ends_and_thresholds_reproduce_its_rates():
    positive, negative = scores(ties=True)
    alarms, hits, thresholds = roc_curve(positive, negative)
    assert (alarms[0], hits[0], alarms[-1], hits[-1]) == (0, 0, 1, 1)
    assert np.all(np.diff(alarms) >= 0) and np.all(np.diff(hits) >= 0)
    assert np.all(np.diff(thresholds) < 0)
    assert np.array_equal(hits, [(positive >= t).mean() for t in thresholds])
    assert np.array_equal(alarms, [(negative >= t).mean() for t in thresholds])


def test_roc_curve_of_a_perfect_detector_keeps_only_its_corners():
    curve = roc_curve(np.arange(10.0) + 100, np.arange(10.0))
    assert curve.false_positive_rate.tolist() == [0, 0, 1]
    assert curve.true_positive_rate.tolist() == [0, 1, 1]


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    positive, negative = np.array([1, 1, 1, 0], bool), np.array([1, 0, 0, 0, 0, 0], bool)
    precision, recall = 3 / 4, 3 / 4
    assert f1_score(positive, negative) == 2 * precision * recall / (precision + recall)
    assert f1_score([True, False], [True, True]) == pytest.approx(2 / (2 + 2 + 1))


def test_f1_ends():
    assert f1_score([True, True], [False]) == 1.0
    assert f1_score([False, False], [False]) == 0.0


def test_f1_refuses_scores():
    with pytest.raises(DataError, match="threshold"):
        f1_score([0.3, 0.9], [0.1])


def test_worst_share_by_hand():
    values = np.arange(100.0)
    shuffled = np.random.default_rng(0).permutation(values)
    assert worst_share_mean(shuffled) == np.arange(5.0).mean()
    assert worst_share_mean(values, share=1.0) == values.mean()
    assert worst_share_mean([3.0, 1.0, 2.0]) == 1.0


@pytest.mark.parametrize("n", [20, 60, 100, 140, 280, 1000])
def test_worst_share_counts_whole_shares_exactly(n):
    assert worst_share_mean(np.arange(n)) == np.arange(n // 20).mean()


def test_worst_share_is_not_fooled_by_rounding():
    assert math.ceil(0.07 * 100) == 8  # what a float makes of seven
    assert worst_share_mean(np.arange(100.0), share=0.07) == 3.0


def test_worst_share_is_equivariant_and_below_the_mean():
    values, _ = scores()
    found = worst_share_mean(values, 0.1)
    assert found < values.mean()
    assert worst_share_mean(3 * values - 7, 0.1) == pytest.approx(3 * found - 7)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, math.nan])
def test_worst_share_refuses_impossible_shares(share):
    with pytest.raises(ConfigError, match="share"):
        worst_share_mean([1.0], share)


@pytest.mark.parametrize("function", [auc_roc, roc_curve, f1_score])
@pytest.mark.parametrize("bad", [[], [math.nan, 1.0]])
def test_detection_metrics_refuse_empty_and_nan(function, bad):
    for arguments in ((bad, [1.0]), ([1.0], bad)):
        with pytest.raises(DataError, match="expected"):
            function(*arguments)


def test_detection_metrics_refuse_columns():
    with pytest.raises(ShapeError, match=r"\[3, 1\]"):
        auc_roc(np.zeros((3, 1)), [0.0])


def test_tracker_averages_over_the_updates_that_named_a_metric():
    tracker = MetricsTracker()
    assert tracker.compute() == {}
    tracker.update(loss=1.0, crash=0)
    tracker.update(loss=3.0)
    assert tracker.compute() == {"loss": 2.0, "crash": 0.0}
    assert tracker.history == {"loss": [1.0, 3.0], "crash": [0.0]}
    tracker.reset()
    assert tracker.compute() == {} and tracker.history == {}


def test_tracker_history_is_a_copy():
    tracker = MetricsTracker()
    tracker.update(loss=1.0)
    tracker.history["loss"].append(99.0)
    assert tracker.compute() == {"loss": 1.0}


def test_tracker_nan_policies():
    omit, propagate = MetricsTracker(), MetricsTracker("propagate")
    for tracker in (omit, propagate):
        tracker.update(a=1.0, b=math.nan)
        tracker.update(a=math.nan, b=math.nan)
        assert math.isnan(tracker.history["a"][1])
    assert omit.compute()["a"] == 1.0 and math.isnan(omit.compute()["b"])
    assert math.isnan(propagate.compute()["a"])


def test_tracker_that_raises_keeps_nothing_of_the_bad_update():
    tracker = MetricsTracker("raise")
    with pytest.raises(DataError, match="NaN for b"):
        tracker.update(a=1.0, b=math.nan)
    assert tracker.compute() == {}


def test_tracker_refuses_what_is_no_number():
    with pytest.raises(DataError, match="'loss'"):
        MetricsTracker().update(loss="low")
    with pytest.raises(DataError, match="'loss'"):
        MetricsTracker().update(loss=[1.0, 2.0])
    with pytest.raises(ConfigError, match="nan_policy"):
        MetricsTracker("ignore")
