"""The sweep of settings in its quick form: it runs, resumes, and names what it measured."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from flowshield.config import compose

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(BENCHMARKS))
    threads = torch.get_num_threads()
    yield importlib.import_module("densities")
    torch.set_num_threads(threads)
    sys.path.remove(str(BENCHMARKS))


def test_every_variant_changes_the_shipped_configuration(benchmark):
    from protocol.variants import SHIPPED, VARIANTS

    for shield, variants in VARIANTS.items():
        shipped = compose("run", [f"shield={shield}"])
        for name, overrides in variants.items():
            changed = [override.format(f"shield.{shield}") for override in overrides]
            found = compose("run", [f"shield={shield}", *changed])
            assert (found == shipped) == (name == SHIPPED), (shield, name)


@pytest.mark.slow
def test_the_quick_form_runs_and_resumes(benchmark, tmp_path, capsys):
    arguments = ["--out", str(tmp_path), "--quick", "--seeds", "42", "--shields", "diffusion"]
    assert benchmark.main(arguments) == 0
    first = capsys.readouterr().out
    assert "diffusion | cosine schedule" in first and "dopri5, tolerance 1e-06" in first
    assert "nan" not in first
    assert benchmark.main(arguments) == 0
    again = capsys.readouterr().out
    assert "done" not in again  # nothing was made twice
    assert again.strip() in first
