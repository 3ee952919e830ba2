"""Files that others made: their names, their flags, and their ways to write discrete actions."""

import pickle

import numpy as np
import pytest

from flowshield.data import TrajectoryDataset
from flowshield.data.conversion import convert
from flowshield.errors import DataError, FileFormatError, FlowshieldError, ShapeError
from flowshield.limits import _RATIO

SUFFIXES = pytest.mark.parametrize("suffix", ["npz", "pkl"])
CHOICES = np.array([0, 2, 1, 2, 3, 0])
STATES = np.arange(12.0).reshape(6, 2)
ENDS = np.array([0, 0, 1, 0, 0, 0], bool)
CUTS = np.array([0, 0, 0, 0, 1, 0], bool)


def written(tmp_path, suffix="npz", without=(), **arrays):
    table = {"states": STATES, "actions": STATES, "rewards": np.arange(6.0), "dones": ENDS}
    table = {name: array for name, array in table.items() if name not in without} | arrays
    path = tmp_path / f"data.{suffix}"
    if suffix == "npz":
        np.savez(path, **table)
    else:
        path.write_bytes(pickle.dumps(table))
    return path


LAYOUTS = {
    "int column [T]": CHOICES,
    "int column [T, 1]": CHOICES[:, None],
    "int8": CHOICES.astype(np.int8),
    "int32 [T, 1]": CHOICES[:, None].astype(np.int32),
    "uint8": CHOICES.astype(np.uint8),
    "big-endian": CHOICES.astype(">i4"),
    "float [T]": CHOICES.astype(np.float32),
    "float [T, 1]": CHOICES[:, None].astype(np.float64),
    "one-hot int": np.eye(4, dtype=int)[CHOICES],
    "one-hot float": np.eye(4, dtype=np.float32)[CHOICES],
    "one-hot bool": np.eye(4, dtype=bool)[CHOICES],
}


@SUFFIXES
@pytest.mark.parametrize("layout", LAYOUTS)
def test_discrete_actions_are_recognised_in_any_layout(tmp_path, suffix, layout):
    path = written(tmp_path, suffix, actions=LAYOUTS[layout])
    dataset = TrajectoryDataset(path)
    assert dataset.n_actions == 4 and dataset.actions.dtype == np.int64
    np.testing.assert_array_equal(dataset.actions, CHOICES[:, None])
    told_by = "one-hot rows" if "one-hot" in layout else "the highest action"
    assert dataset.metadata["n_actions_from"] == told_by


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_may_say_how_many_there_are(tmp_path, layout):
    rows = LAYOUTS[layout]
    said = 4 if "one-hot" in layout else 6
    for number in (said, np.array([said]), np.float64(said), np.uint8(said)):
        dataset = TrajectoryDataset(written(tmp_path, actions=rows, n_actions=number))
        assert dataset.n_actions == said and "n_actions_from" not in dataset.metadata
        np.testing.assert_array_equal(dataset.actions, CHOICES[:, None])
    assert (
        TrajectoryDataset(written(tmp_path, "pkl", actions=rows, n_actions=said)).n_actions == said
    )


@pytest.mark.parametrize("number", [2, 2.5, np.array([4, 4]), "four", -1, 10**9])
def test_a_number_of_actions_that_does_not_fit_is_refused(tmp_path, number):
    with pytest.raises(DataError, match=r"n_actions|actions 0..1, got"):
        TrajectoryDataset(written(tmp_path, actions=CHOICES, n_actions=np.array(number)))


def test_two_actions_as_true_and_false(tmp_path):
    dataset = TrajectoryDataset(written(tmp_path, actions=CHOICES > 1))
    assert dataset.n_actions == 2
    np.testing.assert_array_equal(dataset.actions[:, 0], CHOICES > 1)


CONTINUOUS = {
    "numbers": STATES / 10,
    "a column": np.linspace(0, 5, 6)[:, None] + 0.5,
    "negative whole numbers": CHOICES[:, None] - 1,
    "two columns of whole numbers": np.stack([CHOICES, CHOICES], 1),
    "always the same float": np.ones((6, 1)),
    "always one engine": np.tile([1.0, 0.0], (6, 1)),
    "zeros": np.zeros((6, 2)),
    "more than there can be": CHOICES[:, None] * 1_000_000,
}


