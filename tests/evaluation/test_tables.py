import io
import re

import pytest
from rich.console import Console

from flowshield.errors import DataError
from flowshield.evaluation.tables import detection_table, markdown_table, results_table


def printed(table, width=100):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_results_table_puts_the_unshielded_row_first_and_every_command_across(results):
    results["cells"].reverse()
    lines = printed(results_table(results)).splitlines()
    rows = [line.split()[0] for line in lines if "±" in line and "Mean" not in line]
    assert rows == ["none", "flow_matching", "quantile"]
    header = next(line for line in lines if "shield  " in line)
    assert re.findall(r"\([\d, ]+\)", header) == [
        "(200, 350)", "(1000, 280)", "(300, 400)", "(10, 500)", "(50, 350)", "(200, 280)",
    ]  # fmt: skip


def test_results_table_fits_a_terminal_of_100_columns(results):
    text = printed(results_table(results), width=100)
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text and text.count("±4") == 18
    assert "100% crash" in text and "−132 ±4" in text


def test_results_table_without_crash_test_and_with_holes(without_crash_test):
    del without_crash_test["cells"][-1]
    text = printed(results_table(without_crash_test))
    assert "% crash" not in text and "–" in text


def test_cells_hold_mean_and_half_width_of_a_lopsided_interval(results):
    results["cells"] = [{**results["cells"][0], "return_low": 280.0, "return_high": 281.0}]
    assert "282 ±0.5, 0% crash" in markdown_table(results)


def test_equal_returns_have_no_interval_either(results):
    equal = {"return_mean": 1.0, "return_low": 1.0, "return_high": 1.0, "n_episodes": 10}
    results["cells"] = [{**cell, **equal} for cell in results["cells"]]
    assert "| none | 1.00, all 10 equal, 0% crash |" in markdown_table(
        {**results, "cells": results["cells"][:1]}
    )
    text = printed(results_table(results), width=110)
    assert "±0" not in text and text.count("all 10 equal") == len(results["cells"])


def test_single_episode_has_no_interval(results):
    results["cells"] = [{**results["cells"][0], "return_low": float("nan")}]
    assert "| none | 282, 0% crash |" in markdown_table(results)


def test_rare_crashes_are_not_rounded_away(results):
    results["cells"] = [{**results["cells"][0], "crash_rate": 0.001}]
    assert "<1% crash" in markdown_table(results)


def test_markdown_table_is_a_rectangle_with_the_same_numbers(results):
    text = markdown_table(results)
    rows = [line.split(" | ") for line in text.splitlines()]
    assert {len(row) for row in rows} == {7} and len(rows) == 5
    assert rows[0][0] == "| shield" and rows[2][0] == "| none"
    assert rows[2][5] == "−132 ±4, 100% crash"
    assert text.endswith(" |\n")


def test_names_are_not_markup(results):
    for cell in results["cells"]:
        cell["shield"] = "[red]a|b"
    results["cells"] = results["cells"][:1]
    results["shields"] = {"[red]a|b": {}}
    assert "[red]a|b" in printed(results_table(results))
    assert "[red]a|b" in printed(detection_table(results))
    assert r"| [red]a\|b |" in markdown_table(results)


def test_detection_table_says_rates_and_intervals(results):
    text = printed(detection_table(results))
    assert max(map(len, text.splitlines())) <= 100 and "…" not in text
    assert "false alarms as promised: 5%, one step per episode" in text
    for said in (
        "4.9%",
        "87.1%",
        "88.1%",
        "0.954",
        "0.765",
        "5.3% (2.3% to 10.2%)",
        "99.9%",
        "9.32",
    ):
        assert said in text


def test_detection_table_of_a_shield_that_was_hardly_measured(results):
    text = printed(detection_table({"shields": {"quantile": {}}}))
    assert text.count("–") >= 6


@pytest.mark.parametrize("cell", [{"shield": "none"}, {"command": [1], "shield": "none"}])
def test_a_cell_that_is_none_is_refused(cell):
    with pytest.raises(DataError, match="'command': \\[horizon, return\\]"):
        results_table({"cells": [cell]})


def test_twice_the_same_cell_is_refused(results):
    results["cells"].append(results["cells"][0])
    with pytest.raises(DataError, match="got two"):
        markdown_table(results)


def test_nothing_evaluated_is_an_empty_table():
    assert markdown_table({}) == "| shield |\n| --- |\n"
    assert results_table({}).row_count == 0
