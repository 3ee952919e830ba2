"""The benchmark of environments on a tiny CartPole: it runs once, and its tables say what came."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = [
    "shield=mixture",
    "data.n_episodes=60",
    "n_epochs=1",
    "shield_epochs=1",
    "calibration.alpha=0.2",
    "model.hidden_dim=16",
    "shield.mixture.hidden_dim=16",
    "evaluation.n_episodes=2",
    "evaluation.n_states=40",
    "evaluation.followed.n_starts=2",
    "evaluation.followed.n_commands=2",
    "env.commands=[[20,20],[20,60]]",
    "env.kwargs={max_episode_steps: 60}",
]


@pytest.fixture(scope="module")
def environments():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("environments")


def test_a_tiny_cartpole_becomes_tables_below_what_was_written(environments, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"# Mine\n\nA word.\n\n{environments._MARK}\n\nold tables\n")
    arguments = ["--envs", "cartpole", "--seeds", "3", "--out", str(tmp_path), "--page", str(page)]
    environments.main([*arguments, "--override", *TINY])
    text = page.read_text()
    assert text.startswith("# Mine\n\nA word.\n") and "old tables" not in text
    (folder,) = tmp_path.glob("cartpole_quick_3")
    results = json.loads((folder / "results.json").read_text())

    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    area = results["shields"]["mixture"]["detection"]["auc_roc"]
    (shield,) = [row for row in rows if row[0] == "mixture" and len(row) == 7]
    assert shield[1] == f"{area:.3f}"
    alarms = results["shields"]["mixture"]["false_alarms"]
    assert f"({alarms['count']} of {alarms['n']})" in shield[3]
    (alone,) = [row for row in rows if row[0] == "no shield"]
    for cell, written in zip(results["cells"][:2], alone[1:], strict=True):
        assert written.startswith(f"{cell['return_mean']:.1f}")
        assert written.endswith(f"{100 * cell['crash_rate']:.0f}%")

    before = (folder / "results.json").stat().st_mtime_ns
    environments.main([*arguments, "--override", *TINY])  # read, not run again
    assert (folder / "results.json").stat().st_mtime_ns == before and page.read_text() == text


def test_what_a_shield_changes_is_told_from_paired_differences(environments):
    def cell(shield, low, high, crashed):
        difference = None if shield == "none" else {"low": low, "high": high}
        return {"shield": shield, "vs_none": difference, "crashed": crashed}

    cells = [cell("none", 0, 0, [True, False]), cell("flow", 1, 3, [False, False])]
    cells += [cell("flow", -2, -1, [True, False]), cell("flow", -1, 1, None)]
    results = [{"cells": cells}]
    assert environments._changes(results, "flow") == (1, 1, 3)
    assert environments._failures(results, "none") == 0.5
    assert environments._failures(results, "flow") == 0.25
    assert environments._failures(results, "absent") is None
