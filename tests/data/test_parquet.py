import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numbered_episode import numbered_episode

from flowshield.data import DataCollector, TrajectoryDataset
from flowshield.data.arrow import arrays_of, table_of
from flowshield.envs import make_env
from flowshield.errors import FileFormatError

ARRAYS = ("states", "actions", "rewards", "terminated", "truncated", "final_states", "levels")


@pytest.fixture(scope="module")
def dataset():
    return DataCollector(make_env("lunarlander")).collect(5, seed=1)


def same(a, b):
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.behaviours.tolist() == b.behaviours.tolist()
    assert a.episode_indices.tolist() == b.episode_indices.tolist()


def test_a_folder_gives_back_what_was_written(dataset, tmp_path):
    path = tmp_path / "data.parquet"
    dataset.save(path)
    read = TrajectoryDataset(path)
    same(read, dataset)
    assert read.metadata["env"] == "lunarlander" and read.metadata["seed"] == 1
    read.save(tmp_path / "again.npz")
    same(TrajectoryDataset(tmp_path / "again.npz"), dataset)


def test_an_address_of_shared_storage_is_a_path(dataset, tmp_path):
    dataset.save(f"file://{tmp_path}/data.parquet")
    same(TrajectoryDataset(f"file://{tmp_path}/data.parquet"), dataset)


def test_parts_come_back_in_order(dataset):
    parts = [dataset.subset([0, 1])._arrays, dataset.subset([2, 3, 4])._arrays]
    whole = arrays_of([table_of(part) for part in parts], "parts")
    np.testing.assert_array_equal(whole.states, dataset.states)
    np.testing.assert_array_equal(whole.ends, dataset._arrays.ends)


def test_a_step_is_followed_by_the_next_state(dataset):
    table = table_of(dataset._arrays)
    following = table["next_states"].chunk(0).to_numpy_ndarray()
    inside = ~dataset.dones[:-1]
    np.testing.assert_array_equal(following[:-1][inside], dataset.states[1:][inside])
    np.testing.assert_array_equal(following[dataset.dones], dataset.final_states)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: (p / "flowshield.json").unlink(), "no finished dataset"),
        (lambda p: (p / "flowshield.json").write_text("{"), "cannot be read"),
        (lambda p: (p / "part-00000.parquet").unlink(), "missing or damaged"),
        (lambda p: (p / "part-00000.parquet").write_bytes(b"PAR1"), "missing or damaged"),
        (lambda p: changed(p, n_episodes=9), "n_episodes = 9"),
        (lambda p: changed(p, format_version=7), "version 7 is unknown"),
        (lambda p: changed(p, n_parts=0), "no parts"),
    ],
)
def test_an_unfinished_or_damaged_folder_is_refused(dataset, tmp_path, spoil, words):
    path = tmp_path / "data.parquet"
    dataset.save(path)
    spoil(path)
    with pytest.raises(FileFormatError, match=words):
        TrajectoryDataset(path)


def changed(path, **entries):
    manifest = json.loads((path / "flowshield.json").read_text())
    (path / "flowshield.json").write_text(json.dumps({**manifest, **entries}))


@pytest.fixture(scope="module")
def asked():
    """Three episodes, of which the first and the last have requests."""
    requests = ((5, -2.5), None, (3, 1e9))
    return TrajectoryDataset.from_episodes(
        [numbered_episode(2 + i, i, request=request) for i, request in enumerate(requests)]
    )


def test_requests_stand_in_every_row_of_their_episode(asked):
    table = table_of(asked._arrays)
    for name, values in (
        ("request_horizon", [5, np.nan, 3]),
        ("request_return", [-2.5, np.nan, 1e9]),
    ):
        np.testing.assert_array_equal(table[name].to_numpy(), np.repeat(values, [2, 3, 4]))


def test_parts_without_requests_are_joined_to_parts_with_them(asked):
    parts = [table_of(asked.subset([i])._arrays) for i in range(3)]
    assert ["request_return" in part.column_names for part in parts] == [True, False, True]
    np.testing.assert_array_equal(arrays_of(parts, "parts").requests, asked.requests)
    assert arrays_of([parts[1]], "parts").requests is None
    parts[2] = parts[2].drop_columns(["request_return"])
    with pytest.raises(FileFormatError, match="lacks request_return"):
        arrays_of(parts, "parts")


def test_a_folder_without_requests_has_the_columns_and_version_of_before(dataset, asked, tmp_path):
    columns = ["states", "actions", "rewards", "terminated", "truncated"]
    columns += ["behaviours", "levels", "indices", "next_states"]
    for some in (dataset, asked.subset([1])):
        some.save(tmp_path / "data.parquet")
        part = pq.read_table(tmp_path / "data.parquet" / "part-00000.parquet")
        assert part.column_names == columns
        manifest = json.loads((tmp_path / "data.parquet" / "flowshield.json").read_text())
        assert manifest["format_version"] == 1 and manifest["n_parts"] == 1


def test_a_folder_of_version_2_without_requests_is_refused(dataset, tmp_path):
    path = tmp_path / "data.parquet"
    dataset.save(path)
    changed(path, format_version=2)
    with pytest.raises(
        FileFormatError, match=r"data\.parquet: expected the columns request_horizon, "
    ):
        TrajectoryDataset(path)


def test_in_an_older_folder_a_column_of_such_a_name_is_somebody_elses(dataset, tmp_path):
    path = tmp_path / "data.parquet"
    dataset.save(path)
    part = path / "part-00000.parquet"
    table = pq.read_table(part)
    pq.write_table(table.append_column("request_return", pa.array(["mine"] * len(table))), part)
    read = TrajectoryDataset(path)
    assert read.requests is None
    same(read, dataset)


def test_writing_again_leaves_no_older_part(dataset, tmp_path):
    path = tmp_path / "data.parquet"
    dataset.save(path)
    (path / "part-00001.parquet").write_bytes((path / "part-00000.parquet").read_bytes())
    dataset.subset([0]).save(path)
    assert sorted(p.name for p in path.iterdir()) == ["flowshield.json", "part-00000.parquet"]
    assert TrajectoryDataset(path).n_episodes == 1


def test_a_table_without_a_column_is_refused(dataset):
    table = table_of(dataset._arrays).drop_columns(["rewards"])
    with pytest.raises(FileFormatError, match="lacks rewards"):
        arrays_of([table], "this table")
    flat = table_of(dataset._arrays).set_column(0, "states", pa.array(dataset.rewards))
    with pytest.raises(FileFormatError, match="tensors of one shape as states"):
        arrays_of([flat], "this table")
