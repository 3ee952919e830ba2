"""The sweeps that pages tell their readers to type, with tiny sizes put behind them."""

import json
import shlex

import pytest
from pages import PAGES, commands
from tiny import TINY

from flowshield.cli import main

pytestmark = pytest.mark.ray

SWEEPS = [w for page in PAGES for w in commands(page) if w[:2] == ["flowshield", "tune"]]
# two trials of each line, of the shield that trains soonest
SIZES = [*TINY, "data.n_episodes=60", "shield=quantile", "ray.num_workers=0"]
RATE = "tune.space.shield.learning_rate"


@pytest.mark.parametrize("words", SWEEPS, ids=shlex.join)
def test_a_sweep_that_a_page_says_can_be_typed(words, cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    has_its_own = any(word.startswith("tune.space.") for word in words)
    fewer = f"~{RATE}" if has_its_own else f"{RATE}={{grid:[1e-3,1e-2]}}"
    assert main([*words[1:], *SIZES, fewer]) == 0
    (results,) = tmp_path.glob("runs/*/sweep/results.json")
    trials = json.loads(results.read_text())["trials"]
    assert [trial["status"] for trial in trials] == ["finished"] * 2
