import os
from pathlib import Path

import numpy as np
import pytest
from numbered_episode import numbered_episode

from flowshield.cli import main
from flowshield.data import DataCollector, TrajectoryDataset
from flowshield.data.conversion import convert
from flowshield.envs import make_env
from flowshield.errors import ConfigError, FileFormatError

ARRAYS = (
    "states", "actions", "rewards", "terminated", "truncated", "final_states", "behaviours",
    "levels", "episode_indices", "episode_starts",
)  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def dataset():
    behaviour = {
        "components": [{"kind": "controller", "weight": 1}, {"kind": "random", "weight": 1}]
    }
    env = make_env("lunarlander", max_episode_steps=90)
    return DataCollector(env, behaviour=behaviour).collect(6, seed=3)


@pytest.mark.parametrize("way", [("npz", "parquet"), ("parquet", "npz"), ("pkl", "parquet")])
def test_there_and_back_everything_is_equal(dataset, way):
    first, second = way
    dataset.save(f"a.{first}")
    for source, target in ((f"a.{first}", f"b.{second}"), (f"b.{second}", f"c.{first}")):
        assert main(["convert", source, target]) == 0
    original, there, back = map(TrajectoryDataset, (f"a.{first}", f"b.{second}", f"c.{first}"))
    for read in (there, back):
        assert read.metadata == original.metadata
        for name in ARRAYS:
            one, other = getattr(original, name), getattr(read, name)
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other, err_msg=name)
    if first == "npz":
        with open("a.npz", "rb") as a, open("c.npz", "rb") as c:
            assert a.read() == c.read()


@pytest.mark.parametrize("target", ["b.parquet", "b.pkl", "b.npz"])
def test_requests_go_along(target):
    requests = ((5, -2.5), None)
    TrajectoryDataset.from_episodes(
        [numbered_episode(2 + i, i, request=request) for i, request in enumerate(requests)]
    ).save("a.npz")
    convert("a.npz", target)
    convert(target, "c.npz")
    np.testing.assert_array_equal(TrajectoryDataset(target).requests, [[5, -2.5], [np.nan, np.nan]])
    assert Path("a.npz").read_bytes() == Path("c.npz").read_bytes()


def test_an_older_file_converts(dataset):
    flags = {"states": dataset.states, "actions": dataset.actions, "rewards": dataset.rewards}
    np.savez("old.npz", dones=dataset.dones, **flags)
    convert("old.npz", "new.parquet")
    read = TrajectoryDataset("new.parquet")
    np.testing.assert_array_equal(read.dones, dataset.dones)
    assert read.final_states is None


@pytest.mark.parametrize("other", ["a.npz", "./a.npz", "link.npz"])
def test_a_place_is_not_converted_into_itself(dataset, other):
    dataset.save("a.npz")
    os.symlink("a.npz", "link.npz")
    with pytest.raises(ConfigError, match="same place"):
        convert("a.npz", other, force=True)


def test_what_is_there_is_replaced_only_by_force(dataset, capsys):
    dataset.save("a.npz")
    for name in ("b.npz", "b.parquet"):
        dataset.subset([0]).save(name)
        assert main(["convert", "a.npz", name]) == 1
        assert f"{name} is there already" in capsys.readouterr().err
        assert TrajectoryDataset(name).n_episodes == 1
        assert main(["convert", "a.npz", name, "--force"]) == 0
        assert TrajectoryDataset(name).n_episodes == 6
    assert sorted(os.listdir()) == ["a.npz", "b.npz", "b.parquet"]


@pytest.mark.parametrize("name", ["b.csv", "b", "minari.hdf5"])
def test_unknown_formats(dataset, name):
    dataset.save("a.npz")
    with pytest.raises(FileFormatError, match=r"\.npz or \.pkl or \.parquet"):
        convert("a.npz", name)
    with pytest.raises(FileFormatError, match=r"\.npz or \.pkl or \.parquet"):
        convert(name, "c.npz")


def test_a_folder_with_anything_else_in_it_is_not_replaced(dataset, here):
    (here / "mine.parquet").mkdir()
    (here / "mine.parquet" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        dataset.save("mine.parquet")
    assert (here / "mine.parquet" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("at", [str, Path.as_uri], ids=["path", "address"])
@pytest.mark.parametrize("name", ["part-00000.parquet", "sales.parquet", "flowshield.json.bak"])
def test_a_folder_of_parquet_files_that_are_not_ours_is_not_replaced(dataset, tmp_path, name, at):
    folder = tmp_path / "mine.parquet"
    folder.mkdir()
    (folder / name).write_bytes(b"sales of a year")
    with pytest.raises(ConfigError, match=f"belongs to no dataset of flowshield, '{name}'"):
        dataset.save(at(folder))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {name: b"sales of a year"}


def test_at_an_address_a_dataset_that_was_not_finished_is_replaced(dataset, tmp_path, monkeypatch):
    address = (tmp_path / "a.parquet").as_uri()
    with monkeypatch.context() as patch:
        patch.setattr("flowshield.data.storage.finish_folder", lambda *_: None)
        dataset.subset([0]).save(address)
    with pytest.raises(FileFormatError, match="no finished dataset"):
        TrajectoryDataset(address)
    dataset.save(address)
    assert TrajectoryDataset(address).n_episodes == dataset.n_episodes
    names = {path.name for path in (tmp_path / "a.parquet").iterdir()}
    assert names == {"flowshield.json", "part-00000.parquet"}


def test_a_disk_that_fills_up_leaves_the_old_folder(dataset, here, monkeypatch):
    dataset.subset([0]).save("a.parquet")

    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr("flowshield.data.storage.finish_folder", full)
    with pytest.raises(OSError, match="No space left"):
        dataset.save("a.parquet")
    assert TrajectoryDataset("a.parquet").n_episodes == 1
    assert os.listdir() == ["a.parquet"]
