import math

import pytest

from flowshield.counted import counted
from flowshield.evaluation.wording import (
    all_equal,
    command_label,
    command_words,
    decimals_for,
    interval_words,
    listed,
    number,
    percent,
    percent_interval,
    percent_range,
    plus_minus,
    shield_label,
    short_number,
)
from flowshield.models.scale import ReturnScale


@pytest.mark.parametrize(
    ("value", "decimals", "said"),
    [(283.6, 0, "284"), (-131.9, 0, "−132"), (-0.2, 0, "0"), (None, 0, "–"), (math.nan, 1, "–")],
)
def test_number(value, decimals, said):
    assert number(value, decimals) == said


@pytest.mark.parametrize(
    ("value", "decimals", "said"),
    [
        (0.5, 2, "0.50"),
        (5.03e-7, 8, "5.0e−7"),
        (-5.03e-7, 9, "−5.03e−7"),
        (0.0, 8, "0"),
        (1e-20, 8, "0"),  # a difference of equal numbers, rounded
        (3e-9, 8, "3e−9"),
        (9.96e-7, 8, "1.0e−6"),
        (0.00123, 5, "0.00123"),
        (999_999.0, 0, "999999"),
        (-1_234_567.0, 0, "−1.234567e6"),
        (503_217.0, -3, "503217"),
        (503_217.0, -4, "5.0e5"),
        (5.1e11, -10, "5.1e11"),
        (math.inf, 2, "inf"),
        (-math.inf, 9, "−inf"),
    ],
)
def test_a_number_that_would_be_long_has_an_exponent(value, decimals, said):
    assert number(value, decimals) == said


@pytest.mark.parametrize("unit", [float(f"1e{n}") for n in range(-12, 13)])
@pytest.mark.parametrize("mean", [0.503, -0.98, 0.047, 12.3])
def test_a_mean_is_written_to_a_hundredth_of_the_spread_in_any_unit(mean, unit):
    decimals = ReturnScale(1.05 * unit, None).decimals
    said = plus_minus(mean * unit, (mean - 0.05) * unit, (mean + 0.05) * unit, decimals)
    found, half = (float(part.replace("−", "-")) for part in said.split(" ±"))
    assert found == pytest.approx(mean * unit, abs=0.0051 * unit)
    assert half == pytest.approx(0.05 * unit, rel=0.1)
    assert len(said) <= len("−0.00098 ±0.00005"), said


@pytest.mark.parametrize(
    ("value", "said"),
    [(280.0, "280"), (-0.25, "−0.25"), (1e-6, "1e−6"), (1e6, "1e6"), (0.2, "0.2"), (-0.0, "0")],
)
def test_a_number_as_people_type_it(value, said):
    assert short_number(value) == said


def test_a_return_in_words_has_no_more_decimals_than_it_is_worth():
    assert command_words((1000, 280)) == "return 280 in 1000 steps"
    assert command_words((1, 0.98123)) == "return 0.981 in 1 step"
    assert command_words((1, 3e-9), most_decimals=1) == "return 0.0 in 1 step"
    assert command_words((10, 5.23e-7), most_decimals=9) == "return 5.23e−7 in 10 steps"
    assert command_words((10, 2.5e6)) == "return 2.50e6 in 10 steps"
    assert command_label((10, -5e-7)) == "(10, −5e−7)"


@pytest.mark.parametrize(
    ("rate", "decimals", "said"),
    [(0.0, 0, "0%"), (0.3, 0, "30%"), (0.001, 0, "<1%"), (1e-5, 1, "<0.1%"), (None, 0, "–")],
)
def test_percent(rate, decimals, said):
    assert percent(rate, decimals) == said


def test_plus_minus_never_says_zero_for_a_width_that_is_not():
    assert plus_minus(285.0, 284.7, 285.3) == "285 ±0.3"
    assert plus_minus(285.0, 284.996, 285.004) == "285 ±0.004"
    assert plus_minus(0.5, 0.499999, 0.500001, 3) == "0.500 ±1e−6"
    assert plus_minus(285.0, 283.6, 286.6) == "285 ±2"


@pytest.mark.parametrize("half", [10.0**n for n in range(-8, 4)])
@pytest.mark.parametrize("decimals", range(-4, 7))
def test_a_width_is_never_written_as_nothing(half, decimals):
    told = plus_minus(1.0, 1.0 - half, 1.0 + half, decimals).partition("±")[2]
    assert float(told.replace("−", "-")) == pytest.approx(half, rel=0.5)


def test_equal_values_have_no_plus_minus():
    assert plus_minus(285.0, 285.0, 285.0) == "285" and plus_minus(1.0, 1.0, 1.0, 2) == "1.00"
    assert all_equal(1.0, 1.0, 10) == "all 10 equal" and all_equal(0.0, 0.0) == "all equal"
    tenth = sum([0.1] * 10) / 10  # as the mean of equal numbers may be rounded
    assert tenth != 0.1 and all_equal(tenth, 0.1) and plus_minus(0.1, tenth, 0.1, 1) == "0.1"
    assert all_equal(0.9, 1.1, 10) == all_equal(None, 1.0, 10) == all_equal(math.nan, 1.0) == ""
    assert all_equal(-math.inf, math.inf) == all_equal(math.inf, math.inf) == ""
    assert interval_words(1.0, 1.0, 1, 10) == "all 10 equal"
    assert percent_interval(1.0, 1.0) == "–" and percent_interval(0.7, 1.0, 0) == "70% to 100%"


def test_the_ends_of_an_interval_do_not_look_alike():
    assert interval_words(283.2, 286.1, 0) == "283 to 286"
    assert interval_words(285.001, 285.004, 0) == "285.001 to 285.004"
    assert interval_words(-math.inf, math.inf, 0) == "−inf to inf"
    assert interval_words(math.inf, math.inf, 0) == "inf to inf"
    assert interval_words(None, 1.0, 0) == interval_words(math.nan, 1.0, 0) == "–"


def test_a_shield_is_called_as_it_is_typed():
    assert [shield_label(name) for name in ("none", "flow_matching")] == [
        "no shield",
        "flow_matching",
    ]


@pytest.mark.parametrize(
    ("n", "said"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps"), ("–", "– steps"), (1.5, "1.5 s")]
)
def test_one_is_not_many(n, said):
    assert counted(n, "step", "s" if n == 1.5 else None) == said


def test_a_missing_mean_is_a_dash():
    assert plus_minus(None, 1.0, 2.0) == "–"


@pytest.mark.parametrize(
    ("values", "decimals"),
    [
        ([284, -3], 0),
        ([28.4], 1),
        ([0.93, None], 3),
        ([], 0),
        ([0.0], 0),
        ([5e-7], 9),
        ([28_400], 0),
        ([2.84e6], -4),
    ],
)
def test_decimals_leave_three_figures(values, decimals):
    assert decimals_for(values) == decimals


@pytest.mark.parametrize(
    ("rates", "said"),
    [([0.05], "5.0%"), ([0.3, None, 0.1], "10.0% to 30.0%"), ([0.1, 0.1], "10.0%"), ([None], "–")],
)
def test_a_range_of_shares_names_its_ends_once(rates, said):
    assert percent_range(rates) == said


def test_names_are_listed_as_people_do():
    assert [listed(list("abc")[:n]) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
