import os
import shutil
import signal
import subprocess
import sys

import pytest

from flowshield.atomic import atomic_write
from flowshield.cli import main
from flowshield.errors import BusyError, ConfigError, WriteError
from flowshield.lock import FolderLock
from flowshield.run_config import load_config, open_run
from flowshield.run_folder import RunFolder

# holds a folder, says so, and waits for ever
HOLDER = """
import sys
from flowshield.lock import FolderLock
lock = FolderLock(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "x")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_told_who_works_in_the_folder(tmp_path, holder, capsys):
    folder = tmp_path / "x"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert main(["collect", f"run_dir={folder}", "ray.num_workers=0"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{folder} is in use by process {holder.pid} on {os.uname().nodename}" in line
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_the_lock_of_a_killed_process_is_free(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "x" / ".flowshield-lock").exists()  # what it left says nothing
    with FolderLock(tmp_path / "x"):
        pass


def test_an_address_of_this_machine_is_locked_where_it_is(tmp_path, holder):
    address = (tmp_path / "x").as_uri()
    with pytest.raises(BusyError, match=f"process {holder.pid}"), open_run([f"run_dir={address}"]):
        pass


def test_a_released_folder_holds_nothing_of_the_lock(tmp_path):
    for _ in range(2):
        with FolderLock(tmp_path):
            assert os.listdir(tmp_path) == [".flowshield-lock"]
            with pytest.raises(BusyError):
                FolderLock(tmp_path)
        assert os.listdir(tmp_path) == []


def test_a_lock_file_that_was_just_taken_away_is_not_mistaken_for_the_lock(tmp_path):
    """Who waits on the old file must not hold it beside the owner of the new one."""
    first = FolderLock(tmp_path)
    (tmp_path / ".flowshield-lock").unlink()
    with FolderLock(tmp_path):
        first.release()  # leaves the new owner's file alone
        with pytest.raises(BusyError):
            FolderLock(tmp_path)


# is killed while it writes a file and a folder, whose old one is already out of the way
WRITER = """
import os
import sys
from pathlib import Path

import flowshield.atomic as atomic

folder = Path(sys.argv[1])
with atomic.atomic_folder(folder / "data.parquet") as new:
    (new / "part").write_text("before")
rename = os.rename

def killed(source, target):
    if Path(source).name == "new":
        os.kill(os.getpid(), 9)
    rename(source, target)

os.rename = killed
with atomic.atomic_write(folder / "models" / "agent.pt") as file:
    file.write(b"half")
    with atomic.atomic_folder(folder / "data.parquet") as new:
        (new / "part").write_text("after")
"""


def test_a_run_clears_away_what_a_killed_one_was_writing_and_nothing_called_like_it(tmp_path):
    folder = tmp_path / "x"
    load_config([f"run_dir={folder}"])
    done = subprocess.run([sys.executable, "-c", WRITER, str(folder)])
    assert done.returncode == -signal.SIGKILL
    (left,) = (folder / "models").iterdir()
    assert (left / "new").exists() and not (folder / "data.parquet").exists()
    theirs = [folder / "models" / ".agent.pt.0123abcd.part", folder / ".config.yaml.0123abcd.part"]
    shutil.copytree(left, theirs[0], symlinks=True)  # with its mark
    theirs[1].write_bytes(b"somebody's")
    load_config([f"run_dir={folder}"])
    kept = {path.name for path in folder.rglob("*")}
    assert not left.exists() and all(path.exists() for path in theirs)
    assert kept == {
        "config.yaml", "models", "data.parquet", "part", "new", ".flowshield-made",
        *(path.name for path in theirs),
    }  # fmt: skip
    # killed between two renames: what was there came back
    assert (folder / "data.parquet" / "part").read_text() == "before"


def test_a_file_that_is_called_like_the_lock_and_is_none_stays(tmp_path):
    path = tmp_path / ".flowshield-lock"
    for content in ("notes", "process of growth"):
        path.write_text(content)
        with pytest.raises(WriteError, match="is not a lock of flowshield: expected no file"):
            FolderLock(tmp_path)
        assert path.read_text() == content


def test_a_folder_that_vanished_is_noticed_and_not_filled_anew(tmp_path):
    folder = RunFolder(tmp_path / "x")
    with folder.held(), pytest.raises(WriteError, match="x vanished while this process worked"):
        (tmp_path / "x").rename(tmp_path / "y")
        folder.send()
    assert os.listdir(tmp_path / "y") == [".flowshield-lock"] and not (tmp_path / "x").exists()


def test_work_without_its_settings_is_not_gone_on_with(tmp_path):
    with atomic_write(tmp_path / "x" / "models" / "agent.pt") as file:
        file.write(b"of unknown settings")
    with pytest.raises(ConfigError, match=r"without its config\.yaml"):
        load_config([f"run_dir={tmp_path / 'x'}"])


def test_a_fresh_folder_is_never_one_that_is_there(tmp_path, monkeypatch):
    """Two starts in one second, or a clock that was set back."""
    monkeypatch.chdir(tmp_path)
    names = {load_config([])[1].place for _ in range(3)}
    assert len(names) == 3
