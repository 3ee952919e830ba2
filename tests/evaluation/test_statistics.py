import bisect
import math
import warnings

import numpy as np
import pytest
from scipy import stats

from flowshield.errors import ConfigError, DataError, ShapeError
from flowshield.evaluation.statistics import (
    ConfidenceInterval,
    clopper_pearson,
    holm,
    mcnemar_test,
    non_inferiority_test,
    non_inferiority_z,
    paired_difference,
    paired_t_test,
    sign_flip_test,
    wilcoxon_test,
)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def normal(n=200, seed=0, mean=280.0, std=17.0):
    return np.random.default_rng(seed).normal(mean, std, n)


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_interval_agrees_with_student_on_normal_data(method):
    values = normal()
    found = ConfidenceInterval(method=method)(values)
    low, high = stats.t.interval(0.95, 199, values.mean(), stats.sem(values))
    assert found.mean == found.estimate == pytest.approx(values.mean())
    assert found.low == pytest.approx(low, abs=0.15 * (high - low) / 2)
    assert found.high == pytest.approx(high, abs=0.15 * (high - low) / 2)
    assert found.half_width == (found.high - found.low) / 2
    assert found.mean in found and found.high + 1 not in found


def test_interval_covers_as_often_as_it_says():
    hits = [
        280.0 in ConfidenceInterval(0.8, n_bootstrap=300, seed=seed)(normal(40, seed))
        for seed in range(300)
    ]
    low, high = clopper_pearson(sum(hits), len(hits), confidence=0.999)
    assert low < 0.8 < high


def test_interval_is_seeded_and_widens_with_confidence():
    values = normal(50)
    narrow = ConfidenceInterval(0.5)(values)
    wide = ConfidenceInterval(0.99)(values)
    assert narrow == ConfidenceInterval(0.5)(values)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert wide.confidence == 0.99 and wide.n == 50


def test_interval_is_equivariant_under_shift_and_scale():
    values = normal(60)
    plain, moved = ConfidenceInterval()(values), ConfidenceInterval()(10 * values - 5)
    assert moved.low == pytest.approx(10 * plain.low - 5)
    assert moved.high == pytest.approx(10 * plain.high - 5)


def test_bca_leans_towards_the_tail_of_skewed_data():
    values = np.random.default_rng(3).exponential(size=30)
    bca, percentile = ConfidenceInterval()(values), ConfidenceInterval(method="percentile")(values)
    assert bca.low > percentile.low and bca.high > percentile.high


@pytest.mark.parametrize("value", [0.0, 0.1, -273.15])
def test_equal_values_have_an_interval_of_no_width(value):
    found = ConfidenceInterval()(np.full(7, value))
    assert (found.low, found.estimate, found.high) == (value, value, value)


def test_one_value_has_no_spread():
    found = ConfidenceInterval()([3.0])
    assert found.mean == 3.0 and math.isnan(found.low) and math.isnan(found.high)


@pytest.mark.parametrize("values", [[1.0, 2.0], [0.0] * 99 + [1.0], [1e9, 1e9 + 1e-6]])
def test_tiny_and_nearly_equal_samples_have_finite_ends(values):
    found = ConfidenceInterval(n_bootstrap=500)(values)
    assert min(values) <= found.low <= found.high <= max(values)


def test_many_values_stay_within_memory():
    found = ConfidenceInterval(n_bootstrap=50, method="percentile")(normal(200_000))
    assert found.half_width == pytest.approx(1.96 * 17 / math.sqrt(200_000), rel=0.4)


def test_pairing_takes_away_what_the_pairs_share():
    difficulty = normal(100, std=100.0)
    a, b = difficulty + normal(100, 1, 5.0, 1.0), difficulty + normal(100, 2, 0.0, 1.0)
    found = paired_difference(a, b)
    assert 5.0 in found and found.half_width < 0.5
    swapped = paired_difference(b, a)
    assert swapped.estimate == pytest.approx(-found.estimate)


def test_t_test_by_hand():
    found = paired_t_test([1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0])
    t = 2.5 / (math.sqrt(5 / 3) / 2)
    assert found.statistic == pytest.approx(t)
    assert found.p_value == pytest.approx(2 * stats.t.sf(t, 3))
    assert found.mean_difference == 2.5 and found.n == 4


def test_wilcoxon_by_enumeration():
    found = wilcoxon_test([1.1, 2.2, 3.3, -0.4, 5.5], [0.0] * 5)
    # ranks of |d|: -0.4 has rank 1; of 2^5 sign patterns 2 have rank sum <= 1 on each side
    assert found.statistic == 1.0
    assert found.p_value == pytest.approx(2 * 2 / 32)


def test_signs_flipped_by_enumeration():
    # of 2^4 ways four have a sum at least as far out as 4 + 3 + 2 - 1: all alike, and 1 turned
    found = sign_flip_test([4.0, 3.0, 2.0, 0.0], [0.0, 0.0, 0.0, 1.0])
    assert found.p_value == pytest.approx(4 / 16) and found.mean_difference == 2.0
    assert sign_flip_test([1.0], [0.0]).p_value == 1.0  # one pair says nothing


