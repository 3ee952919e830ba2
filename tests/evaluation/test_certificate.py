import json
import math

import numpy as np
import pytest
from scipy.stats import binom

from flowshield.errors import ConfigError, DataError, FileFormatError, ShapeError
from flowshield.evaluation.certificate import (
    ASSUMPTIONS,
    Certificate,
    Outcomes,
    PairedLosses,
    betting_p_value,
    certificate_text,
    certify,
    check_episodes,
    hoeffding_bentkus_p_value,
    least_episodes,
)
from flowshield.evaluation.statistics import clopper_pearson, non_inferiority_test
from flowshield.models.intent import Intent

EPSILON, DELTA = 0.02, 0.05
P_VALUES = {"betting": betting_p_value, "hoeffding_bentkus": hoeffding_bentkus_p_value}

# laws on [-1, 1] whose mean is exactly epsilon: there a test may be wrong with probability delta
BOUNDARY = {
    "loss of 1": lambda rng, size: (rng.random(size) < EPSILON).astype(float),
    "gain or loss of 1": lambda rng, size: np.where(rng.random(size) < 0.51, 1.0, -1.0),
    "rare flips": lambda rng, size: rng.choice([1.0, -1.0, 0.0], size, p=[0.05, 0.03, 0.92]),
    "beta": lambda rng, size: 2 * rng.beta(2 * 1.02, 2 * 0.98, size) - 1,
    "small beta": lambda rng, size: rng.beta(0.2, 9.8, size),
    "sparse": lambda rng, size: np.where(rng.random(size) < 0.1, rng.uniform(0, 0.4, size), 0.0),
    "gains that pay": lambda rng, size: np.where(rng.random(size) < 0.06, 1.0, -0.04 / 0.94),
    "constant": lambda rng, size: np.full(size, EPSILON),
}


def sparse(rng, size):
    """What harm looks like: nothing in 90% of the episodes, little in the others."""
    return np.where(rng.random(size) < 0.1, rng.uniform(-0.1, 0.1, size), 0.0)


def paired(utility, failure=None, replaced=0.25):
    n = len(utility)
    failure = None if failure is None else np.asarray(failure, dtype=float)
    return PairedLosses(np.asarray(utility, dtype=float), failure, np.arange(n) < replaced * n)


def certified(family, harms, **options):
    """A certificate of rules whose losses are given by rule; return range 1 unless stated."""
    options = {"return_range": 1.0, "intent": Intent()} | options
    return certify(family, lambda rule: harms[rule], **options)


@pytest.mark.parametrize("bound", P_VALUES)
@pytest.mark.parametrize("law", BOUNDARY)
@pytest.mark.parametrize("n", [150, 400])
def test_a_true_null_is_rejected_with_probability_delta_at_most(law, bound, n):
    losses = BOUNDARY[law](np.random.default_rng(n), (4000, n))
    if bound == "betting":
        p_values = betting_p_value(losses, EPSILON, DELTA)
    else:
        p_values = hoeffding_bentkus_p_value(losses, EPSILON)
    for level in (DELTA, 0.2):  # valid at every level, not only that for which the bets are made
        rejected = int((p_values <= level).sum())
        assert clopper_pearson(rejected, len(losses), confidence=0.999)[0] <= level


def test_the_validity_above_is_not_bought_by_never_rejecting():
    flips = BOUNDARY["rare flips"](np.random.default_rng(0), (4000, 400))
    assert np.mean(betting_p_value(flips, EPSILON) <= DELTA) > 0.01
    loss = BOUNDARY["loss of 1"](np.random.default_rng(0), (4000, 150))
    assert np.mean(hoeffding_bentkus_p_value(loss, EPSILON) <= DELTA) > 0.03


def test_the_capital_follows_the_definition():
    losses = np.random.default_rng(1).uniform(-0.5, 0.4, 500)
    capital = [1.0]
    for t, x in enumerate(losses):
        seen = np.concatenate([[0.0], losses[:t]])  # the loss that was assumed before any
        squares = np.concatenate([[EPSILON * (1 - EPSILON) ** 2], losses[:t] ** 2])
        variance = squares.mean() - seen.mean() ** 2
        planned = max(t + 1, 2 * math.log(1 / DELTA) / EPSILON)
        bet = math.sqrt(2 * math.log(1 / DELTA) / (variance * planned))
        capital.append(capital[-1] * (1 + min(bet, 0.95 / (1 - EPSILON)) * (EPSILON - x)))
    assert betting_p_value(losses, EPSILON, DELTA) == pytest.approx(1 / max(capital))


