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
    write(mirror.path, ".model.pt.x1.part/new", "half")
    mirror.send()
    assert not there.exists()


def test_a_start_that_was_cut_off_leaves_no_model_without_its_history(there, monkeypatch):
    """Whatever the clock says: a model that is there is not trained again."""
    mirror, sent = Mirror(there.as_uri()), []
    monkeypatch.setattr(
        "flowshield.mirror.copy_whole", lambda source, *_, **__: sent.append(source)
    )
    for name in ("models/a.json", "models/a.pt", "checkpoints/a/best.pt", "checkpoints/a/last.pt"):
        write(mirror.path, name, name)
    os.utime(mirror.path / "models/a.pt", (0, 0))
    os.utime(mirror.path / "checkpoints/a/last.pt", (0, 0))
    mirror.send()
    names = [Path(source).name for source in sent]
    assert names == ["best.pt", "last.pt", "a.json", "a.pt"]


def test_a_file_that_was_replaced_is_sent_whatever_its_time(there):
    mirror = Mirror(there.as_uri())
    for text in ("old", "new"):
        write(mirror.path, "other", text)
        (mirror.path / "other").rename(mirror.path / "model")
        os.utime(mirror.path / "model", (1e9, 1e9))
        mirror.send()
    assert contents(there) == {"model": "new"}


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
