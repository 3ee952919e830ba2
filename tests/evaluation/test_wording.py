import math

import pytest

from flowshield.evaluation.wording import (
    decimals_for,
    listed,
    number,
    percent,
    percent_range,
    plus_minus,
)


@pytest.mark.parametrize(
    ("value", "decimals", "said"),
    [(283.6, 0, "284"), (-131.9, 0, "−132"), (-0.2, 0, "0"), (None, 0, "–"), (math.nan, 1, "–")],
)
def test_number(value, decimals, said):
    assert number(value, decimals) == said


@pytest.mark.parametrize(
    ("rate", "decimals", "said"),
    [(0.0, 0, "0%"), (0.3, 0, "30%"), (0.001, 0, "<1%"), (1e-5, 1, "<0.1%"), (None, 0, "–")],
)
def test_percent(rate, decimals, said):
    assert percent(rate, decimals) == said


def test_plus_minus_never_says_zero_for_a_width_that_is_not():
    assert plus_minus(285.0, 284.7, 285.3) == "285 ±0.3"
    assert plus_minus(285.0, 285.0, 285.0) == "285 ±0"
    assert plus_minus(285.0, 283.6, 286.6) == "285 ±2"
    assert plus_minus(None, 1.0, 2.0) == "–"


@pytest.mark.parametrize(
    ("values", "decimals"), [([284, -3], 0), ([28.4], 1), ([0.93, None], 3), ([], 0), ([0.0], 0)]
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