def test_many_sequences_at_once_are_each_tested_alone():
    losses = sparse(np.random.default_rng(2), (3, 5, 160))
    for p_value in P_VALUES.values():
        together = p_value(losses, EPSILON)
        assert together.shape == (3, 5)
        assert together[2, 4] == pytest.approx(float(p_value(losses[2, 4], EPSILON)))


@pytest.mark.parametrize("epsilon", [0.001, 0.02, 0.1, 0.5])
@pytest.mark.parametrize("delta", [0.001, 0.05, 0.3])
@pytest.mark.parametrize("bound", P_VALUES)
def test_the_least_number_is_that_which_certifies_losses_of_zero(epsilon, delta, bound):
    least = least_episodes(epsilon, delta)
    at_least = certified([1.0], {1.0: paired(np.zeros(least))}, epsilon=epsilon, delta=delta)
    assert at_least.chosen == 1.0
    assert betting_p_value(np.zeros(least - 1), epsilon, delta) > delta
    many = paired(np.zeros(7 * least))
    found = certified([1.0], {1.0: many}, epsilon=epsilon, delta=delta, bound=bound)
    assert found.chosen == 1.0


def test_the_least_number_at_the_defaults_is_near_the_best_there_is():
    assert least_episodes(0.02, 0.05) == 157
    assert 0.98**148 > 0.05 > 0.98**149  # no test certifies 148 losses of zero


def test_more_episodes_of_any_kind_never_raise_the_p_value():
    """So a test may be repeated whenever episodes are added: it holds at all numbers at once."""
    losses = BOUNDARY["rare flips"](np.random.default_rng(3), (50, 400))
    p_values = np.stack([betting_p_value(losses[:, :n], EPSILON) for n in range(1, 401)])
    assert (np.diff(p_values, axis=0) <= 1e-12).all() and (p_values[-1] < p_values[0]).any()


def test_p_values_fall_with_the_loss_and_with_epsilon():
    losses = sparse(np.random.default_rng(4), (20, 300))
    for p_value in P_VALUES.values():
        assert (p_value(losses - 0.05, EPSILON) <= p_value(losses, EPSILON)).all()
        assert (p_value(losses, 0.05) <= p_value(losses, EPSILON)).all()
        assert (p_value(np.full((1, 300), 0.5), EPSILON) == 1.0).all()


def test_power_on_losses_that_are_zero_in_nine_of_ten_episodes():
    rng = np.random.default_rng(5)
    power = {}
    for n in (100, 150, 160, 200, 300):
        losses = sparse(rng, (1000, n))
        power[n] = [float(np.mean(p(losses, EPSILON) <= DELTA)) for p in P_VALUES.values()]
    assert power[100][0] == 0.0  # nobody can: a loss of 1 may be unseen
    assert 0.2 < power[150][0] < power[160][0] < power[200][0] and power[200][0] > 0.95
    assert power[300][0] == 1.0
    assert power[150][1] < 0.05 and power[200][1] < 0.3  # Hoeffding-Bentkus


def test_power_where_few_episodes_fail_because_of_the_guard():
    """A bet that one loss of 1 ruins is never certified again: that is why bets have a limit."""
    failures = (np.random.default_rng(10).random((1000, 600)) < 0.005).astype(float)
    assert np.mean(betting_p_value(failures, EPSILON) <= DELTA) > 0.65


def test_power_where_gains_pay_for_losses():
    flips = np.random.default_rng(6).choice([1.0, -1.0, 0.0], (1000, 200), p=[0.02, 0.1, 0.88])
    assert np.mean(betting_p_value(flips, EPSILON) <= DELTA) > 0.75
    assert np.mean(hoeffding_bentkus_p_value(flips, EPSILON) <= DELTA) < 0.1


def test_the_exact_test_of_failures_sees_more_than_the_bets():
    """Why failures have a test of their own: a guard often swaps which episodes fail."""
    rng, power = np.random.default_rng(11), []
    flips = rng.choice([1.0, -1.0, 0.0], (40, 1000), p=[0.03, 0.03, 0.94])
    for losses in flips:
        exact = non_inferiority_test(losses > 0, losses < 0, EPSILON).p_value
        power.append([exact <= DELTA, float(betting_p_value(losses, EPSILON)) <= DELTA])
    exact, betting = np.mean(power, axis=0)
    assert exact > 0.6 and exact > betting + 0.2