@pytest.mark.parametrize("layout", CONTINUOUS)
def test_what_may_be_numbers_within_bounds_stays_so(tmp_path, layout):
    dataset = TrajectoryDataset(written(tmp_path, actions=CONTINUOUS[layout]))
    assert dataset.n_actions is None and dataset.actions.dtype == np.float32
    np.testing.assert_array_equal(dataset.actions, CONTINUOUS[layout].astype(np.float32))


def test_bounds_in_the_file_say_that_whole_numbers_are_numbers(tmp_path):
    throttle = (CHOICES[:, None] > 1).astype(float)
    bounds = {"action_low": np.array([0.0]), "action_high": 1.0}
    dataset = TrajectoryDataset(written(tmp_path, actions=throttle, **bounds))
    assert dataset.n_actions is None
    assert (dataset.metadata["action_low"], dataset.metadata["action_high"]) == ([0.0], [1.0])
    with pytest.raises(DataError, match="action_low"):
        TrajectoryDataset(written(tmp_path, actions=throttle, action_low=np.array(["low"])))


def test_a_row_of_numbers_is_told_what_it_lacks(tmp_path):
    with pytest.raises(
        ShapeError, match=r"expected actions \[6, any\], got shape \[6\].*n_actions"
    ):
        TrajectoryDataset(written(tmp_path, actions=np.linspace(0, 1, 6)))


def test_arrays_from_python_are_recognised_where_their_type_says_it():
    def dataset_of(actions, **metadata):
        return TrajectoryDataset.from_arrays(STATES, actions, np.ones(6), ENDS, metadata=metadata)

    for actions in (CHOICES, CHOICES.tolist(), CHOICES[:, None], np.eye(4)[CHOICES]):
        assert dataset_of(actions).n_actions == 4
    assert dataset_of(CHOICES[:, None], action_low=[0.0], action_high=[3.0]).n_actions is None
    assert dataset_of(CHOICES[:, None].astype(float)).n_actions is None
    assert dataset_of(CHOICES[:, None].astype(float), n_actions=5).n_actions == 5


@SUFFIXES
def test_d4rls_names(tmp_path, suffix):
    path = written(
        tmp_path,
        suffix,
        without=("states", "dones"),
        observations=STATES,
        terminals=ENDS,
        timeouts=CUTS,
        next_observations=STATES + 1,
        **{"infos/qpos": STATES, "metadata/algorithm": np.array("SAC")},
    )
    dataset = TrajectoryDataset(path)
    np.testing.assert_array_equal(dataset.states, STATES)
    np.testing.assert_array_equal(dataset.terminated, ENDS)
    np.testing.assert_array_equal(dataset.truncated, [0, 0, 0, 0, 1, 1])
    assert dataset.episode_lengths.tolist() == [3, 2, 1]
    np.testing.assert_array_equal(dataset.final_states, STATES[[2, 4, 5]] + 1)
    convert(path, tmp_path / "new.npz")
    again = TrajectoryDataset(tmp_path / "new.npz")
    np.testing.assert_array_equal(again.final_states, dataset.final_states)


@pytest.mark.parametrize(
    ("flags", "terminated", "truncated"),
    [
        ({"terminals": ENDS}, ENDS, [0, 0, 0, 0, 0, 1]),
        ({"terminals": ENDS, "timeouts": CUTS}, ENDS, [0, 0, 0, 0, 1, 1]),
        ({"terminated": ENDS, "truncated": CUTS}, ENDS, [0, 0, 0, 0, 1, 1]),
        ({"terminations": ENDS, "truncations": CUTS}, ENDS, [0, 0, 0, 0, 1, 1]),
        ({"dones": ENDS | CUTS, "timeouts": CUTS}, ENDS, [0, 0, 0, 0, 1, 1]),
        ({"dones": ENDS | CUTS, "terminated": ENDS, "truncated": CUTS}, ENDS, [0, 0, 0, 0, 1, 1]),
        ({"dones": (ENDS | CUTS).astype(float)}, ENDS | CUTS, [0, 0, 0, 0, 0, 1]),
        ({"timeouts": ENDS | CUTS}, np.zeros(6), [0, 0, 1, 0, 1, 1]),
    ],
)
def test_what_ended_an_episode_is_kept_apart_by_any_names(tmp_path, flags, terminated, truncated):
    dataset = TrajectoryDataset(written(tmp_path, without=("dones",), **flags))
    np.testing.assert_array_equal(dataset.terminated, terminated)
    np.testing.assert_array_equal(dataset.truncated, truncated)


