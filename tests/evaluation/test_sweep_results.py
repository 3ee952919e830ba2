"""Table and figure of a sweep."""

import pytest
from rich.console import Console

from flowshield.errors import DataError
from flowshield.evaluation import plot_sweep, ranked, sweep_markdown_table, sweep_table


def trial(name, status, score, shield="quantile", rate=1e-3, **parameters):
    scores = [] if score is None else [score - 0.1, score]
    return {
        "trial": name,
        "parameters": {"shield": shield, "shield.learning_rate": rate, **parameters},
        "status": status,
        "epochs": len(scores),
        "score": score,
        "auc_roc": score,
        "false_alarm_rate": None if score is None else 0.0421,
        "scores": scores,
        "error": "the loss is no longer finite" if status == "failed" else None,
    }


TRIALS = [
    trial("a", "failed", None, rate=1.0),
    trial("b", "stopped", 0.97, "flow_matching"),
    trial("c", "finished", 0.91, rate=2e-3),
    trial("d", "finished", 0.95, "flow_matching", rate=2e-3),
]
RESULTS = {"trials": ranked(TRIALS)}


def test_finished_trials_are_ranked_by_score_before_stopped_and_failed_ones():
    assert [t["trial"] for t in RESULTS["trials"]] == ["d", "c", "b", "a"]


def test_the_tables_have_a_row_a_trial_with_what_it_drew():
    heading, _, *rows = sweep_markdown_table(RESULTS).splitlines()
    assert heading.startswith("| # | shield | learning_rate | epochs | score | AUROC |")
    assert rows[0] == "| 1 | flow_matching | 0.002 | 2 | 0.9500 | 0.9500 | 4.2% | finished |"
    assert rows[3] == "| 4 | quantile | 1 | 0 | – | – | – | failed |"
    console = Console(width=110, record=True, file=open("/dev/null", "w"))
    console.print(sweep_table(RESULTS))
    printed = console.export_text()
    assert all(t["status"] in printed for t in TRIALS) and "0.9500" in printed


def test_the_figure_has_a_panel_for_epochs_and_one_for_each_searched_number():
    trials = [
        trial("a", "finished", 0.9, **{"batch_size": 64, "scheduler.type": "cosine"}),
        trial("b", "stopped", 0.8, "mixture", 1e-2, **{"batch_size": 512, "scheduler.type": "x"}),
        trial("c", "failed", None),
    ]
    figure = plot_sweep({"trials": trials})
    epochs, rates, sizes = figure.axes
    assert epochs.get_xlabel() == "epoch" and len(epochs.lines) == 2
    assert (rates.get_xlabel(), rates.get_xscale()) == ("shield.learning_rate", "log")
    assert (sizes.get_xlabel(), sizes.get_xscale()) == ("batch_size", "log")
    assert {line.get_color() for line in epochs.lines} == {"#0072B2", "#CC79A7"}
    assert [line.get_ydata()[-1] for line in epochs.lines] == [0.9, 0.8]


def test_without_any_score_there_is_nothing_to_draw():
    with pytest.raises(DataError, match="at least one trial with a score"):
        plot_sweep({"trials": [trial("a", "failed", None)]})
