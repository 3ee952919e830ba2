import pytest

from flowshield.evaluation import followed_lines, followed_markdown_table
from flowshield.evaluation.follow_wording import followed_tables, followed_verdict


def test_a_line_says_that_supported_is_not_followed(results):
    first, second = followed_lines(results)
    assert first == (
        "policy on the returns that quantile supports: rank correlation 0.43 [0.31, 0.54], "
        "58% within ±17.5 of what was asked, 5% crash: supported is not followed"
    )
    assert second.endswith("supported is followed in part")


@pytest.mark.parametrize(
    ("rank", "coverage", "verdict"),
    [
        (1.0, 1.0, "followed"),
        (0.9, 0.9, "followed"),
        (0.95, 0.4, "followed in part"),
        (0.5, 1.0, "followed in part"),
        (0.0, 1.0, "not followed"),
        (None, 1.0, "unknown"),
    ],
)
def test_verdicts(rank, coverage, verdict):
    record = {"return_rank": {"mean": rank}, "coverage": {"mean": coverage}}
    assert followed_verdict(record) == verdict


def test_the_markdown_table_is_a_rectangle(results):
    results["followed"]["a|b"] = results["followed"]["quantile"]
    lines = followed_markdown_table(results).splitlines()
    assert lines[0] == (
        "| supported by | ranks of returns | of horizons | returns over all | within ±17.5 "
        "| crashed | episodes |"
    )
    assert lines[2] == (
        "| quantile | 0.43 [0.31, 0.54] | 0.21 [−0.11, 0.37] | 0.62 [0.51, 0.74] "
        "| 58% (47% to 69%) | 5% | 40 |"
    )
    assert lines[4].startswith("| a\\|b | ") and {line.count(" | ") for line in lines} == {6}


def test_gaps_are_dashes_and_nothing_is_nothing():
    assert followed_markdown_table({}) == "" and followed_lines({}) == []
    left_out = {"followed": {"quantile": {"n_episodes": 0, "n_starts_left_out": 4}}}
    assert "not measured" in followed_lines(left_out)[0]
    assert "None" not in followed_markdown_table(left_out)
    summary, levels = followed_tables(left_out)
    assert summary.rows[0][-1] == "4" and levels.rows == ()


def test_starts_that_are_all_alike_have_no_interval(results):
    alike = {"mean": 0.0, "low": 0.0, "high": 0.0}
    record = {**results["followed"]["quantile"], "return_rank": alike, "coverage": alike}
    record["levels"] = [{"achieved_return": alike, "coverage": alike}]
    told = {**results, "followed": {"quantile": record}}
    assert "rank correlation 0.00 (all equal), 0% within" in followed_lines(told)[0]
    assert "| quantile | 0.00 (all equal) |" in followed_markdown_table(told)
    summary, levels = followed_tables(told)
    assert summary.rows[0][5] == "0%" and levels.rows[0][4] == "all equal"