@pytest.mark.parametrize("n", [150, 400])
@pytest.mark.parametrize("k", [0, 1, 3, 20])
def test_hoeffding_bentkus_is_its_closed_form(n, k):
    losses = np.arange(n) < k
    mean = min(k / n, EPSILON)
    entropy = (1 - mean) * math.log((1 - mean) / (1 - EPSILON))
    entropy += mean * math.log(mean / EPSILON) if k else 0.0
    bentkus = math.e * binom.cdf(k, n, EPSILON)
    expected = min(1.0, math.exp(-n * entropy), bentkus)
    assert hoeffding_bentkus_p_value(losses, EPSILON) == pytest.approx(expected)
    gains = np.where(np.arange(n) >= n - 10, -1.0, losses)  # a gain counts as nothing
    assert hoeffding_bentkus_p_value(gains, EPSILON) == pytest.approx(expected)


def test_the_sums_rounding_is_not_one_loss_more():
    losses = np.repeat([0.2, 0.0], [25, 375])
    whole = np.repeat([1.0, 0.0], [5, 395])
    assert losses.sum() > 5.0
    assert hoeffding_bentkus_p_value(losses, EPSILON) == pytest.approx(
        float(hoeffding_bentkus_p_value(whole, EPSILON))
    )


def test_losses_of_outcomes_follow_the_intent():
    commands = [[100, 50], [100, 50], [100, 50]]
    before = Outcomes([40, 80, 50], [100, 100, 90], [True, False, False])
    after = Outcomes([60, 45, 50], [100, 100, 110], [False, True, False])
    replaced = [1, 1, 0]
    at_least = PairedLosses.of(Intent(), commands, before, after, replaced)
    assert at_least.utility.tolist() == [-10, 5, 0]
    assert at_least.failure.tolist() == [-1, 1, 0]
    assert at_least.replaced.tolist() == [True, True, False]
    exact = PairedLosses.of(Intent("exact", 0.5), commands, before, after, replaced)
    assert exact.utility.tolist() == [0, -25, 5]


def test_a_certificate_does_not_change_with_the_unit_of_rewards():
    losses = sparse(np.random.default_rng(7), 300)
    found = certified([1.0], {1.0: paired(losses)})
    in_millionths = certified([1.0], {1.0: paired(losses * 2.0**20)}, return_range=2.0**20)
    assert found.tests == in_millionths.tests


def test_harm_beyond_the_range_counts_as_the_whole_range():
    losses = np.zeros(400)
    losses[0], losses[1] = 50.0, -50.0
    (test,) = certified([1.0], {1.0: paired(losses)}).tests
    assert test.mean_harm == 0.0
    (test,) = certified([1.0], {1.0: paired(np.maximum(losses, 0))}).tests
    assert test.mean_harm == 1 / 400


def test_rules_are_tested_in_order_until_one_is_not_certified():
    harms = {0.5: paired(np.full(200, -0.1)), 0.2: paired(np.zeros(200))}
    harms |= {0.1: paired(np.full(200, 0.1)), 0.0: paired(np.full(200, -1.0))}
    asked = []

    def losses(rule):
        asked.append(rule)
        return harms[rule]

    found = certify([0.5, 0.2, 0.1, 0.0], losses, return_range=1.0, intent=Intent())
    assert asked == [0.5, 0.2, 0.1] == [test.rule for test in found.tests]
    assert [test.certified for test in found.tests] == [True, True, False]
    assert found.chosen == 0.2 and found.episodes_that_would_do is None
    assert found.tests[0].mean_harm == pytest.approx(-0.1)
    assert found.tests[0].share_replaced == 0.25 and found.n_episodes == found.tests[0].n == 200


def test_all_rules_may_be_certified():
    found = certified([2.0, 1.0], {2.0: paired(np.zeros(160)), 1.0: paired(np.zeros(160))})
    assert found.chosen == 1.0 and len(found.tests) == 2


def test_the_chosen_rule_harms_too_much_with_probability_delta_at_most():
    """Five rules, the last three of which are true nulls at the boundary, 600 certificates."""
    rng = np.random.default_rng(8)
    wrong = 0
    for _ in range(600):
        harms = {rule: paired(np.zeros(160)) for rule in (0.0, 1.0)}
        harms |= {rule: paired(rng.random(160) < EPSILON) for rule in (2.0, 3.0, 4.0)}
        chosen = certified([0.0, 1.0, 2.0, 3.0, 4.0], harms).chosen
        wrong += chosen is not None and chosen >= 2.0
    assert clopper_pearson(wrong, 600, confidence=0.999)[0] <= DELTA


