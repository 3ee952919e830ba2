"""Disks that fill, folders that vanish or may not be written to: real ones, in a child process."""

import ctypes
import multiprocessing
import os
import resource
import sys
import threading
import time

import cloudpickle  # which comes with Gymnasium
import numpy as np
import pytest
import torch

from flowshield.atomic import atomic_write, remove_leftovers
from flowshield.cli import main
from flowshield.data import TrajectoryDataset
from flowshield.errors import WriteError
from flowshield.models import UDRLAgent
from flowshield.training import Logger

SETTINGS = [
    "env=gridworld",
    "behaviour=random",
    "shield=[]",
    "data.n_episodes=60",
    "n_epochs=3",
    "checkpoint_every=1",
    "batch_size=128",
    "model.hidden_dim=16",
    "ray.num_workers=0",
    "device=cpu",
]
_PRIVATE, _READ_ONLY, _REMOUNT = (1 << 18) | (1 << 14), 1, 32
_NOBODY = 65534


# not "fork": what torch's threads held in this process, nobody lets go of in its copy
CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["pytest", "flowshield.pipeline"])  # imported once for all


def in_a_child(action, log):
    """What a child process that does this ends with, and what it says."""
    child = CHILDREN.Process(target=act, args=(cloudpickle.dumps(action), log))
    child.start()
    child.join()
    return child.exitcode, log.read_text()


def act(action, log):
    said = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.exit(cloudpickle.loads(action)())


def mount(folder, options, flags=0):
    """A disk of its own, which this process alone sees."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder.mkdir(exist_ok=True)
    steps = [lambda: libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, options.encode())]
    if not flags:
        steps.insert(0, lambda: libc.unshare(0x20000))  # CLONE_NEWNS
        steps.insert(1, lambda: libc.mount(b"none", b"/", None, _PRIVATE, None))
    for step in steps:
        if step() != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.fixture(scope="module")
def can_mount(tmp_path_factory):
    place = tmp_path_factory.mktemp("mount")

    def action():
        mount(place / "disk", "size=64k")
        return 0

    if not sys.platform.startswith("linux") or in_a_child(action, place / "log")[0] != 0:
        pytest.skip("needs Linux and the right to mount")


def errors(said):
    """The lines that are no stage's."""
    return [line for line in said.splitlines() if line.startswith(("flowshield:", "Traceback"))]


def train(folder, *more):
    return main(["train", f"run_dir={folder}", *SETTINGS, *more])


