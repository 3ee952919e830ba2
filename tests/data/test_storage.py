"""Files: round trips, older layouts, and every way in which a file can be wrong."""

import errno
import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest

from flowshield import __version__
from flowshield.data import Episode, TrajectoryDataset
from flowshield.data.restricted_pickle import load_plain_pickle
from flowshield.errors import DataError, FileFormatError, ShapeError

ARRAYS = (
    "states", "actions", "rewards", "terminated", "truncated", "dones", "final_states",
    "behaviours", "levels", "episode_indices", "episode_starts", "commands",
)  # fmt: skip
SUFFIXES = pytest.mark.parametrize("suffix", ["npz", "pkl"])


def make_dataset(seed=0, requests=(None, None, None)):
    rng = np.random.default_rng(seed)
    episodes = [
        Episode(
            states=rng.normal(size=(length, 3)).astype(np.float32),
            final_state=rng.normal(size=3).astype(np.float32),
            actions=rng.normal(size=(length, 2)).astype(np.float32),
            rewards=rng.normal(size=length),
            terminated=length != 4,
            truncated=length == 4,
            behaviour=["controller", "epsilon_random"][length % 2],
            level=0.1 * length if length % 2 else np.nan,
            index=length,
            request=request,
        )
        for length, request in zip((2, 4, 5), requests, strict=True)
    ]
    return TrajectoryDataset.from_episodes(episodes, {"seed": seed, "env": "lunarlander"})


@pytest.fixture
def saved(tmp_path):
    """A saved .npz and its arrays, for tests that change something and write it again."""
    path = tmp_path / "data.npz"
    make_dataset().save(path)
    with np.load(path) as archive:
        return path, dict(archive)


@SUFFIXES
def test_everything_comes_back(tmp_path, suffix):
    dataset = make_dataset()
    dataset.save(tmp_path / f"data.{suffix}")
    read = TrajectoryDataset(str(tmp_path / f"data.{suffix}"))
    for name in ARRAYS:
        one, other = getattr(dataset, name), getattr(read, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other, err_msg=name)
    versions = {"format_version": 1, "flowshield_version": __version__}
    assert read.metadata == {**dataset.metadata, **versions}


REQUESTS = ((30, -12.5), None, (1e6, 0))


@pytest.mark.parametrize("suffix", ["npz", "pkl", "parquet"])
def test_requests_come_back_in_a_file_of_version_2(tmp_path, suffix):
    dataset = make_dataset(requests=REQUESTS)
    path = tmp_path / f"data.{suffix}"
    dataset.save(path)
    read = TrajectoryDataset(path)
    np.testing.assert_array_equal(read.requests, [[30, -12.5], [np.nan, np.nan], [1e6, 0]])
    assert read.requests.dtype == np.float64
    np.testing.assert_array_equal(read.states, dataset.states)
    assert read.metadata["format_version"] == 2
    read.subset([1]).save(path)  # of which none has a request
    without = TrajectoryDataset(path)
    assert without.requests is None and without.metadata["format_version"] == 1


def bytes_of_version_1(dataset, suffix):
    """A file as the first release wrote it, put together here."""
    names = ("states", "actions", "rewards", "terminated", "truncated", "behaviours", "levels")
    versions = {"format_version": 1, "flowshield_version": __version__}
    table = {
        **{name: getattr(dataset, name) for name in names},
        "indices": dataset.episode_indices,
        "dones": dataset.dones,
        "final_states": dataset.final_states,
        "metadata": np.array(json.dumps({**dataset.metadata, **versions}, sort_keys=True)),
    }
    if suffix == "pkl":
        return pickle.dumps(table, protocol=4)
    file = io.BytesIO()
    np.savez(file, **table)
    return file.getvalue()


@SUFFIXES
def test_without_requests_a_file_is_the_same_bytes_as_before_there_were_any(tmp_path, suffix):
    path = tmp_path / f"data.{suffix}"
    parts = [make_dataset(), make_dataset(requests=REQUESTS).subset([1])]
    for dataset in parts:
        dataset.save(path)
        assert path.read_bytes() == bytes_of_version_1(dataset, suffix)
        read = TrajectoryDataset(path)
        assert read.requests is None and read.metadata["format_version"] == 1


def test_in_an_older_file_an_array_called_requests_is_somebody_elses(saved):
    path, arrays = saved
    np.savez(path, **arrays, requests=np.array(["a letter"]))
    assert TrajectoryDataset(path).requests is None


