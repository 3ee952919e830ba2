"""Does the guard help, does it harm: known answers, the law of the family, and the words."""

import numpy as np
import pytest

from flowshield.evaluation.cell_grid import CellGrid
from flowshield.evaluation.certificate import PairedLosses, certify
from flowshield.evaluation.harm import compare
from flowshield.evaluation.outcome_record import outcome_tables
from flowshield.evaluation.report import render_report
from flowshield.evaluation.summary import verdict_lines
from flowshield.models.intent import Intent

COMMAND = [100, 50]


def cell(shield, returns, crashed=None, command=COMMAND, lengths=None):
    returns = [float(value) for value in returns]
    mean = float(np.mean(returns))
    return {
        "shield": shield,
        "command": command,
        "n_episodes": len(returns),
        "return_mean": mean,
        "return_low": mean,
        "return_high": mean,
        "crash_rate": None if crashed is None else float(np.mean(crashed)),
        "returns": returns,
        "crashed": crashed,
        **({} if lengths is None else {"lengths": lengths}),
    }


def changes(*cells, guard=None):
    results = {"cells": list(cells)} | ({} if guard is None else {"guard": guard})
    return compare(results, CellGrid.from_cells(cells))


def lines(*cells, guard=None):
    results = {"cells": list(cells), "dataset": {"return_decimals": 0}}
    results |= {} if guard is None else {"guard": guard}
    return {line.split("? ")[0]: line.split("? ")[1] for line in verdict_lines(results)}


def certificate(gains, n=500):
    """A certificate of one rule that gains so much in every episode."""
    losses = PairedLosses(np.full(n, -gains), np.zeros(n), np.ones(n, dtype=bool))
    return certify([1.0], lambda _: losses, return_range=100.0, intent=Intent()).to_json()


def test_at_least_counts_no_return_beyond_what_was_asked():
    low, high = [60.0 + k for k in range(20)], [90.0 + k for k in range(20)]
    found = changes(cell("none", low), cell("a", high))
    assert found.cells[0].utility == 0.0 and found.cells[0].sign == 0
    found = changes(cell("none", high), cell("a", low))  # nor is its loss one
    assert found.cells[0].utility == 0.0 and found.harmed == ()


def test_exact_counts_what_is_missed_on_either_side_and_late_steps():
    guard = {"intent": "exact", "step_cost": 2.0}
    alone = cell("none", [45.0, 58.0], lengths=[90, 100])
    guarded = cell("a", [50.0, 50.0], lengths=[103, 100])
    (found,) = changes(alone, guarded, guard=guard).cells
    # alone -5 and -8; guarded -6 (three steps late) and 0
    assert found.utility == pytest.approx((-6 + 0 + 5 + 8) / 2)


def test_cells_without_lengths_are_left_out_where_steps_cost_something():
    guard = {"intent": "exact", "step_cost": 2.0}
    found = changes(cell("none", [1.0, 2.0]), cell("a", [2.0, 3.0]), guard=guard)
    assert found.cells == () and found.n_left_out == 1
    told = lines(cell("none", [1.0, 2.0]), cell("a", [2.0, 3.0]), guard=guard)
    assert told["Does the guard harm"] == "unknown"


def test_harm_and_help_need_more_than_chance_over_all_cells():
    # five falls of five: p = 1/16 by itself; of six 1/32, which a second cell doubles
    alone, worse = cell("none", [40.0] * 6), cell("a", [30.0 + k for k in range(6)])
    assert changes(alone, worse).harmed[0].utility == pytest.approx(-7.5)
    second = [cell(name, [40.0] * 6, command=[10, 50]) for name in ("none", "a")]
    assert changes(alone, worse, *second).harmed == ()
    better = cell("a", [41.0 + k for k in range(6)])
    assert changes(alone, better).helped and not changes(alone, better).harmed


def test_more_crashes_are_harm_whatever_the_utility():
    alone = cell("none", [30.0] * 12, [False] * 12)
    guarded = cell("a", [40.0 + k / 10 for k in range(12)], [True] * 12)
    (found,) = changes(alone, guarded).cells
    assert found.utility_sign == 1 and found.crash_sign == -1 and found.sign == -1
    (found,) = changes(alone | {"shield": "none"}, alone | {"shield": "a"}).cells
    assert found.sign == 0
    (found,) = changes(guarded | {"shield": "none"}, alone | {"shield": "a"}).cells
    assert found.crash_sign == 1 and found.utility_sign == -1 and found.sign == -1


