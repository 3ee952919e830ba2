"""Device-resident batches against the dataset they come from."""

import numpy as np
import pytest
import torch

from flowshield.data import TrajectoryDataset, TransitionTensors
from flowshield.errors import ConfigError

REWARDS = np.array([1.0, 2.0, 3.0, 10.0, -5.0, 7.0])


@pytest.fixture
def dataset():
    return TrajectoryDataset.from_arrays(
        np.arange(12.0).reshape(6, 2), np.arange(6.0)[:, None], REWARDS, [0, 0, 1, 0, 1, 1]
    )


def test_a_batch_gathers_by_index(dataset):
    tensors = TransitionTensors(dataset)
    states, actions, commands = tensors.batch(torch.tensor([4, 0, 0]))
    assert states.tolist() == [[8, 9], [0, 1], [0, 1]]
    assert actions.tolist() == [[4], [0], [0]]
    assert commands.tolist() == [[1, -5], [3, 6], [3, 6]]
    pair = tensors.pairs(torch.tensor([4, 0, 0]))
    assert torch.equal(pair[0], states)
    assert torch.equal(pair[1], commands)
    assert len(tensors) == 6


def test_future_commands_are_uniform_over_the_rest_of_the_episode(dataset):
    tensors = TransitionTensors(dataset, commands="future", generator=torch.manual_seed(0))
    _, _, commands = tensors.batch(torch.zeros(30_000, dtype=torch.int64))
    rows, counts = torch.unique(commands, dim=0, return_counts=True)
    assert rows.tolist() == [[1, 1], [2, 3], [3, 6]]
    np.testing.assert_allclose(counts / 30_000, 1 / 3, atol=0.012)  # four standard deviations


def test_future_commands_sum_the_rewards_up_to_a_step_of_the_same_episode():
    rng = np.random.default_rng(0)
    dones = rng.random(2000) < 0.05
    dones[-1] = True
    rewards = rng.normal(size=2000)
    data = TrajectoryDataset.from_arrays(np.zeros((2000, 1)), np.zeros((2000, 1)), rewards, dones)
    tensors = TransitionTensors(data, commands="future", generator=torch.manual_seed(1))
    starts = np.arange(2000)
    _, commands = tensors.pairs(torch.from_numpy(starts))
    stops = starts + commands[:, 0].numpy().astype(int)
    assert (commands[:, 0] >= 1).all()
    assert (commands[:, 0].numpy() <= data.commands[:, 0]).all()
    sums = [rewards[start:stop].sum() for start, stop in zip(starts, stops, strict=True)]
    np.testing.assert_allclose(commands[:, 1], sums, atol=2e-5)


def test_a_future_command_to_the_last_step_is_the_remaining_one_to_the_bit(dataset):
    tensors = TransitionTensors(dataset, commands="future", generator=torch.manual_seed(2))
    indices = torch.randint(6, (500,))
    _, commands = tensors.pairs(indices)
    whole = commands[:, 0] == tensors.commands[indices][:, 0]
    assert 100 < whole.sum() < 500
    assert torch.equal(commands[whole], tensors.commands[indices][whole])


@pytest.mark.parametrize("mode", ["remaining", "future"])
def test_some_rows_draw_the_commands_that_they_draw_among_all(dataset, mode):
    """Also where the later step's row is not among them."""
    tensors = TransitionTensors(dataset, commands=mode)
    taken = torch.tensor([4, 0, 3])
    some = tensors.take(taken).to(torch.device("cpu"))
    again = some.take(torch.tensor([1, 0]))
    for part, places in ((some, taken), (again, taken[[1, 0]])):
        for seed in range(20):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                expected = tensors.batch(places)
                torch.manual_seed(seed)
                found = part.batch(torch.arange(len(part)))
            assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_a_chance_that_rounds_up_stays_inside_the_episode(dataset, monkeypatch):
    almost_one = torch.full((6,), 1.0)  # what float32 makes of 1 - 2^-25
    monkeypatch.setattr(torch, "rand", lambda *shape, **kwargs: almost_one)
    tensors = TransitionTensors(dataset, commands="future")
    _, commands = tensors.pairs(torch.arange(6))
    assert torch.equal(commands, tensors.commands)


def test_a_generator_makes_the_draws_repeat(dataset):
    first, second = (
        TransitionTensors(
            dataset, commands="future", generator=torch.Generator().manual_seed(5)
        ).pairs(torch.arange(6))[1]
        for _ in range(2)
    )
    assert torch.equal(first, second)


def test_the_dataset_passes_its_mode_on(tmp_path, dataset):
    dataset.save(tmp_path / "data.npz")
    future = TrajectoryDataset(tmp_path / "data.npz", commands_mode="future", seed=4)
    _, commands = future.get_command_pairs(200)
    remaining = {tuple(row) for row in dataset.commands.tolist()}
    assert (1.0, 1.0) not in remaining
    assert (1.0, 1.0) in {tuple(row) for row in commands.tolist()}
    assert future.subset([0]).commands_mode == "future"


def test_unknown_mode(dataset):
    with pytest.raises(ConfigError, match="did you mean 'future'"):
        TransitionTensors(dataset, commands="futur")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_batches_need_no_synchronisation_on_the_gpu(dataset):
    tensors = TransitionTensors(dataset, "cuda", commands="future")
    indices = torch.arange(6, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = tensors.batch(indices)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert {tensor.device.type for tensor in batch} == {"cuda"}