def test_utility_and_failure_must_both_be_rejected():
    good, bad = np.zeros(200), np.arange(200) < 20  # a tenth
    both = certified([1.0], {1.0: paired(good, good)})
    assert both.chosen == 1.0 and both.tests[0].mean_failure_harm == 0.0
    exact = non_inferiority_test(good, good, EPSILON).p_value
    assert both.tests[0].failure_p_value == exact <= DELTA
    for utility, failure in ((good, bad), (bad, good), (bad, bad)):
        assert certified([1.0], {1.0: paired(utility, failure)}).chosen is None
    unknown = certified([1.0], {1.0: paired(good)})
    assert unknown.tests[0].failure_p_value is None and unknown.chosen == 1.0


@pytest.mark.parametrize("bound", P_VALUES)
def test_the_number_that_would_do_certifies_in_four_of_five_draws(bound):
    rng = np.random.default_rng(9)
    losses = rng.permutation(np.repeat([0.1, 0.0], [20, 180]))
    found = certified([1.0], {1.0: paired(losses)}, bound=bound)
    assert found.chosen is None and found.episodes_that_would_do > 200

    def power(n):
        drawn = rng.choice(losses, (400, int(n)))
        return np.mean(P_VALUES[bound](drawn, EPSILON) <= DELTA)

    assert power(found.episodes_that_would_do) > 0.7
    assert power(0.8 * found.episodes_that_would_do) < 0.8


def test_more_episodes_do_not_help_a_rule_that_harms():
    for utility, failure in ((np.full(200, 0.021), None), (np.zeros(200), np.arange(200) < 4)):
        found = certified([1.0], {1.0: paired(utility, failure)})
        assert found.chosen is None and found.episodes_that_would_do is None
        assert "more episodes like these do not help" in certificate_text(found)


def test_no_number_is_named_that_nobody_can_run():
    losses = np.where(np.arange(1000) % 2, 1.0, -0.9612)  # a mean of 0.0194
    found = certified([1.0], {1.0: paired(losses)})
    assert found.chosen is None and found.episodes_that_would_do is None
    assert "more than 15700 episodes are needed" in certificate_text(found)


def test_the_failures_count_in_the_number_that_would_do():
    failure = np.zeros(200)
    failure[:2] = 1.0
    fast = certified([1.0], {1.0: paired(np.zeros(200), np.zeros(200))})
    slow = certified([1.0], {1.0: paired(np.zeros(200), failure)})
    assert fast.chosen == 1.0 and slow.episodes_that_would_do > 400


@pytest.fixture
def some_certificate():
    harms = {0.5: paired(np.full(200, -0.013)), 0.1: paired(np.full(200, 0.1))}
    return certified([0.5, 0.1], harms, intent=Intent("exact", 0.25), return_range=1)


def test_a_certificate_survives_json(some_certificate):
    with_failures = certified([1.0], {1.0: paired(np.zeros(160), np.zeros(160))})
    refused = certified([1.0], {1.0: paired(np.repeat([0.1, 0.0], [20, 180]))})
    for certificate in (some_certificate, with_failures, refused):
        text = json.dumps(certificate.to_json(), allow_nan=False)
        assert Certificate.from_json(json.loads(text)) == certificate
        assert json.loads(text)["format_version"] == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c.pop("format_version"), "format version 1, got None"),
        (lambda c: c.update(format_version=2), "got 2"),
        (lambda c: c.pop("bound"), "expected the keys"),
        (lambda c: c.update(alpha=0.1), "expected the keys .* of Certificate"),
        (lambda c: c["intent"].pop("kind"), "expected the keys kind, step_cost of Intent"),
        (lambda c: c["intent"].update(kind="most"), "unknown intent"),
        (lambda c: c["tests"][1].update(extra=1), "of RuleTest"),
        (lambda c: c["tests"][0].pop("certified"), "of RuleTest"),
        (lambda c: c["tests"].append(3), "of RuleTest"),
        (lambda c: c["tests"][0].update(p_value=None), "expected p_value of RuleTest as float"),
        (lambda c: c["tests"][0].update(n=True), "expected n of RuleTest as int"),
        (lambda c: c.update(tests={}), "expected tests"),
        (lambda c: c.update(chosen="0.5"), "expected chosen"),
        (lambda c: c.update(assumptions=[1]), "expected assumptions"),
    ],
)
def test_other_json_is_refused(some_certificate, change, told):
    content = some_certificate.to_json()
    change(content)
    with pytest.raises(FileFormatError, match=told):
        Certificate.from_json(content)


