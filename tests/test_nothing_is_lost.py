"""What lies around a run is there afterwards, byte for byte, whatever it is called.

Beside the folders for temporary files, beside the run folder and, foreign files, in it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from flowshield.cli import main
from flowshield.distributed.train_folder import TrainFolder
from flowshield.evaluation.explorer import remove_explorer
from flowshield.evaluation.page_template import page_template
from flowshield.marks import is_left_behind, mark
from flowshield.run_folder import RunFolder
from flowshield.scratch import ScratchFolder, clear_scratch

MARK = ".flowshield-made"
SEAL = "seal 0123456789abcdef0123456789abcdef"
RUN = "run"
# what a command writes into its run folder
WRITTEN = {path.name for path in vars(RunFolder(RUN)).values() if isinstance(path, Path)}

letters = st.characters(exclude_categories=("Cs",), exclude_characters="/\0")
words = st.text(letters, min_size=1, max_size=20)
names = st.one_of(
    words.map("flowshield-{}".format),
    st.sampled_from(["flowshield-main", "flowshield-venv", "flowshield-main.zip", "flowshield-"]),
    words.map(".{}".format),
    words.map(".{}.0123abcd.part".format),
    words.map(".{}.0123abcd.old".format),
    st.sampled_from([".config.yaml.0123abcd.part", ".config.yaml.part", MARK, ".lock", "files"]),
    words,
).filter(lambda name: name not in {".", "..", RUN, ".flowshield-lock", *WRITTEN})
marks = st.sampled_from(
    [
        None,
        "",
        "files",
        f"made by flowshield: process 1 started 1 on here {SEAL}",
        f"made by flowshield: process {10**30} started {10**30} on here {SEAL}",
    ]
)
insides = st.sampled_from([(), ("files/notes",), ("new",), ("old/part",), ("README.md", ".git/a")])
things = st.lists(
    st.tuples(
        names, st.sampled_from(["file", "folder", "link"]), marks, insides, st.binary(max_size=9)
    ),
    max_size=6,
    unique_by=lambda thing: thing[0],
)


def put(place, drawn):
    """Makes what was drawn, as far as this file system can call it so."""
    place.mkdir(parents=True, exist_ok=True)
    for name, kind, text, inside, content in drawn:
        path = place / name
        try:
            if kind == "file":
                path.write_bytes(content)
            elif kind == "link":
                path.symlink_to(place.parent / "elsewhere")
            else:
                path.mkdir()
                (path / ".flowshield-lock").write_text("process 1 on here")
                for file in inside:
                    (path / file).parent.mkdir(parents=True, exist_ok=True)
                    (path / file).write_bytes(content)
                if text:
                    (path / MARK).symlink_to(text)
        except OSError:
            assert len(os.fsencode(name)) > 255


def seen(place, but=()):
    """Everything below a folder: contents of files, targets of links, folders."""
    found = {}
    for folder, below, files in os.walk(place):
        below[:] = [name for name in below if Path(folder, name) not in but]
        for path in (Path(folder, name) for name in (*below, *files)):
            link = path.is_symlink()
            found[path] = os.readlink(path) if link else path.is_dir() or path.read_bytes()
    return found


@contextmanager
def temporary_files(folder):
    folder.mkdir(exist_ok=True)
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A new place for every example."""

    def make():
        return tmp_path_factory.mktemp("place")

    return make


@settings(max_examples=150, deadline=None)
@given(drawn=things)
def test_no_name_makes_a_folder_a_scratch_folder(places, drawn):
    with temporary_files(places() / "tmp") as folder:
        put(folder, drawn)
        (folder.parent / "elsewhere").mkdir()
        (folder.parent / "elsewhere" / "mine").write_text("mine")
        before = seen(folder.parent)
        clear_scratch()
        with ScratchFolder() as scratch:
            (scratch / "a").write_text("ours")
        assert seen(folder.parent) == before


# makes scratch folders with a file in each, and is killed
KILLED = """
import os
import sys
from flowshield.scratch import ScratchFolder

made = [ScratchFolder() for _ in range(int(sys.argv[1]))]
for scratch in made:
    (scratch.path / "ours").write_text("ours")
    print(scratch.path.parent, flush=True)
os.kill(os.getpid(), 9)
"""