def test_what_is_missing_is_told_with_the_names_that_would_do(tmp_path):
    words = (
        r"states \(or observations\).*terminals and timeouts.*lacks states, dones and holds acti"
    )
    with pytest.raises(FileFormatError, match=words):
        TrajectoryDataset(written(tmp_path, without=("states", "dones")))


@pytest.mark.parametrize(
    "arrays",
    [
        {"timeouts": CUTS[:3]},
        {"timeouts": np.array(["x"] * 6)},
        {"next_observations": STATES[:3]},
        {"next_observations": STATES + np.nan},
        {"next_observations": np.array(["x"] * 12).reshape(6, 2)},
        {"terminals": ENDS[:, None]},
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays):
    with pytest.raises((DataError, ShapeError), match=r"data\.npz"):
        TrajectoryDataset(written(tmp_path, **arrays))


def trajectories():
    """Three episodes as the Decision Transformer stores D4RL."""
    return [
        {
            "observations": np.full((length, 2), float(length), np.float32),
            "next_observations": np.full((length, 2), length + 0.5, np.float32),
            "actions": np.full((length, 1), 0.1 * length, np.float32),
            "rewards": np.ones(length, np.float32),
            "terminals": np.array([False] * (length - 1) + [length == 2]),
        }
        for length in (3, 2, 4)
    ]


def pickled(tmp_path, content, protocol=4):
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_list_of_episodes_as_the_decision_transformer_has_it(tmp_path, protocol):
    dataset = TrajectoryDataset(pickled(tmp_path, trajectories(), protocol))
    assert dataset.episode_lengths.tolist() == [3, 2, 4]
    assert dataset.terminated[dataset.episode_starts + dataset.episode_lengths - 1].tolist() == [
        False, True, False,
    ]  # fmt: skip
    assert dataset.n_truncated == 2
    np.testing.assert_array_equal(dataset.final_states[:, 0], [3.5, 2.5, 4.5])


def test_a_list_of_episodes_without_flags(tmp_path):
    content = [{k: v for k, v in each.items() if k != "terminals"} for each in trajectories()]
    dataset = TrajectoryDataset(pickled(tmp_path, content))
    assert dataset.episode_lengths.tolist() == [3, 2, 4] and dataset.n_truncated == 3


def _changed(**changes):
    first, *others = trajectories()
    return [first | changes, *others]


@pytest.mark.parametrize(
    "content",
    [
        [],
        [1, 2],
        [*trajectories(), 3],
        [{"observations": [1.0]}],
        _changed(rewards=np.ones((3, 1))),
        _changed(rewards=np.ones(0)),
        _changed(terminals=np.zeros(2)),
        _changed(observations=np.ones((3, 5))),
        _changed(timeouts=np.zeros(3)),
        [{k: v for k, v in each.items() if k != "actions"} for each in trajectories()],
    ],
)
def test_other_lists_are_refused(tmp_path, content):
    with pytest.raises(FlowshieldError, match=r"data\.pkl"):
        TrajectoryDataset(pickled(tmp_path, content))


def test_a_list_that_names_one_episode_a_million_times_does_not_fill_the_memory(tmp_path):
    episode = trajectories()[0] | {"observations": np.ones((20_000, 2), np.float32)}
    path = pickled(tmp_path, [episode] * 10_000)
    assert path.stat().st_size * _RATIO < 10_000 * 160_000
    with pytest.raises(FileFormatError, match="claims 16.* bytes in memory"):
        TrajectoryDataset(path)
