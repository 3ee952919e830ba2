"""The training benchmark in a tiny form: it runs, and its numbers fit together."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

PATH = Path(__file__).parents[2] / "benchmarks" / "training.py"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(PATH.parent)  # where a script finds what lies beside it
    spec = importlib.util.spec_from_file_location("training_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their module up
    threads = torch.get_num_threads()
    spec.loader.exec_module(module)
    yield module
    torch.set_num_threads(threads)
    del sys.modules[spec.name]


def test_prints_every_contender_and_writes_json(benchmark, tmp_path, capsys):
    found = tmp_path / "found.json"
    benchmark.main(
        ["--batch-sizes", "64", "32", "--transitions", "500", "--seconds", "0.01", "--device"]
        + ["cpu", "--json", str(found)]
    )
    printed = capsys.readouterr().out
    names = ["fit loop", "DataLoader", "index sampling", "matrix products"]
    for words in (*names, "batch 64", "batch 32", "CPU, one thread"):
        assert words in printed
    assert ("no CUDA device here" in printed) == (not torch.cuda.is_available())
    records = json.loads(found.read_text())
    assert [(r["contender"], r["batch_size"]) for r in records] == [
        (name, size) for size in (64, 32) for name in names
    ]
    assert all(len(r["samples_per_second"]) >= 3 for r in records)
    assert all(speed > 0 for r in records for speed in r["samples_per_second"])


def test_a_ratio_is_taken_within_each_round(benchmark):
    ours = benchmark.Measurement("a", 8, [10.0, 40.0, 90.0])
    theirs = benchmark.Measurement("b", 8, [5.0, 10.0, 30.0])
    assert ours.times(theirs) == 3.0


def test_the_loops_take_as_many_steps_as_the_fit(benchmark, monkeypatch):
    """Every contender's epoch trains on the same number of rows."""
    steps = []
    loss = benchmark.UDRLAgent.compute_loss

    def counted(agent, states, actions, commands):
        if agent.training:
            steps.append(len(states))
        return loss(agent, states, actions, commands)

    monkeypatch.setattr(benchmark.UDRLAgent, "compute_loss", counted)
    data = benchmark.synthetic_dataset(500)
    taken = []
    for name, epoch in benchmark._contenders(data, 64, torch.device("cpu")).items():
        if name != benchmark.PRODUCTS:
            steps.clear()
            epoch()
            taken.append(list(steps))
    assert taken == 3 * [7 * [64]]


def test_the_products_are_those_of_the_policy(benchmark):
    policy = benchmark._policy(benchmark.synthetic_dataset(500), torch.device("cpu"))
    shapes = [p.shape for name, p in policy.named_parameters() if name.endswith("weight")]
    pairs = list(zip(benchmark.LAYERS[1:], benchmark.LAYERS, strict=False))
    assert [tuple(shape) for shape in shapes] == pairs


@pytest.mark.parametrize("sizes", [["0"], ["501"]])
def test_a_batch_size_that_gives_no_step_is_refused(benchmark, sizes, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--transitions", "500", "--batch-sizes", *sizes])
    assert "expected numbers from 1 to --transitions" in capsys.readouterr().err