@SUFFIXES
def test_at_an_address_files_are_read_and_not_written(tmp_path, suffix):
    path = tmp_path / f"data.{suffix}"
    make_dataset().save(path)
    read = TrajectoryDataset(path.as_uri())
    np.testing.assert_array_equal(read.states, make_dataset().states)
    other = (tmp_path / f"other.{suffix}").as_uri()
    with pytest.raises(FileFormatError, match=f"{other}: there is no such file"):
        TrajectoryDataset(other)
    with pytest.raises(FileFormatError, match=f"{other}: expected a name that ends in .parquet"):
        read.save(other)


@SUFFIXES
def test_saving_what_was_read_gives_the_same_bytes(tmp_path, suffix):
    first, second = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    make_dataset().save(first)
    TrajectoryDataset(first).save(second)
    assert first.read_bytes() == second.read_bytes()


def test_npz_is_read_by_plain_numpy_without_pickle(saved):
    path, arrays = saved
    assert {"states", "actions", "rewards", "dones"} <= set(arrays)
    assert json.loads(str(arrays["metadata"]))["n_truncated"] == 1


@SUFFIXES
def test_the_older_layout(tmp_path, suffix):
    table = {
        "states": np.zeros((5, 3)),
        "actions": np.zeros((5, 2)),
        "rewards": np.arange(5.0),
        "dones": np.array([0.0, 1.0, 0.0, 1.0, 0.0]),
    }
    path = tmp_path / f"old.{suffix}"
    if suffix == "npz":
        np.savez_compressed(path, **table)
    else:
        path.write_bytes(pickle.dumps(table))
    dataset = TrajectoryDataset(path)
    np.testing.assert_array_equal(dataset.terminated, [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(dataset.truncated, [0, 0, 0, 0, 1])
    assert dataset.metadata == {"n_episodes": 3, "n_truncated": 1}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_any_protocol(tmp_path, protocol):
    dataset = make_dataset()
    table = {name: getattr(dataset, name) for name in ("states", "actions", "rewards", "dones")}
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(table, protocol=protocol))
    np.testing.assert_array_equal(TrajectoryDataset(path).states, dataset.states)


@SUFFIXES
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"data.{suffix}"
    make_dataset(0).save(path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("flowshield.atomic.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        make_dataset(1).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_a_disk_that_fills_up_in_the_middle_leaves_the_old_file(saved, monkeypatch):
    path, _ = saved
    before = path.read_bytes()
    write_array = np.lib.format.write_array

    def full(file, array, *args, **kwargs):
        if array.dtype == np.float64:  # the rewards, after states and actions went well
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_array(file, array, *args, **kwargs)

    monkeypatch.setattr("numpy.lib._npyio_impl.format.write_array", full)
    with pytest.raises(OSError, match="No space left"):
        make_dataset(1).save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@SUFFIXES
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.999])
def test_truncated_files(tmp_path, suffix, share):
    path = tmp_path / f"data.{suffix}"
    make_dataset().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FileFormatError, match=f"data.{suffix}"):
        TrajectoryDataset(path)


def test_damaged_bytes_never_pass_for_data(saved):
    path, _ = saved
    content = path.read_bytes()
    states = TrajectoryDataset(path).states
    rng = np.random.default_rng(0)
    for place in rng.integers(len(content), size=150):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            # Some bytes of a zip archive mean nothing: then the data must be untouched.
            np.testing.assert_array_equal(TrajectoryDataset(path).states, states)
        except (FileFormatError, DataError, ShapeError) as error:
            assert "data.npz" in str(error)


@SUFFIXES
@pytest.mark.parametrize(
    "content", [b"not a dataset", b"PK\x03\x04rubbish", b"\x80\x04.", b"\x00" * 99]
)
def test_foreign_files(tmp_path, suffix, content):
    path = tmp_path / f"data.{suffix}"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=f"data.{suffix}"):
        TrajectoryDataset(path)


