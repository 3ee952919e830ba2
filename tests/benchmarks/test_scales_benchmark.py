"""The benchmark of data of every size in its quick form."""

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(BENCHMARKS))
    threads = torch.get_num_threads()
    yield importlib.import_module("scales")
    torch.set_num_threads(threads)
    sys.path.remove(str(BENCHMARKS))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::flowshield.errors.DataWarning")
def test_every_case_prints_its_table(benchmark, capsys):
    quick = ["--episodes", "160", "--epochs", "1", "--seeds", "42", "--shields", "mixture"]
    benchmark.main(quick)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    # a header and a rule a case; then its rows
    assert len(rows) == 5 * 2 + 1 + 3 + 2 * 4 + 5 + 5
    mixture = [row for row in rows if "mixture" in row]
    assert len(mixture) == 1 + 3 + 4 + 4
    assert all(math.isfinite(float(row[-1])) for row in mixture)
    # the unit changes nothing but itself
    one, *others = (row[2:] for row in rows if row[0] in ("1e-06", "1", "1e+06"))
    for other in others:
        assert [float(cell) for cell in other] == pytest.approx([float(c) for c in one], abs=0.05)


def test_the_exact_law_with_penalties_is_a_law(benchmark):
    env = benchmark.make_env("geometric_chain", drift=2.0, reward_std=5.0)
    states, commands = np.zeros((3, 2)), np.array([[5.0, 0.0], [5.0, -1000.0], [5.0, -500.0]])
    score = benchmark._exact_with_penalties(env, 0.25)(states, commands)
    assert score[0] - score[1] == pytest.approx(math.log(3))  # alike, but for their shares
    assert score[2] < score[1] - 100
