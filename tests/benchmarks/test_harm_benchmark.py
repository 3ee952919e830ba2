"""The benchmark of harm: on a tiny CartPole it runs once, and its tables say what came."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = [
    "data.n_episodes=60",
    "n_epochs=1",
    "shield_epochs=1",
    "calibration.alpha=0.2",
    "model.hidden_dim=16",
    "shield.mixture.hidden_dim=16",
    "probe.n_episodes=80",
    "probe.n_steps=20",
    "certificate.n_episodes=150",
    "certificate.epsilon=0.2",
    "env.commands=[[20,20],[60,200]]",
    "env.kwargs={max_episode_steps: 60}",
]


@pytest.fixture(scope="module")
def harm():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("harm")


@pytest.fixture(scope="module")
def tables(harm):
    return importlib.import_module("harm_tables")


def rows_of(text, first, n_columns):
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [row for row in rows if row[0] == first and len(row) == n_columns]


@pytest.mark.slow
def test_a_tiny_cartpole_becomes_tables_and_is_not_measured_again(harm, tables, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# Mine\n\nA word.\n\n{harm._MARK}\n\nold tables\n")
    arguments = ["--envs", "cartpole", "--seeds", "3", "--episodes", "4", "--profile", "quick"]
    arguments += ["--out", str(tmp_path), "--page", str(page), "--override", *TINY]
    harm.main(arguments)
    text = page.read_text()
    assert text.startswith("# Mine\n\nA word.\n") and "old tables" not in text

    folder = tmp_path / "cartpole_quick_3" / "harm"
    cells = {path.stem: json.loads(path.read_text()) for path in folder.glob("*_20_20.json")}
    cells = {name: cell for name, cell in cells.items() if not name.startswith("best")}
    assert {cell["guard"] for cell in cells.values()} == set(tables.GUARDS)
    for cell in cells.values():
        returns = np.array(cell["returns"])
        assert len(returns) == 4 and cell["steps"] == cell["returns"]  # a reward of 1 a step
        assert cell["utility"]["at_least"] == np.minimum(returns, 20).tolist()
        assert (np.array(cell["utility"]["exact"]) <= -abs(returns - 20)).all()
        untouched = ~np.array(cell["replaced"])
        assert (returns[untouched] == np.array(cells["none_20_20"]["returns"])[untouched]).all()

    (alone,) = rows_of(text, "none", 3)
    assert alone[1].startswith(f"{np.mean(cells['none_20_20']['returns']):.1f}; ")
    every = (tmp_path / "cells.md").read_text()
    # none and five guards for both intents, two of at_least and one of exact, at two commands
    assert len(rows_of(every, "cartpole", 13)) == 2 * (2 * 6 + 3)

    kept = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    first = folder / "clip_20_20.json"
    before = json.loads(first.read_text())
    first.unlink()
    harm.main(arguments)
    assert json.loads(first.read_text()) == before
    changed = {path.name for path, when in kept.items() if path.stat().st_mtime_ns != when}
    assert changed == {"clip_20_20.json", "seconds.json"}
    assert (tmp_path / "cells.md").read_text() == every


def run(tables, differences, **more):
    """A run of one command where every guard differs from none by these."""
    n = len(differences)

    def cell(guard, values):
        values = list(map(float, values))
        utility = {"at_least": values, "exact": values}
        cell = {"guard": guard, "command": [10.0, 5.0], "utility": utility, "returns": values}
        return cell | {"failed": [False] * n, "replaced": [guard != "none"] * n}

    cells = [
        cell(guard, np.zeros(n) if guard == "none" else differences) for guard in tables.GUARDS
    ]
    return {"env": "cartpole", "seed": 0, "return_range": 10.0, "cells": cells} | more


def test_harm_beyond_chance_is_told_over_the_whole_family(tables):
    worse, better = -np.arange(1, 21) / 20, np.arange(1, 21) / 20
    chance = np.array([1.0, -1.0] * 10)
    runs = [run(tables, d, seed=s) for s, d in enumerate((worse, better, chance))]
    changes = tables.cell_changes(runs)
    outcome = [c for c in changes if (c.guard, c.intent) == ("outcome", "at_least")]
    assert [c.worse for c in outcome] == [True, False, False]
    assert [c.better for c in outcome] == [False, True, False]
    assert outcome[0].share == pytest.approx(worse.mean() / 10)
    assert outcome[0].adjusted == pytest.approx(3 * outcome[0].p_value)
    assert not [c for c in changes if (c.guard, c.intent) == ("outcome", "exact")]

    (row,) = rows_of(tables._summary(changes, "at_least"), "outcome", 6)
    assert row == ["outcome", "3", "1", "1", "0.0%", "-5.2%"]


def test_repairs_are_shares_of_what_the_best_candidate_gains(tables):
    gained = {"outcome": 4.0, "outcome_projection": 5.0, "support_now": -1.0}
    repairs = [
        {"command": [10.0, 5.0], "best": 5.0, "gained": gained},
        {"command": [20.0, 5.0], "best": 0.1, "gained": gained},  # below 5% of the range
    ]
    rows = rows_of(tables._repairs([run(tables, np.ones(3), repairs=repairs)]), "cartpole", 7)
    assert rows[0][3:] == ["5.0", "80%", "100%", "-20%"]
    assert rows[1][4:] == ["could not"] * 3