def test_a_zip_of_something_else(tmp_path):
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(FileFormatError, match="lacks states, actions, rewards, dones"):
        TrajectoryDataset(path)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(FileFormatError, match="no such file"):
        TrajectoryDataset(tmp_path / "absent.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(FileFormatError, match="no such file"):
        TrajectoryDataset(tmp_path / "folder.npz")


@pytest.mark.parametrize("name", ["data", "data.csv", "data.npy"])
def test_unknown_suffixes(tmp_path, name):
    with pytest.raises(FileFormatError, match=r"\.npz or \.pkl"):
        TrajectoryDataset(tmp_path / name)
    with pytest.raises(FileFormatError, match=r"\.npz or \.pkl"):
        make_dataset().save(tmp_path / name)


@pytest.mark.parametrize("version", [0, 3, "1", None])
def test_an_unknown_version_is_refused_by_name(saved, version):
    path, arrays = saved
    metadata = json.loads(str(arrays["metadata"])) | {"format_version": version}
    np.savez(path, **arrays | {"metadata": np.array(json.dumps(metadata))})
    with pytest.raises(
        FileFormatError, match=f"format version {version!r} is unknown.*reads 1 and 2"
    ):
        TrajectoryDataset(path)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda r: None, FileFormatError, "it lacks requests"),
        (lambda r: r[:-1], ShapeError, r"expected requests \[3, 2\], got shape \[2, 2\]"),
        (lambda r: r[:, 0], ShapeError, r"expected requests \[3, 2\], got shape \[3\]"),
        (lambda r: -r, DataError, r"requests\[0\] is \[-30.0, 12.5\] \(episode 0\)"),
        (lambda r: r.astype(str), DataError, "numbers as requests"),
    ],
)
def test_requests_that_do_not_fit(tmp_path, change, error, message):
    path = tmp_path / "data.npz"
    make_dataset(requests=REQUESTS).save(path)
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["requests"] = change(arrays["requests"])
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(error, match=f"data.npz.*{message}"):
        TrajectoryDataset(path)


@pytest.mark.parametrize("metadata", ["", "{", "[]", "3", "{}"])
def test_foreign_metadata(saved, metadata):
    path, arrays = saved
    np.savez(path, **arrays | {"metadata": np.array(metadata)})
    with pytest.raises(FileFormatError, match="metadata are not those of a flowshield file"):
        TrajectoryDataset(path)


def spoil(array):
    spoiled = array.copy()
    spoiled[3] = np.nan
    return spoiled


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        ("states", spoil, DataError, r"states\[3\] is \[nan, nan, nan\]"),
        ("rewards", spoil, DataError, r"rewards\[3\] is nan"),
        ("actions", lambda a: a[:-1], ShapeError, r"actions \[11, any\]"),
        ("states", lambda a: a[:, 0], ShapeError, "states"),
        ("behaviours", lambda a: a[:-1], ShapeError, r"behaviours \[3\]"),
        ("behaviours", lambda a: np.zeros(3), DataError, "text as behaviours"),
        ("levels", lambda a: a.astype(str), DataError, "numbers as levels"),
        ("indices", lambda a: a / 2, DataError, "whole numbers as indices"),
        ("final_states", lambda a: a[:, :2], ShapeError, r"final_states \[3, 3\]"),
        ("terminated", lambda a: a * 0, ShapeError, "behaviours"),
        ("truncated", lambda a: a | (np.arange(11) == 10), DataError, "n_truncated = 1"),
    ],
)
def test_arrays_that_do_not_fit(saved, name, change, error, message):
    path, arrays = saved
    np.savez(path, **arrays | {name: change(arrays[name])})
    with pytest.raises(error, match=f"data.npz.*{message}"):
        TrajectoryDataset(path)


def test_missing_arrays_are_named(saved):
    path, arrays = saved
    del arrays["truncated"], arrays["levels"]
    np.savez(path, **arrays)
    with pytest.raises(FileFormatError, match="lacks truncated, levels"):
        TrajectoryDataset(path)


def test_arrays_of_objects_are_never_unpickled(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, states=np.array([Bomb()], dtype=object))
    with pytest.raises(FileFormatError, match="allow_pickle"):
        TrajectoryDataset(path)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize(
    "content", [Bomb(), {"states": Bomb()}, [np.array([Bomb()], dtype=object)]]
)
def test_a_pickle_cannot_run_code(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(FileFormatError, match="mkdir"):
        TrajectoryDataset(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("value", [make_dataset, np.random.default_rng, Episode, np.float64(1.0)])
def test_nothing_but_arrays_and_containers_is_unpickled(tmp_path, value):
    path = tmp_path / "value.pkl"
    path.write_bytes(pickle.dumps(value))
    with open(path, "rb") as file, pytest.raises(pickle.UnpicklingError, match="neither an array"):
        load_plain_pickle(file)


def test_a_pickle_that_is_no_table(tmp_path):
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(FileFormatError, match="dict of arrays, got a list"):
        TrajectoryDataset(path)


def test_metadata_that_are_not_fit_for_json(tmp_path):
    dataset = TrajectoryDataset.from_arrays(
        np.zeros((1, 1)), np.zeros((1, 1)), [0.0], [True], metadata={"hook": print}
    )
    with pytest.raises(DataError, match="not fit for JSON"):
        dataset.save(tmp_path / "data.npz")
    assert not os.listdir(tmp_path)
