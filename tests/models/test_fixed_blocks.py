"""In a block of one size a row's answer is a function of the row and its place, to the last bit."""

import numpy as np
import pytest
import torch

from flowshield.data import TrajectoryDataset
from flowshield.models import FlowMatchingShield, QuantileShield, UDRLAgent
from flowshield.models.fixed_blocks import BLOCK, FixedBlockAgent, FixedBlockShield


def rows(n=2 * BLOCK, seed=0):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(n, 8, generator=generator)
    return states, torch.rand(n, 2, generator=generator) * 100 + 1


def others(states, commands, places):
    """The same rows at these places; all other places hold something else, or nothing."""
    for seed in range(1, 5):
        beside, beside_commands = rows(len(states), seed)
        beside[::seed] = torch.nan
        beside[places], beside_commands[places] = states[places], commands[places]
        yield beside, beside_commands


def agent(hidden_dim):
    torch.manual_seed(0)
    return UDRLAgent(8, 2, hidden_dim=hidden_dim, n_layers=4, action_low=-9, action_high=9).eval()


# 50 and 33: rows that start at an alignment of their own
@pytest.mark.parametrize("hidden_dim", [256, 64, 50, 33])
def test_an_agent_acts_alike_whoever_is_beside(hidden_dim):
    states, commands = rows()
    steady = FixedBlockAgent(agent(hidden_dim))
    acted = steady.sample(states, commands)
    for places in ([0], [5], [3, 20], list(range(1, 32, 2))):
        for beside in others(states, commands, places):
            assert torch.equal(steady.sample(*beside)[places], acted[places])
    assert torch.equal(steady.sample(states[BLOCK:], commands[BLOCK:]), acted[BLOCK:])
    torch.testing.assert_close(acted, steady.agent.sample(states, commands, deterministic=True))


def test_the_number_of_threads_changes_nothing_and_is_left_as_it_was():
    states, commands = rows()
    steady, before = FixedBlockAgent(agent(256)), torch.get_num_threads()
    acted = steady.sample(states, commands)
    try:
        torch.set_num_threads(before + 1)
        assert torch.equal(steady.sample(states, commands), acted)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def shield(kind):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    ends = np.arange(1, 2001) % 50 == 0
    inputs = rng.normal(size=(2000, 8)).astype(np.float32)
    data = TrajectoryDataset.from_arrays(inputs, inputs[:, :2], rng.normal(size=2000), ends)
    made = kind(8, hidden_dim=32, n_layers=2).eval()
    made.fit_standardizers(torch.from_numpy(data.states), torch.from_numpy(data.commands))
    made.calibrate(data, alpha=0.2, groups=2)
    return made


@pytest.fixture(params=[QuantileShield, FlowMatchingShield])
def judged(request):
    """A shield, and requests of which it supports some and some not."""
    states, commands = rows()
    commands[:, 1] -= 50
    commands[::3, 1] *= 1e-2
    return shield(request.param), states, commands


def test_a_shield_projects_alike_whoever_is_beside(judged):
    plain, states, commands = judged
    steady = FixedBlockShield(plain)
    projected = steady.project_in_detail(states, commands)
    assert 0 < int(projected.changed.sum()) < len(states)
    for places in ([5], list(range(1, 32, 2))):
        for beside in others(states, commands, places):
            for found, expected in zip(steady.project_in_detail(*beside), projected, strict=True):
                assert torch.equal(found[places], expected[places])


def test_a_shield_projects_as_it_does_in_one_batch(judged):
    plain, states, commands = judged
    ours = FixedBlockShield(plain).project_in_detail(states, commands)
    theirs = plain.project_in_detail(states, commands)
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)


def test_where_there_is_no_row_there_is_no_projection(judged):
    plain, states, commands = judged
    states[:] = torch.nan
    assert not FixedBlockShield(plain).project_in_detail(states, commands).changed.any()
