import numpy as np
import pytest
from scipy.stats import spearmanr

from flowshield.evaluation.rank_correlation import pooled_correlation, same_start_correlations

RNG = np.random.default_rng(0)


def test_each_row_is_spearmans():
    asked, got = RNG.normal(size=(6, 9)), RNG.integers(0, 4, size=(6, 9)).astype(float)
    expected = [spearmanr(a, g).statistic for a, g in zip(asked, got, strict=True)]
    assert same_start_correlations(asked, got) == pytest.approx(expected)
    pooled = pooled_correlation(asked, got)
    assert pooled.estimate == pytest.approx(spearmanr(asked.ravel(), got.ravel()).statistic)
    assert pooled.low < pooled.estimate < pooled.high


def test_who_follows_gets_1_and_who_does_the_opposite_minus_1():
    asked = RNG.normal(size=(5, 4))
    assert same_start_correlations(asked, np.exp(asked)).tolist() == [1.0] * 5
    assert same_start_correlations(asked, -asked).tolist() == [-1.0] * 5
    assert pooled_correlation(asked, 2 * asked).low == pytest.approx(1.0)


def test_starts_that_differ_do_not_make_an_agent_that_ignores_commands_a_follower():
    ease = RNG.normal(size=(40, 1))
    asked, got = ease + 0.1 * RNG.normal(size=(40, 5)), np.repeat(ease, 5, axis=1)
    assert same_start_correlations(asked, got).tolist() == [0.0] * 40
    assert pooled_correlation(asked, got).estimate > 0.9  # which is why it is not the headline


def test_where_nothing_differs_in_what_was_asked_nothing_is_known():
    asked, got = np.ones((3, 4)), RNG.normal(size=(3, 4))
    assert np.isnan(same_start_correlations(asked, got)).all()
    assert np.isnan(pooled_correlation(asked, got).estimate)
    assert np.isnan(same_start_correlations(got[:, :1], got[:, :1])).all()


def test_one_start_has_no_interval():
    pooled = pooled_correlation(np.arange(4.0)[None], np.arange(4.0)[None])
    assert pooled.estimate == pytest.approx(1.0) and np.isnan(pooled.low)


def test_the_interval_covers_the_correlation():
    def sample(seed):
        rng = np.random.default_rng(seed)
        asked = rng.normal(size=(30, 4))
        return pooled_correlation(asked, 0.6 * asked + 0.8 * rng.normal(size=(30, 4)))

    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # Spearman's of a Gaussian with Pearson's 0.6
    assert np.mean([truth in sample(seed) for seed in range(60)]) > 0.85