def test_what_is_no_object_is_refused():
    with pytest.raises(FileFormatError, match="expected a certificate"):
        Certificate.from_json([])


def test_the_text_of_a_certified_rule_says_what_holds(some_certificate):
    text = certificate_text(some_certificate)
    assert text.splitlines()[0] == (
        "With 95% confidence, the guard's rule 0.5 harms by at most 2% of the range of returns "
        "(0.02) on average. The environment knows no failure, so nothing is said of failures. Seen "
        "in 200 paired episodes: mean harm −1.30% of the range "
        f"(p = {some_certificate.tests[0].p_value:.2g}), a command replaced in 25%."
    )
    assert text.splitlines()[1:] == ["It assumes:", *(f"- {one}" for one in ASSUMPTIONS)]


def test_the_text_speaks_of_failures_where_they_are_known():
    text = certificate_text(certified([1.0], {1.0: paired(np.zeros(160), np.zeros(160))}))
    assert "and raises the failure rate by at most 2%." in text
    assert "failure rate +0.00% (p = 0.04)" in text


def test_the_text_of_no_certificate_says_what_would_do():
    found = certified([0.7], {0.7: paired(np.repeat([0.1, 0.0], [20, 180]))}, delta=0.1)
    first = certificate_text(found).splitlines()[0]
    assert first.startswith(
        "Nothing is certified, so the guard does not replace any command. Its most cautious rule, "
        "0.7, would have to be shown to harm by at most 2% with 90% confidence."
    )
    assert f"About {found.episodes_that_would_do} episodes would certify it" in first


@pytest.mark.parametrize("rule_n", [(156, 200), (200, 156)])
def test_too_few_episodes_are_refused_with_the_number(rule_n):
    harms = {rule: paired(np.zeros(n)) for rule, n in zip((2.0, 1.0), rule_n, strict=True)}
    with pytest.raises(DataError, match="at least 157 certificate episodes .* got 156"):
        certified([2.0, 1.0], harms)
    with pytest.raises(DataError, match="at least 157"):
        check_episodes(156, EPSILON, DELTA)
    check_episodes(157, EPSILON, DELTA)


def test_rules_tested_on_different_episodes_are_refused():
    zeros = paired(np.zeros(200))
    for other in (paired(np.zeros(201)), paired(np.zeros(200), np.zeros(200))):
        with pytest.raises(DataError, match="the same episodes for every rule"):
            certified([2.0, 1.0], {2.0: zeros, 1.0: other})


def test_bad_losses_are_refused():
    for bad in (math.nan, math.inf):
        with pytest.raises(DataError, match="1 NaN or infinite of 3"):
            paired([0.0, bad, 0.0])
    with pytest.raises(DataError, match="-1, 0 or 1"):
        paired([0.0, 0.0], [0.5, 0.0])
    with pytest.raises(DataError, match="-1, 0 or 1"):
        paired([0.0, 0.0], [math.nan, 0.0])
    with pytest.raises(ShapeError, match="one n"):
        paired([0.0, 0.0], [0.0])
    with pytest.raises(ShapeError, match="one n"):
        paired([[0.0, 0.0]])
    nan = Outcomes([math.nan, 1], [1, 1], None)
    with pytest.raises(DataError, match="1 NaN"):
        PairedLosses.of(Intent(), [[1, 1], [1, 1]], nan, nan, [0, 0])
    with pytest.raises(DataError, match="both sides or of neither"):
        PairedLosses.of(
            Intent(), [[1, 1]], Outcomes([1], [1], None), Outcomes([1], [1], [False]), [0]
        )
    with pytest.raises(ShapeError, match=r"commands \[n, 2\]"):
        PairedLosses.of(Intent(), [[1, 1]], nan, nan, [0, 0])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": 0.6}, "epsilon"),
        ({"epsilon": math.nan}, "epsilon"),
        ({"delta": 1.0}, "delta"),
        ({"delta": 0.0}, "delta"),
        ({"bound": "t"}, "unknown bound"),
        ({"return_range": 0.0}, "harm has no unit"),
        ({"return_range": math.nan}, "return_range"),
        ({"family": []}, "family"),
        ({"family": [1.0, 1.0]}, "different"),
        ({"family": [math.inf, 1.0]}, "never replace"),
    ],
)
def test_bad_arguments_are_refused_before_any_loss_is_asked(options, told):
    def losses(rule):
        raise AssertionError("rollouts cost time")

    options = {"family": [1.0], "return_range": 1.0, "intent": Intent()} | options
    with pytest.raises(ConfigError, match=told):
        certify(options.pop("family"), losses, **options)
