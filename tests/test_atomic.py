import errno
import os
import stat

import pytest

from flowshield.atomic import atomic_folder, atomic_write


class Full(OSError):
    """A full disk."""


def write(path, content):
    with atomic_write(path) as file:
        file.write(content)


def test_the_content_arrives_and_nothing_else_does(tmp_path):
    write(tmp_path / "a.bin", b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_missing_folders_are_made(tmp_path):
    write(tmp_path / "deep" / "er" / "a.bin", b"new")
    assert (tmp_path / "deep" / "er" / "a.bin").read_bytes() == b"new"


def test_until_the_end_the_old_file_is_there(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [Full("no space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_no_temporary_one(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), atomic_write(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_at_the_very_end_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail(*args, **kwargs):
        raise Full("no space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(Full):
        write(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_failure_where_nothing_was_leaves_nothing(tmp_path):
    with pytest.raises(Full), atomic_write(tmp_path / "a.bin"):
        raise Full
    assert os.listdir(tmp_path) == []


def test_the_temporary_file_lies_in_the_same_folder(tmp_path):
    # a rename across file systems is a copy, which can stop half-way
    with atomic_write(tmp_path / "a.bin"):
        (name,) = os.listdir(tmp_path)
        assert name != "a.bin"


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_are_those_of_any_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        write(tmp_path / "a.bin", b"new")
    finally:
        assert os.umask(before) == umask  # asking for the mask must not change it
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("fails_at", ["the body", "the rename"])
def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch, fails_at):
    target = tmp_path / "folder"
    with atomic_folder(target) as new:
        (new / "a").write_text("old")
    rename = os.rename

    def refusing(source, place):
        if source.name == "new":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(source, place)

    monkeypatch.setattr("flowshield.atomic.os.rename", refusing)
    with pytest.raises(OSError, match="No space left"), atomic_folder(target) as new:
        (new / "a").write_text("new")
        if fails_at == "the body":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert (target / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["folder"]
    monkeypatch.undo()
    with atomic_folder(target) as new:
        (new / "a").write_text("new")
    assert (target / "a").read_text() == "new"
    assert os.listdir(tmp_path) == ["folder"]


def test_a_folder_does_not_take_the_place_of_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"), atomic_folder(tmp_path / "file") as new:
        (new / "a").write_text("new")
    assert (tmp_path / "file").read_text() == "mine"
    assert os.listdir(tmp_path) == ["file"]
