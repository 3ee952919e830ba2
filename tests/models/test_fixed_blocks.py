"""A row's answer is a function of the row and its label, to the last bit."""

import numpy as np
import pytest
import torch

from flowshield.data import TrajectoryDataset
from flowshield.models import FlowMatchingShield, QuantileShield, UDRLAgent
from flowshield.models.fixed_blocks import FixedBlockAgent, FixedBlocks, FixedBlockShield

N = 140


def rows(n=N, seed=0):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(n, 8, generator=generator)
    return states, torch.rand(n, 2, generator=generator) * 100 + 1


def groups(n=N):
    """Rows of n, by number, as who collects may put them together."""
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    for order in (torch.arange(n), shuffled):
        for size in (2, 5, 64, 65, n):
            yield from order.split(size)
        yield from order[:20].split(1)


def answers(compute, blocks, labels, states, commands):
    blocks.seat(labels.numpy())
    return compute(states[labels], commands[labels])


def agent(hidden_dim):
    torch.manual_seed(0)
    return UDRLAgent(8, 2, hidden_dim=hidden_dim, n_layers=4, action_low=-9, action_high=9).eval()


# 50 and 33: rows that start at an alignment of their own
@pytest.mark.parametrize("hidden_dim", [256, 64, 50, 33])
def test_an_agent_acts_alike_in_any_company(hidden_dim):
    states, commands = rows()
    blocks = FixedBlocks()
    steady = FixedBlockAgent(agent(hidden_dim), blocks)
    acted = answers(steady.sample, blocks, torch.arange(N), states, commands)
    for group in groups():
        assert torch.equal(answers(steady.sample, blocks, group, states, commands), acted[group])
    plain = steady.agent.sample(states, commands, deterministic=True)
    torch.testing.assert_close(acted, plain, rtol=1e-4, atol=1e-5)


def test_the_number_of_threads_changes_nothing_and_is_left_as_it_was():
    states, commands = rows()
    blocks, before = FixedBlocks(), torch.get_num_threads()
    steady = FixedBlockAgent(agent(256), blocks)
    acted = answers(steady.sample, blocks, torch.arange(N), states, commands)
    try:
        torch.set_num_threads(before + 1)
        assert torch.equal(steady.sample(states, commands), acted)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_labels_that_follow_each_other_share_a_block():
    calls = []

    def function(block):
        calls.append(block.clone())
        return 2 * block

    blocks, values = FixedBlocks(), torch.rand(64, 3)
    labels = np.arange(13, 77)
    blocks.seat(labels)
    assert torch.equal(blocks.compute(function, values), 2 * values)
    (block,) = calls
    assert torch.equal(block[labels % 64], values)
    blocks.seat(np.array([3, 67, 4]))  # two of one place
    calls.clear()
    assert torch.equal(blocks.compute(function, values[:3]), 2 * values[:3])
    assert [len(block) for block in calls] == [64, 64]


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


def test_a_shield_projects_alike_in_any_company(judged):
    plain, states, commands = judged
    blocks = FixedBlocks()
    project = FixedBlockShield(plain, blocks).project_in_detail
    projected = answers(project, blocks, torch.arange(N), states, commands)
    assert 0 < int(projected.changed.sum()) < N
    for group in list(groups())[::4]:  # of most sizes: a projection costs a hundred actions
        found = answers(project, blocks, group, states, commands)
        for ours, expected in zip(found, projected, strict=True):
            assert torch.equal(ours, expected[group])


def test_a_shield_projects_as_it_does_in_one_batch(judged):
    plain, states, commands = judged
    blocks = FixedBlocks()
    project = FixedBlockShield(plain, blocks).project_in_detail
    ours = answers(project, blocks, torch.arange(N), states, commands)
    theirs = plain.project_in_detail(states, commands)
    assert torch.equal(ours.changed, theirs.changed)
    torch.testing.assert_close(ours.distance, theirs.distance, rtol=0.05, atol=1e-3)
