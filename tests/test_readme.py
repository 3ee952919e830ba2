import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from flowshield.cli import make_parser
from flowshield.config import compose

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_two_commands_stand_as_promised():
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert lines.count("pip install -c constraints.txt -e . && flowshield run") == 1
    assert lines.count('pip install -c constraints.txt -e ".[test]" && pytest') == 1


def test_every_flowshield_line_parses_and_composes():
    lines = [
        shlex.split(line, comments=True) for block in blocks("bash") for line in block.splitlines()
    ]
    ours = [words for words in lines if words and words[0] == "flowshield"]
    assert ours
    for words in ours:
        parsed = make_parser().parse_args(words[1:])
        if parsed.command not in ("ask", "film"):  # these read a run's own config
            compose("tune" if parsed.command == "tune" else "run", parsed.overrides)


def test_the_front_door_is_short():
    assert len(README.splitlines()) < 250


@pytest.mark.slow
def test_the_python_example_runs_as_it_stands(tmp_path):
    (example,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "supported: False" in done.stdout
    assert "without the shield" in done.stdout and "with it" in done.stdout


def markdown_tables(text):
    """Every table of a text in Markdown, to the letter."""
    return re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)


def test_the_benchmarks_tables_are_those_of_the_committed_results():
    """Of README and results page: where they refer to them, or have their columns."""
    path = ROOT / "docs" / "results" / "achievability.md"
    committed = markdown_tables(path.read_text())
    heads = {table.splitlines()[0] for table in committed}
    quoted = 0
    first_page = (path.parent / "index.md").read_text()
    for part in re.split(r"^## ", f"{README}\n## {first_page}", flags=re.MULTILINE):
        refers = "From [achievability.md]" in part or "docs/results/achievability.md" in part
        for table in markdown_tables(part):
            if refers or table.splitlines()[0] in heads:
                assert table in committed
                quoted += 1
    assert quoted


def test_pictures_and_pages_are_there():
    for path in re.findall(r"\]\((docs/[^)]+)\)", README):
        assert (ROOT / path).stat().st_size > 0
