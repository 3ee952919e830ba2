"""What a shell makes of `flowshield completion`, typed as a user types, at a terminal.

Each shell is set up as docs/guides/shell.md says.
"""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from patience import PATIENCE_S

ROOT = Path(__file__).parents[1]
TYPED = [
    ("tra", "train"),
    ("--vers", "--version"),
    ("tune --re", "tune --resume"),
    ("ask runs --shi", "ask runs --shield"),
    ("completion z", "completion zsh"),
    ("convert epi", "convert episodes.npz"),
    ("train seed=1 data.path=epi", "train seed=1 data.path=episodes.npz"),
]

# What is run says what it was given: the completed line.
AFTERWARDS = "flowshield() { echo \"<$*>\"; }; PS1='ready> '\n"
START = {"bash": ["--noprofile", "--rcfile", ".bashrc", "-i"], "zsh": ["-d", "-i"]}


@pytest.fixture
def home(tmp_path):
    """A user's empty home, with the program on its PATH and a dataset in it."""
    program = tmp_path / "bin" / "flowshield"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m flowshield "$@"\n')
    program.chmod(0o755)
    (tmp_path / "episodes.npz").touch()
    return tmp_path


def needs(shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed here")


def environment(home):
    return {
        "HOME": str(home),
        "ZDOTDIR": str(home),
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm",
    }


@contextmanager
def at_a_terminal(shell, home):
    """A function that types into the shell and one that reads up to a pattern."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [shell, *START[shell]],
        stdin=its,
        stdout=its,
        stderr=its,
        cwd=home,
        env=environment(home),
        start_new_session=True,
    )
    os.close(its)
    shown = ""

    def read_to(pattern):
        nonlocal shown
        while not (found := re.search(pattern, shown)):
            assert select.select([ours], [], [], PATIENCE_S)[0], f"nothing came after {shown!r}"
            shown += os.read(ours, 4096).decode(errors="replace")
        shown = shown[found.end() :]
        return found

    try:
        yield lambda text: os.write(ours, text.encode()), read_to
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.parametrize("shell", START)
def test_a_tab_completes_commands_options_choices_and_files(home, shell):
    needs(shell)
    rc = f"source <(flowshield completion {shell})\n{AFTERWARDS}"
    (home / f".{shell}rc").write_text(rc)
    with at_a_terminal(shell, home) as (type_in, read_to):
        for begun, whole in TYPED:
            read_to("ready> ")
            type_in(f"flowshield {begun}\t\r")
            assert read_to(r"<(.*)>")[1] == whole


@pytest.mark.parametrize(("begun", "whole"), TYPED)
def test_fish_completes_the_same(home, begun, whole):
    needs("fish")
    assert fish(home, begun) == {whole.split()[-1]}


def test_fish_offers_no_file_for_a_command(home):
    needs("fish")
    assert {"run", "completion"} < fish(home, "") and "episodes.npz" not in fish(home, "")


def fish(home, begun):
    """What fish offers for the last word."""
    place = home / ".config" / "fish" / "completions" / "flowshield.fish"
    if not place.exists():
        place.parent.mkdir(parents=True)
        setup = f"flowshield completion fish > {place}"
        subprocess.run(["sh", "-c", setup], cwd=home, env=environment(home), check=True)
    done = subprocess.run(
        ["fish", "-c", f"complete -C 'flowshield {begun}'"],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return {line.partition("\t")[0] for line in done.stdout.splitlines()}
