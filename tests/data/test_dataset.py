"""Datasets: layout, hindsight batches, subsets and splits."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from numbered_episode import numbered_episode as episode

from flowshield.cli import main
from flowshield.data import CommandDataset, Episode, TrajectoryDataset
from flowshield.errors import ConfigError, DataError, DataWarning, ShapeError


@pytest.fixture
def dataset():
    episodes = [
        episode(2, 0),
        episode(3, 1, truncated=True, behaviour="takeover", level=20.0),
        episode(1, 2),
    ]
    return TrajectoryDataset.from_episodes(episodes, {"seed": 3})


def many(n_episodes=20):
    return TrajectoryDataset.from_episodes([episode(1 + i % 4, i) for i in range(n_episodes)])


def test_episodes_lie_end_to_end(dataset):
    assert (len(dataset), dataset.n_episodes, dataset.n_truncated) == (6, 3, 1)
    assert (dataset.state_dim, dataset.action_dim) == (2, 1)
    np.testing.assert_array_equal(dataset.states[:, 0], [0, 1, 100, 101, 102, 200])
    np.testing.assert_array_equal(dataset.actions[:, 0], [0, 0.5, 50, 50.5, 51, 100])
    np.testing.assert_array_equal(dataset.terminated, [0, 1, 0, 0, 0, 1])
    np.testing.assert_array_equal(dataset.truncated, [0, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(dataset.dones, [0, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(dataset.episode_starts, [0, 2, 5])
    np.testing.assert_array_equal(dataset.episode_lengths, [2, 3, 1])
    np.testing.assert_array_equal(dataset.final_states[:, 0], [2, 103, 201])
    assert dataset.behaviours.tolist() == ["random", "takeover", "random"]
    np.testing.assert_array_equal(dataset.levels, [np.nan, 20, np.nan])
    assert dataset.metadata == {"seed": 3, "n_episodes": 3, "n_truncated": 1}


def test_commands_and_returns(dataset):
    np.testing.assert_allclose(dataset.episode_returns, [1.5, 303.75, 200.25])
    np.testing.assert_array_equal(dataset.commands[:, 0], [2, 1, 3, 2, 1, 1])
    np.testing.assert_allclose(dataset.commands[:, 1], [1.5, 1.25, 303.75, 203.5, 102.25, 200.25])


def test_a_subset_keeps_whole_episodes_in_the_order_asked_for(dataset):
    part = dataset.subset([2, 1])
    np.testing.assert_array_equal(part.states[:, 0], [200, 100, 101, 102])
    np.testing.assert_array_equal(part.episode_starts, [0, 1])
    np.testing.assert_array_equal(part.final_states[:, 0], [201, 103])
    np.testing.assert_array_equal(part.episode_indices, [2, 1])
    np.testing.assert_allclose(part.commands[1:, 1], dataset.commands[2:5, 1])
    assert part.behaviours.tolist() == ["random", "takeover"]
    assert part.metadata == {"seed": 3, "n_episodes": 2, "n_truncated": 1}
    assert dataset.metadata["n_episodes"] == 3


@pytest.mark.parametrize("positions", [[], [3], [-1], [0.5], [[0]]])
def test_bad_subsets(dataset, positions):
    with pytest.raises(DataError, match="episode positions"):
        dataset.subset(positions)


def test_a_split_shares_out_every_episode_once():
    parts = many().split({"train": 0.8, "calibration": 0.1, "test": 0.1}, seed=0)
    assert {name: part.n_episodes for name, part in parts.items()} == {
        "train": 16,
        "calibration": 2,
        "test": 2,
    }
    together = np.concatenate([part.episode_indices for part in parts.values()])
    assert sorted(together) == list(range(20))
    assert all((np.diff(part.episode_indices) > 0).all() for part in parts.values())


def test_a_split_depends_on_its_seed_alone():
    first, again, other = (
        many().split({"a": 0.5, "b": 0.5}, seed=seed)["a"].episode_indices.tolist()
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert first != list(range(10))


@pytest.mark.parametrize("shares", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": 1.0, "b": 0.0}])
def test_bad_shares(shares):
    with pytest.raises(ConfigError, match="sum to 1"):
        many().split(shares, seed=0)


def test_a_part_without_episodes(dataset):
    with pytest.raises(DataError, match="3 episodes are too few.*test would get none"):
        dataset.split({"train": 0.9, "test": 0.1}, seed=0)


def asked(*requests):
    return TrajectoryDataset.from_episodes(
        [episode(2, i, request=request) for i, request in enumerate(requests)]
    )


def test_requests_are_kept_where_the_policy_was_given_a_command(dataset):
    assert dataset.requests is None
    some = asked((20, -3.5), None, (np.float32(7), 0))
    assert some.requests.dtype == np.float64
    np.testing.assert_array_equal(some.requests, [[20, -3.5], [np.nan, np.nan], [7, 0]])


def test_a_subset_keeps_its_requests_and_none_where_it_has_none():
    some = asked((20, -3.5), None, (7, 0), None)
    np.testing.assert_array_equal(some.subset([3, 2]).requests, [[np.nan, np.nan], [7, 0]])
    assert some.subset([3, 1]).requests is None


def test_a_split_shares_out_the_requests_with_their_episodes():
    whole = asked(*[(i + 1, 10 * i) for i in range(12)])
    for part in whole.split({"a": 0.5, "b": 0.5}, seed=0).values():
        np.testing.assert_array_equal(part.requests[:, 0], part.episode_indices + 1)
        np.testing.assert_array_equal(part.requests[:, 1], part.episode_indices * 10)


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        ((0.5, 3), DataError, r"requests\[1\] is \[0.5, 3.0\] \(episode 1\); expected a horizon"),
        ((5, np.inf), DataError, r"requests\[1\] is \[5.0, inf\]"),
        ((np.inf, 5), DataError, r"requests\[1\] is \[inf, 5.0\]"),
        ((np.nan, 5), DataError, "NaN twice where the policy was given no command"),
        ((5, np.nan), DataError, r"\(1 such entries in all\)"),
        ((5, "far"), DataError, "expected numbers as requests, got <U"),
        ((5, None), DataError, "expected numbers as requests, got object"),
        ((5, 3, 1), ShapeError, "requests is no rectangular array"),
        (5, ShapeError, "requests is no rectangular array"),
    ],
)
def test_what_is_no_request(request_, error, message):
    with pytest.raises(error, match=message):
        asked((4, 2), request_)


def test_a_request_that_float64_does_not_hold():
    with pytest.raises(DataError, match=r"requests\[0\]"):
        asked((np.longdouble("1e4000"), np.longdouble(1)))


def test_batches_are_rows_of_the_dataset():
    data = many()
    states, actions, commands = data.get_hindsight_batch(500)
    assert states.shape == (500, 2)
    assert {tensor.dtype for tensor in (states, actions, commands)} == {torch.float32}
    rows = {tuple(row) for row in np.hstack([data.states, data.actions, data.commands]).tolist()}
    drawn = {tuple(row) for row in torch.cat([states, actions, commands], 1).tolist()}
    assert drawn == rows  # 500 draws from 50 rows miss one with probability 0.002


def test_command_pairs_are_rows_of_the_dataset():
    data = many()
    states, commands = data.get_command_pairs(500)
    rows = {tuple(row) for row in np.hstack([data.states, data.commands]).tolist()}
    assert {tuple(row) for row in torch.cat([states, commands], 1).tolist()} == rows


def test_sampling_repeats_from_its_seed():
    data = many()
    first, second = data.get_hindsight_batch(32)[0], data.get_hindsight_batch(32)[0]
    assert not torch.equal(first, second)
    assert torch.equal(many().get_hindsight_batch(32)[0], first)
    assert torch.equal(data.seed(0).get_hindsight_batch(32)[0], first)
    assert not torch.equal(data.seed(1).get_hindsight_batch(32)[0], first)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_bad_batch_sizes(dataset, batch_size):
    with pytest.raises(ConfigError, match="batch size >= 1"):
        dataset.get_hindsight_batch(batch_size)


def test_devices(dataset):
    assert dataset.to("cpu") is dataset
    with pytest.raises(ConfigError, match="unknown device 'gpu'"):
        dataset.to("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none(dataset):
    with pytest.raises(ConfigError, match="no CUDA device here; use device=cpu"):
        dataset.to("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_batches_on_the_gpu():
    for tensor in many().to("cuda").get_hindsight_batch(16):
        assert tensor.device.type == "cuda"


def test_command_dataset(dataset):
    pairs = CommandDataset(dataset)
    assert len(pairs) == 6
    state, command = pairs[3]
    assert state.tolist() == [101, -101]
    assert command.tolist() == [2, 203.5]
    loaded = list(torch.utils.data.DataLoader(pairs, batch_size=4))
    assert [len(states) for states, _ in loaded] == [4, 2]
    pickle.loads(pickle.dumps(pairs))  # what a DataLoader's spawned workers need


def test_unfinished_steps_at_the_end_count_as_truncated():
    dataset = TrajectoryDataset.from_arrays(
        np.zeros((4, 2)), np.zeros((4, 1)), np.ones(4), [False, True, False, False]
    )
    np.testing.assert_array_equal(dataset.truncated, [0, 0, 0, 1])
    np.testing.assert_array_equal(dataset.commands, [[2, 2], [1, 1], [2, 2], [1, 1]])
    assert (dataset.n_episodes, dataset.n_truncated, dataset.final_states) == (2, 1, None)
    assert dataset.subset([1]).final_states is None


def test_the_data_are_copied():
    states = np.zeros((1, 2), np.float32)
    dataset = TrajectoryDataset.from_arrays(states, np.zeros((1, 1)), [1.0], [True])
    states[:] = 9
    assert not dataset.states.any()


def flat(**changes):
    arrays = {
        "states": np.zeros((3, 2)),
        "actions": np.zeros((3, 1)),
        "rewards": np.zeros(3),
        "terminated": np.array([0, 0, 1]),
    }
    return arrays | changes


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"terminated": np.zeros(3)}, DataError, "no episode is finished"),
        ({"terminated": np.array([0, 2, 1])}, DataError, "flags 0 or 1 as terminated"),
        ({"terminated": np.array([1, 1])}, ShapeError, r"terminated \[3\], got shape \[2\]"),
        ({"states": np.zeros((0, 2))}, DataError, "states is empty"),
        ({"states": np.zeros(3)}, ShapeError, r"states \[any, any\], got shape \[3\]"),
        ({"states": [[0.0], [0.0, 1.0]]}, ShapeError, "no rectangular array"),
        ({"states": np.full((3, 2), "x")}, DataError, "numbers as states"),
        ({"actions": np.zeros((2, 1))}, ShapeError, r"actions \[3, any\], got shape \[2, 1\]"),
        ({"actions": np.array([[0], [np.nan], [0]])}, DataError, r"actions\[1\] is \[nan\]"),
        ({"rewards": np.zeros((3, 1))}, ShapeError, r"rewards \[3\], got shape \[3, 1\]"),
        ({"rewards": np.array([0, 0, np.inf])}, DataError, r"rewards\[2\] is inf"),
    ],
)
def test_bad_arrays(changes, error, message):
    with pytest.raises(error, match=message):
        TrajectoryDataset.from_arrays(**flat(**changes))


def test_bad_episodes():
    with pytest.raises(DataError, match="at least one episode"):
        TrajectoryDataset.from_episodes([])
    wide = Episode(
        np.zeros((1, 5), np.float32),
        np.zeros(5, np.float32),
        np.zeros((1, 1), np.float32),
        np.zeros(1),
        True,
        False,
    )
    with pytest.raises(ShapeError, match="one environment"):
        TrajectoryDataset.from_episodes([episode(2), wide])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("states", np.nan, r"states\[4\] is \[nan, nan\] \(episode 1, step 1\)"),
        ("states", 1e39, r"states\[4\] is .* \(episode 1, step 1\); .*float32 can hold"),
        ("actions", np.inf, r"actions\[4\] is \[inf\] \(episode 1, step 1\)"),
        ("rewards", -np.inf, r"rewards\[4\] is -inf \(episode 1, step 1\)"),
        # finite one by one, and not in the commands
        ("rewards", 1e39, r"return from episode 1, step 0 on .*\(2 such steps in all\)"),
    ],
)
def test_numbers_that_are_none_are_named_by_array_episode_and_step(name, value, words):
    arrays = {
        "states": np.zeros((6, 2)),
        "actions": np.zeros((6, 1)),
        "rewards": np.zeros(6),
        "terminated": np.array([0, 0, 1, 0, 0, 1]),
    }
    arrays[name][4] = value
    with pytest.raises(DataError, match=words):
        TrajectoryDataset.from_arrays(**arrays)


def with_offset(offset, deviation=1.0):
    rng = np.random.default_rng(0)
    return {
        "states": np.stack([rng.normal(size=60), offset + deviation * rng.normal(size=60)], axis=1),
        "actions": np.zeros((60, 1)),
        "rewards": np.zeros(60),
        "terminated": np.arange(60) % 10 == 9,
    }


@pytest.mark.parametrize(("offset", "deviation"), [(1e9, 1.0), (-1e6, 0.1), (1.0, 1e-9)])
def test_digits_that_float32_has_no_room_for_are_named_by_column(offset, deviation):
    with pytest.warns(DataWarning, match=r"these arrays: states\[:, 1\] is kept as float32"):
        TrajectoryDataset.from_arrays(**with_offset(offset, deviation))


@pytest.mark.parametrize(
    ("offset", "deviation"), [(1e3, 1.0), (0.0, 1e-30), (1e9, 0.0), (1e9, 1e5)]
)
def test_columns_that_keep_their_digits_are_not_warned_of(offset, deviation):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TrajectoryDataset.from_arrays(**with_offset(offset, deviation))


def test_the_command_line_tells_of_data_in_one_line(tmp_path, capsys):
    arrays = with_offset(1e9)
    np.savez(tmp_path / "far.npz", dones=arrays.pop("terminated"), **arrays)
    assert main(["convert", str(tmp_path / "far.npz"), str(tmp_path / "far.parquet")]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"flowshield: note: {tmp_path / 'far.npz'}: states[:, 1] is kept as")
