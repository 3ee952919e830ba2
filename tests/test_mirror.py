import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from flowshield.errors import ConfigError
from flowshield.mirror import Mirror


@pytest.fixture
def there(tmp_path):
    return tmp_path / "shared" / "run"


def write(folder, name, text):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def everything(name):
    return True


def test_what_is_sent_is_there_and_what_is_there_is_fetched(there):
    one = Mirror(there.as_uri())
    write(one.path, "config.yaml", "a: 1")
    write(one.path, "models/agent.pt", "weights")
    one.send()
    assert contents(there) == {"config.yaml": "a: 1", "models/agent.pt": "weights"}
    another = Mirror(there.as_uri())
    another.fetch(lambda name: name.startswith("models/"))
    assert contents(another.path) == {"models/agent.pt": "weights"}
    another.fetch(everything)
    assert contents(another.path) == contents(one.path)


def test_folders_are_made_even_of_files_that_are_not_fetched(there):
    """Whether something is there at all says what may still be changed."""
    write(there, "sweep/trials/state", "Ray's own")
    mirror = Mirror(there.as_uri())
    mirror.fetch(lambda name: False)
    assert (mirror.path / "sweep").is_dir() and contents(mirror.path) == {}


def test_only_what_is_new_or_changed_is_sent(there):
    write(there, "old", "1")
    mirror = Mirror(there.as_uri())
    mirror.fetch(everything)
    write(mirror.path, "new", "1")
    mirror.send()
    for name in ("old", "new"):
        (there / name).unlink()  # what comes back was sent again
    write(mirror.path, "new", "12")
    mirror.send()
    assert contents(there) == {"new": "12"}


def test_a_file_that_is_not_finished_is_not_sent(there):
    mirror = Mirror(there.as_uri())
    write(mirror.path, ".model.pt.x1", "half")
    mirror.send()
    assert not there.exists()


def test_files_are_sent_in_the_order_in_which_they_were_written(there, monkeypatch):
    """A start that was cut off leaves the same kinds of folder there as here."""
    mirror, sent = Mirror(there.as_uri()), []
    monkeypatch.setattr(
        "flowshield.mirror.copy_whole", lambda source, *_, **__: sent.append(source)
    )
    for name in ("z", "a", "m/b"):
        write(mirror.path, name, name)
    mirror.send()
    assert [source.rpartition("/")[2] for source in sent] == ["z", "a", "b"]


def test_nothing_there_is_an_empty_folder(there):
    mirror = Mirror(there.as_uri())
    mirror.fetch(everything)
    assert contents(mirror.path) == {}


def test_the_folder_to_work_in_goes_with_its_mirror(there):
    mirror = Mirror(there.as_uri())
    path = mirror.path
    assert path.is_dir()
    del mirror
    assert not path.exists()


def test_an_address_of_no_known_kind_says_so():
    with pytest.raises(ConfigError, match="ftp://host/run: expected a path, or an address such as"):
        Mirror("ftp://host/run")


def test_the_folder_of_a_process_that_was_killed_goes_with_the_next_mirror(
    there, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    killed = "import os; from flowshield.mirror import Mirror; " + (
        f"m = Mirror({there.as_uri()!r}); print(m.path, flush=True); os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    done = subprocess.run(
        [sys.executable, "-c", killed], env=environment, capture_output=True, text=True
    )
    left = Path(done.stdout.strip())
    assert done.returncode == -9 and left.is_dir()
    foreign = tmp_path / "temporary" / "somebody-elses"
    foreign.mkdir()
    one = Mirror(there.as_uri())
    assert not left.exists()
    another = Mirror(there.as_uri())
    assert {one.path.parent, another.path.parent, foreign} == set(
        (tmp_path / "temporary").iterdir()
    )