def test_a_guard_that_changes_nothing_is_named_in_at_most_one_evaluation_of_twenty():
    rng = np.random.default_rng(0)
    named = 0
    for _ in range(200):
        cells = [
            cell(shield, rng.normal(0.0, 1.0, 8), command=[k, 100])
            for k in range(1, 5)
            for shield in ("none", "a")
        ]
        found = changes(*cells)
        named += bool(found.harmed or found.helped)
    assert named <= 18  # 10 expected at most; above 18 once in a hundred


def test_what_so_few_episodes_can_never_show_is_not_called_harmless():
    alone, worse = cell("none", [40.0] * 5), cell("a", [0.0 + k for k in range(5)])
    found = changes(alone, worse)
    assert found.harmed == () and not found.can_tell
    told = lines(alone, worse)["Does the guard harm"]
    assert told.startswith("too few episodes to tell (1 cell, Holm 5%)")


def test_the_terminal_never_says_nothing_to_fix_where_a_command_was_harmed():
    alone = cell("none", [52.0] * 20, [False] * 20)
    worse = cell("a", [49.0 - k / 100 for k in range(20)], [False] * 20)  # less than 5% short
    told = lines(alone, worse)
    assert (
        told["Is there a failure to fix"] == "none of 1 command is shown to fail without a shield"
    )
    assert told["Which shield fixes it"] == "no command fails without one, and a does harm"
    assert told["Does the guard harm"] == "yes, at (100, 50) with a: return 52 → 49"
    assert lines(alone, alone | {"shield": "a"})["Which shield fixes it"] == "nothing to fix"


def test_help_is_told_with_what_was_got_before_and_after():
    alone = cell("none", [10.0] * 20, [True] * 20)
    better = cell("a", [40.0 + k / 100 for k in range(20)], [False] * 20)
    told = lines(alone, better)
    assert told["Does the guard help"] == (
        "yes, at (100, 50) with a: return 10 → 40, crashes 100% → 0%"
    )
    assert told["Does the guard harm"] == "no cell beyond chance (1 cell, Holm 5%)"


def test_certificates_are_told_in_short_and_alike_ones_once():
    alone, same = (cell(name, [40.0 + k for k in range(20)]) for name in ("none", "a"))
    good, none = certificate(gains=1.0), certificate(gains=-1.9)
    told = lines(alone, same, guard={"intent": "at_least", "certificates": {"a": good, "b": good}})
    assert told["Does the guard harm"] == (
        "no cell beyond chance (1 cell, Holm 5%); certified: mean harm at most 2% of the returns' "
        "range (2) and at most 2% more failures with 95% confidence"
    )
    told = lines(alone, same, guard={"intent": "at_least", "certificates": {"a": good, "b": none}})
    assert "a: certified: mean harm" in told["Does the guard harm"]
    assert "b: nothing is certified, so it replaces nothing" in told["Does the guard harm"]


def test_without_a_guard_nothing_is_said_of_it():
    assert "Does the guard harm" not in lines(cell("none", [40.0] * 20))


def test_the_report_shows_changes_certificates_and_whether_predictions_are_true():
    alone, better = cell("none", [10.0] * 20), cell("a", [40.0 + k / 100 for k in range(20)])
    better["replaced"] = 0.35
    outcome = {
        "coverage": {
            "start": {"n": 500, "rate": 0.858, "low": 0.824, "high": 0.887},
            "later": {"n": 0, "rate": float("nan"), "low": 0.0, "high": 1.0},
        },
        "failure": [
            {"predicted": 0.123, "n": 57, "rate": 0.1, "low": 0.05, "high": 0.2},
            {"predicted": 0.8, "n": 112, "rate": 0.96, "low": 0.91, "high": 0.99},
        ],
    }
    guard = {"intent": "at_least", "certificates": {"a": certificate(1.0)}, "outcome": outcome}
    data = {"return_decimals": 0}
    page = render_report({"cells": [alone, better], "guard": guard, "dataset": data}, {})
    for said in ("Help and harm", "30.1", "35%", "With 95% confidence", "85.8%", "82.4% to 88.7%"):
        assert said in page
    intervals, failures = outcome_tables(outcome)
    assert [row[0] for row in intervals.rows] == ["start of episode", "one later step"]
    assert intervals.rows[1][2] == "–"  # of no episode
    assert [row[-1] for row in failures.rows] == ["yes", "no"]


def test_results_of_older_releases_render_without_an_entry_guard(results):
    assert "guard" not in results
    page = render_report(results, {})
    assert "Does the guard harm?" in page and "Predicted returns" not in page