def test_a_draw_of_signs_comes_close_to_all_of_them():
    a, b = normal(12, 1) + 0.6, normal(12, 2)
    drawn = sign_flip_test(a, b, n_resamples=4_000).p_value
    every = sign_flip_test(a, b).p_value
    assert drawn == pytest.approx(every, abs=4 * (every / 4_000) ** 0.5)
    assert sign_flip_test(np.full(30, 2.0), np.zeros(30), n_resamples=99).p_value == 0.02


@pytest.mark.parametrize("n", [3, 10, 40])
def test_signs_flipped_hold_their_level_for_few_and_skewed_pairs(n):
    rng = np.random.default_rng(n)
    skewed = rng.exponential(size=(400, 2, n)) ** 2  # treatment or not: the same law
    rejections = sum(sign_flip_test(a, b, n_resamples=999).p_value < 0.1 for a, b in skewed)
    assert clopper_pearson(rejections, 400, confidence=0.999)[0] < 0.1


def test_mcnemar_by_enumeration():
    # 9 pairs differ, in 8 of them it happened in a: of 2^9 ways 1 + 9 lie as far out on each side
    a, b = [True] * 8 + [False] + [True, False] * 20, [False] * 8 + [True] + [True, False] * 20
    found, back = mcnemar_test(a, b), mcnemar_test(b, a)
    assert found.statistic == 8 and back.statistic == 1 and found.n == 49
    assert found.p_value == pytest.approx(2 * 10 / 2**9) == back.p_value
    assert found.mean_difference == pytest.approx(7 / 49)


def test_mcnemar_never_rejects_too_often():
    rng = np.random.default_rng(3)
    pairs = [rng.random((2, 30)) < 0.3 for _ in range(400)]
    rejections = sum(mcnemar_test(a, b).p_value < 0.1 for a, b in pairs)
    assert 0 < clopper_pearson(rejections, 400, confidence=0.999)[0] < 0.1


def outcomes(more, less, n):
    """(a, b) [n] in which it happened in a only, and in b only, so often."""
    at = np.arange(n)
    return at < more, (at >= more) & (at < more + less)


def enumerated(counts, n, margin):
    """The exact p-value of (more, less) by summing over all counts at many nuisance values."""
    pairs = [(i, j) for i in range(n + 1) for j in range(n + 1 - i)]
    seen = non_inferiority_z(*counts, n, margin)
    as_low = [(i, j) for i, j in pairs if non_inferiority_z(i, j, n, margin) <= seen + 1e-9]
    ways = np.array([math.comb(n, i) * math.comb(n - i, j) for i, j in as_low], dtype=float)
    i, j = np.array(as_low).T
    found = []
    for differing in np.linspace(margin, 1.0, 2001):
        more, less = (differing + margin) / 2, (differing - margin) / 2
        found.append(np.sum(ways * more**i * less**j * (1 - differing) ** (n - i - j)))
    return max(found)


@pytest.mark.parametrize("counts", [(0, 0), (1, 2), (0, 3), (2, 1), (0, 8)])
@pytest.mark.parametrize("margin", [0.05, 0.15])
def test_non_inferiority_by_enumeration(counts, margin):
    found = non_inferiority_test(*outcomes(*counts, 8), margin)
    assert found.p_value == pytest.approx(enumerated(counts, 8, margin), rel=1e-3)
    assert found.mean_difference == (counts[0] - counts[1]) / 8


def test_non_inferiority_needs_as_many_pairs_without_a_difference_as_the_margin_says():
    """Where none differs only n speaks: a rise of 2% would stay unseen with 0.98^n."""
    for n in (100, 149, 160):
        found = non_inferiority_test(*outcomes(0, 0, n), 0.02)
        assert found.p_value >= 0.98**n * 0.999
    assert found.p_value < 0.05


@pytest.mark.parametrize("differing", [0.02, 0.06, 0.3, 1.0])
def test_non_inferiority_is_wrong_at_most_as_often_as_it_says(differing):
    """Where the rate rises by just the margin. The p-value rises with the score."""
    rng, n, margin = np.random.default_rng(0), 300, 0.02
    share = [(differing + margin) / 2, (differing - margin) / 2, 1 - differing]
    counts = rng.multinomial(n, share, 2000)[:, :2]
    scores = non_inferiority_z(counts[:, 0], counts[:, 1], n, margin)
    in_order = np.argsort(scores)

    def accepted(place):
        pair = outcomes(*counts[in_order[place]], n)
        return non_inferiority_test(*pair, margin).p_value > 0.1

    rejected = bisect.bisect_left(range(2000), True, key=accepted)
    assert clopper_pearson(rejected, 2000, confidence=0.999)[0] <= 0.1
    assert rejected > 20  # not bought by never rejecting


