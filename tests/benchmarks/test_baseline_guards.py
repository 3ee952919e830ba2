"""The guards of comparison, by their rules in closed form."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from flowshield.models import Guard

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def guards():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("baseline_guards")


def test_a_clip_takes_the_highest_return_of_no_longer_a_horizon(guards):
    clip = guards.ReturnCap(np.array([[10.0, 3.0], [2.0, 5.0], [4.0, 1.0], [20.0, 9.0]]))
    assert isinstance(clip, Guard)
    asked = torch.tensor([[3.0, 8.0], [15.0, 8.0], [50.0, 30.0], [1.0, 6.0], [20.0, 9.0]])
    command, replaced = clip.decide(torch.zeros(5, 1), torch.zeros(5, 2), asked)
    expected = [[3.0, 5.0], [15.0, 5.0], [20.0, 9.0], [1.0, 5.0], [20.0, 9.0]]
    assert command.tolist() == expected
    assert replaced.tolist() == [True, True, True, True, False]


@pytest.mark.parametrize(("tau", "expectile"), [(0.5, 0.25), (0.75, 0.5), (0.99, 99 / 102)])
def test_the_loss_is_least_at_the_expectile(guards, tau, expectile):
    # of values 1, 0, 0, 0: tau (1 - e) = 3 (1 - tau) e
    values = torch.tensor([1.0, 0.0, 0.0, 0.0])
    grid = torch.linspace(0, 1, 10_001)
    losses = torch.stack([guards.expectile_loss(values - e, tau) for e in grid])
    assert float(grid[losses.argmin()]) == pytest.approx(expectile, abs=1e-3)


def test_the_target_is_near_the_highest_return_of_its_state(guards):
    rng = np.random.default_rng(0)
    side = rng.integers(0, 2, 4000)
    states = torch.tensor(np.stack([side, rng.normal(size=4000)], axis=1), dtype=torch.float32)
    returns = torch.tensor(np.where(side == 1, 100.0, 10.0) * rng.integers(0, 2, 4000)).float()
    guard = guards.ExpectileTarget(2).fit(states, returns, n_steps=1500)
    assert isinstance(guard, Guard)
    there = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    low, high = guard.target(there).tolist()
    assert 7 < low < 13 and 92 < high < 103  # the expectiles are 9.9 and 99

    asked = torch.tensor([[5.0, 50.0], [5.0, 50.0]])
    command, replaced = guard.decide(there, asked, torch.full((2, 2), -1.0))
    assert replaced.tolist() == [True, False] and command[1].tolist() == [5.0, 50.0]
    assert command[0].tolist() == pytest.approx([5.0, low])


def test_a_fit_is_the_same_again_and_leaves_torchs_generator_alone(guards):
    states, returns = torch.randn(100, 3), torch.randn(100)
    state = torch.get_rng_state()
    one, two = (guards.ExpectileTarget(3) for _ in range(2))
    torch.set_rng_state(state)
    one.fit(states, returns, n_steps=5)
    two.fit(states, returns, n_steps=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.target(states), two.target(states))
