"""What the pages in docs/ tell their readers to type, as far as it can be tried here.

The examples of `own_environment.md` and `own_shield.md` are run by `test_examples.py`, the blocks
of `data.md` by `data/test_data_guide.py`, the README's by `test_readme.py`.
"""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny import TINY

from flowshield.cli import main, make_parser
from flowshield.config import compose

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RUN_ELSEWHERE = ("guides/own_environment.md", "guides/own_shield.md", "guides/data.md")

# By the first word that counts: why a line is not run here. What is ours is parsed and composed.
NOT_RUN = {
    "pip": "installs from the network",
    "ray": "needs a cluster",
    "pytest": "a part of the suite that runs this",
    "python": "benchmarks and soaks: minutes to hours; their short forms are tests",
    "tensorboard": "serves until it is stopped; what it shows is read in test_pipeline.py",
    "run": "takes minutes; a tiny run is what the other lines are tried on",
    "collect": "as run",
    "train": "as run",
    "evaluate": "as run",
    "tune": "as run",
    "explore": "needs an evaluated run; its own tests run it",
}
RUN = ("ask", "film", "config")


def blocks(language):
    """(page, text) of every block in a language of the pages that are tried here."""
    for path in sorted(DOCS.rglob("*.md")):
        page = path.relative_to(DOCS).as_posix()
        if page not in RUN_ELSEWHERE:
            found = re.findall(rf"```{language}\n(.*?)```", path.read_text(), flags=re.DOTALL)
            yield from ((page, text) for text in found)


def shell_lines():
    """The words of every line in a shell block."""
    lines = [line for _, text in blocks("bash") for line in text.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which `runs/mine` is a trained run."""
    place = tmp_path_factory.mktemp("reader")
    with contextlib.chdir(place):
        given = [*TINY, "ray.num_workers=0", "shield=quantile", "run_dir=runs/mine"]
        assert main(["train", *given]) == 0
    return place


def test_every_shell_line_is_run_or_says_why_not():
    for words in shell_lines():
        ours = words[0] == "flowshield"
        assert words[1] in (*RUN, *NOT_RUN) if ours else words[0] in NOT_RUN, words
        if ours and words[1] in NOT_RUN:
            parsed = make_parser().parse_args(words[1:])
            compose("tune" if parsed.command == "tune" else "run", getattr(parsed, "overrides", []))


def test_every_question_and_film_works(place, monkeypatch):
    monkeypatch.chdir(place)
    lines = [words for words in shell_lines() if words[0] == "flowshield" and words[1] in RUN]
    assert len(lines) >= 4
    for words in {tuple(words) for words in lines}:
        assert main(words[1:]) == 0, words


def test_every_python_block_runs(place, monkeypatch):
    monkeypatch.chdir(place)
    names, pages = {}, set()
    for page, text in blocks("python"):
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(text, page, "exec"), names)
        pages.add(page)
    assert "guides/ask.md" in pages


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    if not (find_spec("mkdocs") and find_spec("material") and find_spec("mkdocstrings")):
        pytest.skip("needs mkdocs-material and mkdocstrings: pip install -e '.[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "BaseShield" in (tmp_path / "site" / "api" / "models" / "index.html").read_text()


def test_every_page_is_in_the_navigation():
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert set(re.findall(r"- ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)) == pages


def test_no_line_of_a_paragraph_is_taken_for_a_list():
    """Markdown begins a list at a wrapped line such as `31. But`."""
    for path in (*DOCS.rglob("*.md"), *ROOT.glob("*.md")):
        text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
        assert not re.findall(r"(?<=\S\n) *\d+[.)] .*", text), path
