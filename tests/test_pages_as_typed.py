"""What README and docs/ tell their readers to type, in this order, with tiny sizes put behind it.

The sweeps are in `distributed/test_sweeps_as_typed.py`.
"""

import contextlib
import io
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pages import NOT_RUN, PAGES, ROOT, blocks, commands, is_run, text_of, typed
from patience import PATIENCE_S
from tiny import TINY

from flowshield.cli import main

ELSEWHERE = {"docs/guides/data.md": "data/test_data_guide.py, whose order is not the page's"}
FIRST = "docs/index.md"  # who reads another page has the run of this one
SHIELD, ENV = "docs/guides/own_shield.md", "docs/guides/own_environment.md"

SIZES = [word for word in TINY if not word.startswith("env.")]
SIZES += ["data.n_episodes=60", "ray.num_workers=0"]
CHOICES = {"env": "env.commands=[[200,280],[1000,280]]", "shield": "shield=quantile"}
EXAMPLES = [path.read_text() for path in ROOT.glob("examples/*.py")]


def smaller(words):
    """A command with tiny sizes behind it, and with less to do where it does not choose itself."""
    if words[1] == "explore":
        return [*words, "--episodes=1", "--moments=1", "--requests=2"]
    stage = words[1] in ("run", "collect", "train", "evaluate")
    if not (stage or words[0] == "python") or goes_on(words):
        return words
    told = " ".join(words) if stage else Path(words[1]).read_text()
    left = [word for key, word in CHOICES.items() if not re.search(rf"""[ "]{key}[.=]""", told)]
    return [*words, *SIZES, *left]


def run_folders(words):
    return [Path(word.partition("=")[2]) for word in words if word.startswith("run_dir=")]


def goes_on(words):
    """Whether a command's run folder is there already, with its settings."""
    return any((folder / "config.yaml").exists() for folder in run_folders(words))


class Reader:
    """Follows pages, each once and in a folder of its own with this checkout's examples in it.

    Attributes:
        printed: By page, what its commands and its Python printed.
    """

    def __init__(self, make_folder):
        self.make_folder = make_folder
        self.folders, self.printed, self.known = {}, {}, set()

    def follow(self, page):
        """The folder in which a page was followed."""
        if page not in self.folders:
            folder = self.make_folder("reader")
            (folder / "examples").symlink_to(ROOT / "examples")
            if page != FIRST and not any("run_dir=runs/mine" in words for words in commands(page)):
                (folder / "runs").mkdir()
                (folder / "runs" / "mine").symlink_to(self.follow(FIRST) / "runs" / "mine")
            with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
                self.type_blocks(page)
            self.folders[page], self.printed[page] = folder, printed.getvalue()
        return self.folders[page]

    def type_blocks(self, page):
        names, exported = {}, {}
        for language, text in blocks(page):
            if language == "bash":
                for words in filter(is_run, typed(text)):
                    self.type(words, exported)
            elif text not in EXAMPLES:  # these, a command runs
                exec(compile(text, page, "exec"), names)

    def type(self, words, exported):
        """Types a command: in this process, unless it is a script or has variables of its own."""
        if words[0] == "export":
            exported.update(word.split("=", 1) for word in words[1:])
            return
        first = next(i for i, word in enumerate(words) if not re.match("[A-Z_]+=", word))
        variables = {**exported, **dict(word.split("=", 1) for word in words[:first])}
        words = smaller(words[first:])
        if words[0] == "python" or variables:
            in_a_process_of_its_own(words, variables)
        elif words[1] != "tune" and not self.knows(words):
            assert main(words[1:]) == 0, shlex.join(words)

    def knows(self, words):
        """Whether the same run was made before: one without a name is not looked at later."""
        if words[1] != "run" or run_folders(words):
            return False
        known = frozenset(words) in self.known
        self.known.add(frozenset(words))
        return known


def in_a_process_of_its_own(words, variables):
    path = os.pathsep.join([*filter(None, [variables.get("PYTHONPATH")]), str(ROOT)])
    program = words[1:] if words[0] == "python" else ["-m", *words]
    done = subprocess.run(
        [sys.executable, *program],
        env={**os.environ, **variables, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"
    print(done.stdout)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return Reader(tmp_path_factory.mktemp)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p) and p not in ELSEWHERE])
def test_what_a_page_says_can_be_typed(page, reader):
    reader.follow(page)


@pytest.mark.slow
def test_the_front_doors_example_prints_what_a_shield_is_for(reader):
    reader.follow("README.md")
    printed = reader.printed["README.md"]
    assert "supported: False" in printed
    assert "without the shield" in printed and "with it" in printed


@pytest.mark.slow
def test_an_environment_of_ones_own_goes_through_the_pipeline(reader):
    source = (ROOT / "examples" / "own_environment.py").read_text()
    code = [line for line in source.splitlines() if line and not line.startswith(('"""', "#"))]
    assert len(code) < 30
    assert source in text_of(ENV)
    folder = reader.follow(ENV) / "runs" / "cart"
    results = json.loads((folder / "results.json").read_text())
    asked = {(cell["shield"], *cell["command"]) for cell in results["cells"]}
    assert asked == {(s, *c) for s in ("none", "quantile") for c in [(40, -10), (5, 0), (200, 50)]}
    assert (folder / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_a_shield_of_ones_own_goes_through_the_pipeline(reader):
    source = (ROOT / "examples" / "own_shield.py").read_text()
    assert source in text_of(SHIELD)
    folder = reader.follow(SHIELD) / "runs"
    results = json.loads((folder / "gaussian" / "results.json").read_text())
    assert {cell["shield"] for cell in results["cells"]} == {"none", "gaussian", "mixture"}
    assert results["shields"]["gaussian"]["detection"]["auc_roc"] > 0.5
    assert "gaussian of runs/plugin" in reader.printed[SHIELD]  # asked in another process


LINE = r"python ((?:benchmarks|tests/soak|tests/fuzz/run)\S*\.py[^`|\n]*)"
PROGRAMS = sorted({line.strip() for page in PAGES for line in re.findall(LINE, text_of(page))})


@pytest.mark.parametrize("line", PROGRAMS)
def test_a_program_of_hours_knows_what_it_is_told(line, monkeypatch, capsys):
    """Up to the one word that is put behind it."""
    script, *words = shlex.split(line)
    monkeypatch.syspath_prepend((ROOT / script).parent)
    monkeypatch.setattr(sys, "argv", [script, *words, "--no-such-word"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert end.value.code == 2
    assert capsys.readouterr().err.endswith("error: unrecognized arguments: --no-such-word\n")


def test_whatever_is_not_run_is_still_on_a_page():
    lines = [shlex.join(words) for page in PAGES for words in commands(page)]
    assert not [begin for begin in NOT_RUN if not any(line.startswith(begin) for line in lines)]
    assert all(blocks(page) for page in ELSEWHERE)