def test_non_inferiority_falls_with_fewer_failures():
    p_values = [non_inferiority_test(*outcomes(more, 5, 200), 0.05).p_value for more in range(20)]
    assert (np.diff(p_values) > 0).all() and p_values[-1] > 0.3


def test_non_inferiority_refuses_what_is_no_yes_or_no():
    with pytest.raises(DataError, match="True and False"):
        non_inferiority_test([0.0, 0.5], [True, False], 0.02)


def test_mcnemar_refuses_what_is_no_yes_or_no():
    with pytest.raises(DataError, match="expected True and False in a and b"):
        mcnemar_test([0.0, 0.5], [True, False])
    with pytest.raises(DataError, match="expected pairs"):
        mcnemar_test([True], [True, False])


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, and never falling
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.9]).tolist() == [1.0, 1.0] and holm([0.2]).tolist() == [0.2]
    assert holm([0.0, 1.0]).tolist() == [0.0, 1.0]


def test_holm_finds_anything_in_no_more_than_its_share_of_families():
    families = np.random.default_rng(5).random((1000, 20))  # nothing is there to find
    found = sum((holm(family) <= 0.1).any() for family in families)
    low, high = clopper_pearson(int(found), 1000, confidence=0.999)
    assert low < 1 - (1 - 0.1 / 20) ** 20 < high


def test_holm_refuses_what_is_no_probability():
    for bad in ([0.5, 1.1], [-0.1], [math.nan], []):
        with pytest.raises(DataError):
            holm(bad)


@pytest.mark.parametrize("test", [paired_t_test, wilcoxon_test, sign_flip_test])
def test_tests_are_antisymmetric_and_find_a_difference(test):
    a, b = normal(60, 1) + 8, normal(60, 2)
    there, back = test(a, b), test(b, a)
    assert there.p_value == pytest.approx(back.p_value) and there.p_value < 0.05
    assert there.mean_difference == pytest.approx(-back.mean_difference)
    assert there.mean_difference == pytest.approx(np.mean(a - b))


@pytest.mark.parametrize("test", [paired_t_test, wilcoxon_test, sign_flip_test])
def test_tests_hold_their_level(test):
    rejections = sum(test(normal(25, i), normal(25, 10_000 + i)).p_value < 0.1 for i in range(400))
    low, high = clopper_pearson(rejections, 400, confidence=0.999)
    assert low < 0.1 < high


@pytest.mark.parametrize("test", [paired_t_test, wilcoxon_test, sign_flip_test, mcnemar_test])
def test_equal_inputs_do_not_differ(test):
    values = normal(20) > 0 if test is mcnemar_test else normal(20)
    found = test(values, values)
    assert (found.statistic, found.p_value, found.mean_difference) == (0.0, 1.0, 0.0)


def test_constant_difference_is_certain():
    found = paired_t_test([1.0, 2.0, 3.0], [2.0, 3.0, 4.0])
    assert (found.statistic, found.p_value, found.mean_difference) == (-math.inf, 0.0, -1.0)


@pytest.mark.parametrize(("n", "confidence"), [(20, 0.95), (150, 0.9)])
def test_clopper_pearson_closed_forms_at_the_ends(n, confidence):
    tail = (1 - confidence) / 2
    assert clopper_pearson(0, n, confidence) == pytest.approx((0.0, 1 - tail ** (1 / n)))
    assert clopper_pearson(n, n, confidence) == pytest.approx((tail ** (1 / n), 1.0))


def test_clopper_pearson_inverts_the_binomial_tails():
    low, high = clopper_pearson(8, 150)
    assert stats.binom.sf(7, 150, low) == pytest.approx(0.025)
    assert stats.binom.cdf(8, 150, high) == pytest.approx(0.025)


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (0, 0), (-1, 3), (4, 3), (0.5, 3)])
def test_clopper_pearson_refuses_impossible_counts(successes, trials):
    with pytest.raises(DataError, match="expected"):
        clopper_pearson(successes, trials)


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [1.0, math.inf]])
def test_bad_values_are_refused(bad):
    with pytest.raises(DataError, match="expected"):
        ConfidenceInterval()(bad)
    for function in (paired_t_test, wilcoxon_test, paired_difference):
        with pytest.raises(DataError, match="expected"):
            function(bad, bad)


@pytest.mark.parametrize("function", [paired_t_test, wilcoxon_test, paired_difference])
def test_unequal_lengths_are_refused(function):
    with pytest.raises(DataError, match="2 values in a and 3 in b"):
        function([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ShapeError, match=r"\[2, 1\]"):
        function([[1.0], [2.0]], [1.0, 2.0])


def test_t_test_needs_two_pairs():
    with pytest.raises(DataError, match="at least 2 pairs, got 1"):
        paired_t_test([1.0], [2.0])


@pytest.mark.parametrize(
    "arguments", [{"confidence": 0.0}, {"confidence": 95}, {"n_bootstrap": 0}, {"method": "bca"}]
)
def test_bad_settings_are_refused(arguments):
    with pytest.raises(ConfigError, match="expected"):
        ConfidenceInterval(**arguments)