def left_behind(folder, number=1):
    """The scratch folders of a process that was killed."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(number)],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    return [Path(line) for line in done.stdout.splitlines()]


def test_the_scratch_folder_of_a_killed_process_goes_and_what_was_made_of_it_stays(tmp_path):
    with temporary_files(tmp_path / "tmp") as folder:
        gone, renamed, kept_in, replaced = left_behind(folder, 4)
        assert all(map(is_left_behind, (gone, renamed, kept_in, replaced)))
        shutil.copytree(gone, folder / "flowshield-copy", symlinks=True)
        renamed.rename(folder / "flowshield-mine")
        (kept_in / "notes").write_text("mine")
        replaced.rename(folder / "flowshield-other")
        shutil.copytree(folder / "flowshield-other", replaced, symlinks=True)
        for name in ("flowshield-copy", "flowshield-mine", "flowshield-other", replaced.name):
            assert not is_left_behind(folder / name)
        before = seen(folder, [gone, kept_in])
        clear_scratch()
        assert not gone.exists()
        assert (kept_in / "notes").read_text() == "mine" and not (kept_in / "files").exists()
        assert seen(folder, [gone, kept_in]) == before


@pytest.mark.parametrize(
    "other",
    [
        lambda text: text.replace(" on ", " on another-"),
        lambda text: text.replace("process ", "process 1"),
        lambda text: text.replace("made by flowshield", "made by somebody"),
        lambda text: text[:-1],
    ],
    ids=["host", "process", "maker", "half"],
)
def test_a_mark_that_says_something_else_is_no_proof(tmp_path, other):
    with temporary_files(tmp_path / "tmp") as folder:
        (left,) = left_behind(folder)
        text = os.readlink(left / MARK)
        (left / MARK).unlink()
        (left / MARK).symlink_to(other(text))
        clear_scratch()
        assert (left / "files" / "ours").read_text() == "ours"


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("_machine", lambda: "another boot"),  # another machine, or a container with its own pids
        ("_lives", lambda pid, started: True),
        ("os.geteuid", lambda: os.getuid() + 1),
    ],
)
def test_in_doubt_a_scratch_folder_stays(tmp_path, monkeypatch, what, value):
    with temporary_files(tmp_path / "tmp") as folder:
        (left,) = left_behind(folder)
        with monkeypatch.context() as patch:
            patch.setattr(f"flowshield.marks.{what}", value)
            clear_scratch()
        assert (left / "files" / "ours").read_text() == "ours"
        clear_scratch()
        assert not left.exists()


def test_a_process_that_got_the_number_of_a_dead_one_holds_nothing(tmp_path, monkeypatch):
    (tmp_path / "made").mkdir()
    monkeypatch.setattr("flowshield.marks._started", lambda pid: 5)
    mark(tmp_path / "made")
    assert not is_left_behind(tmp_path / "made")  # this process made it, and lives
    monkeypatch.setattr("flowshield.marks._started", lambda pid: 6)
    assert is_left_behind(tmp_path / "made")


def test_another_folder_in_the_place_of_a_scratch_folder_stays(tmp_path):
    with temporary_files(tmp_path / "tmp") as folder:
        with ScratchFolder() as scratch:
            shutil.move(scratch.parent, folder / "away")
            scratch.mkdir(parents=True)
            (scratch / "mine").write_text("mine")
        assert (scratch / "mine").read_text() == "mine"


@pytest.mark.parametrize("at", [str, Path.as_uri], ids=["path", "address"])
def test_of_rays_runs_only_those_go_that_were_begun_here(tmp_path, at):
    folder = TrainFolder(at(tmp_path / "fit"))
    runs = tmp_path / "fit" / "ray"
    for name in (folder.new_run(), folder.new_run()):
        (runs / name).mkdir()
        (runs / name / "checkpoint").write_text("Ray's")
    shutil.copytree(runs, tmp_path / "copied" / "ray")
    (runs / "notes").mkdir()
    (runs / "notes" / "mine").write_text("mine")
    (runs / "notes.made-by-flowshield").write_text("notes")
    (runs / ".made-by-flowshield").write_text(f"{folder.runs}/")
    TrainFolder(at(tmp_path / "copied")).clear_runs()
    assert len(list((tmp_path / "copied" / "ray").iterdir())) == 4
    folder.clear_runs()
    names = {path.name for path in runs.iterdir()}
    assert names == {"notes", "notes.made-by-flowshield", ".made-by-flowshield"}
    assert (runs / "notes" / "mine").read_text() == "mine"


def test_nothing_is_left_of_rays_runs_where_nobody_put_anything(tmp_path):
    folder = TrainFolder(str(tmp_path / "fit"))
    folder.new_run()  # killed before Ray had written anything
    folder.clear_runs()
    folder.clear_runs()
    assert list((tmp_path / "fit").iterdir()) == []


def test_a_page_that_is_called_like_the_explorer_stays(tmp_path):
    path = tmp_path / "explorer.html"
    path.write_text("<title>Mine</title>")
    remove_explorer(path)
    assert path.exists()
    path.write_text(page_template("explorer.html.j2").render(payload={"title": "a run"}))
    remove_explorer(path)
    remove_explorer(path)
    assert not path.exists()


SMALL = [
    "env=gridworld",
    "behaviour=random",
    "shield=quantile",
    "data.n_episodes=60",
    "calibration.alpha=0.2",
    "n_epochs=1",
    "shield_epochs=1",
    "model.hidden_dim=16",
    "evaluation.n_episodes=2",
    "evaluation.n_states=20",
    "evaluation.explorer.n_episodes=0",
    "evaluation.followed.n_starts=2",
    "evaluation.followed.n_commands=2",
    "ray.num_workers=0",
    "device=cpu",
]


# what a failing example is cut down to would be worth minutes of commands
@settings(max_examples=2, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(around=things, temporary=things, inside=things)
def test_a_command_changes_nothing_but_what_it_was_told_to_write(places, around, temporary, inside):
    place = places()
    run = place / RUN
    put(place, around)
    put(run, inside)
    theirs = [run / thing[0] for thing in inside]
    with temporary_files(place.parent / f"{place.name}-tmp") as folder:
        put(folder, temporary)

        def all_else():
            """What must stay, and whatever came that nobody asked for."""
            ours = {path: what for path, what in seen(run).items() if belongs(path, theirs)}
            # torch makes a folder for what it compiles, and leaves it empty
            torchs = [path for path in folder.iterdir() if path.name.startswith("torchinductor_")]
            return {**seen(folder, torchs), **seen(place, [run]), **ours}

        before = all_else()
        assert main(["collect", f"run_dir={run}", *SMALL, "n_epochs=wide"]) == 1
        assert all_else() == before
        for command in ("train", "evaluate"):
            assert main([command, f"run_dir={run}", *SMALL]) == 0
            assert all_else() == before, command
        assert main(["train", f"run_dir={run.as_uri()}"]) == 0  # works in a scratch folder
        assert all_else() == before


def belongs(path, things):
    return any(path == thing or thing in path.parents for thing in things)