def left(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def assert_readable(folder):
    """Every file that a restart would read is whole."""
    for path in folder.rglob("*.pt"):
        torch.load(path, weights_only=True)
    for path in folder.rglob("*.npz"):
        TrajectoryDataset(path)
    assert not [path for path in folder.rglob(".*")]


@pytest.mark.parametrize(
    ("size", "file"),  # the last checkpoint of epoch 1, and of epoch 2
    [("28k", "dataset.npz"), ("64k", "last.pt"), ("120k", "last.pt")],
)
def test_a_full_disk_is_one_line_and_with_more_room_the_run_ends_as_any_other(
    can_mount, tmp_path, size, file
):
    disk = tmp_path / "disk"
    if not (tmp_path.parent / "unbroken").exists():
        assert in_a_child(lambda: train(tmp_path.parent / "unbroken"), tmp_path / "log")[0] == 0

    def action():
        mount(disk, f"size={size}")
        assert train(disk / "x") == 1
        assert_readable(disk)
        mount(disk, "size=8m", _REMOUNT)
        assert train(disk / "x") == 0
        assert_same(disk / "x", tmp_path.parent / "unbroken")
        return 0

    code, said = in_a_child(action, tmp_path / "log")
    assert code == 0, said
    (line,) = errors(said)
    assert "No space left on device; what was there before is unchanged" in line
    assert file in line, said


def assert_same(folder, unbroken):
    assert (folder / "dataset.npz").read_bytes() == (unbroken / "dataset.npz").read_bytes()
    ours, theirs = (UDRLAgent.load(place / "models/agent.pt") for place in (folder, unbroken))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_limit_on_the_size_of_files_is_one_line_without_any_rights(tmp_path):
    def action():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        return train(tmp_path / "x")

    code, said = in_a_child(action, tmp_path / "log")
    (line,) = errors(said)
    assert code == 1 and "dataset.npz: File too large" in line
    assert left(tmp_path / "x") == ["commands.json", "config.yaml", "timings.json"]


def test_a_disk_that_turns_read_only_is_one_line_and_everything_stays(can_mount, tmp_path):
    disk = tmp_path / "disk"

    def action():
        mount(disk, "size=8m")
        assert main(["collect", f"run_dir={disk / 'x'}", *SETTINGS]) == 0
        before = {path: path.read_bytes() for path in (disk / "x").iterdir()}
        mount(disk, "size=8m", _REMOUNT | _READ_ONLY)
        code = train(disk / "x")
        assert {path: path.read_bytes() for path in (disk / "x").iterdir()} == before
        return code

    code, said = in_a_child(action, tmp_path / "log")
    (line,) = errors(said)
    assert code == 1 and f"cannot write {disk / 'x'}" in line and "Read-only file system" in line


def test_a_folder_that_one_may_not_write_to_is_one_line(tmp_path):
    def action():
        (tmp_path / "x").mkdir(mode=0o555)
        if os.geteuid() == 0:
            os.seteuid(_NOBODY)
        with pytest.raises(WriteError, match="cannot write .*a.pt: Permission denied"):
            with atomic_write(tmp_path / "x" / "a.pt") as file:
                file.write(b"new")
        return 0

    code, said = in_a_child(action, tmp_path / "log")
    assert code == 0, said


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_where_the_run_folder_should_be_is_one_line(tmp_path, capsys, place):
    (tmp_path / "file").write_text("mine")
    assert train(tmp_path / place) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"flowshield: cannot write {tmp_path / place}")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_folder_that_vanishes_stops_the_run_and_is_not_gone_on_with(tmp_path):
    folder = tmp_path / "x"

    def take_away():
        while not (folder / "checkpoints" / "agent" / "last.pt").exists():
            time.sleep(0.001)
        folder.rename(tmp_path / "away")

    def action():
        threading.Thread(target=take_away, daemon=True).start()
        return train(folder, "n_epochs=1000")

    code, said = in_a_child(action, tmp_path / "log")
    (line,) = errors(said)
    assert code == 1 and ("vanished" in line or "No such file" in line), said
    assert (tmp_path / "away" / "dataset.npz").exists()
    remove_leftovers(tmp_path / "away")  # as the next run there does
    assert_readable(tmp_path / "away" / "checkpoints")
    # what was being written just then is not taken for a run
    assert not folder.exists() or train(folder) == 1


def test_training_curves_on_a_full_disk_name_their_folder_and_say_nothing_twice(
    can_mount, tmp_path
):
    disk = tmp_path / "disk"

    def action():
        mount(disk, "size=32k")
        with pytest.raises(WriteError, match=f"cannot write {disk}/events: No space left"):
            with Logger(disk / "events") as logger:
                (disk / "rest").write_bytes(b"0" * 16384)
                for step in range(100_000):
                    logger.log_histogram("weights", np.arange(9.0), step)
        return 0

    code, said = in_a_child(action, tmp_path / "log")
    assert code == 0 and not errors(said), said


def test_the_errors_of_other_threads_are_still_reported(tmp_path):
    def fail():
        raise OSError("of my own")

    def action():
        with Logger(tmp_path / "events"), Logger(tmp_path / "more"):
            thread = threading.Thread(target=fail)
            thread.start()
            thread.join()
        return 0

    code, said = in_a_child(action, tmp_path / "log")
    assert code == 0 and said.count("OSError: of my own") == 1
