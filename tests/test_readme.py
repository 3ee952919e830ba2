import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flowshield.cli import _parser
from flowshield.config import compose
from flowshield.evaluation import followed_markdown_table, markdown_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = {"expert": "flowshield run behaviour=expert", "mixed": "flowshield run"}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_two_commands_stand_as_promised():
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert lines.count("pip install -c constraints.txt -e . && flowshield run") == 1
    assert lines.count('pip install -c constraints.txt -e ".[test]" && pytest') == 1


def test_every_flowshield_line_parses_and_composes():
    lines = [line.split("#")[0].split() for block in blocks("bash") for line in block.splitlines()]
    ours = [words for words in lines if words and words[0] == "flowshield"]
    assert ours
    for words in ours:
        compose("run", _parser().parse_args(words[1:]).overrides)


@pytest.mark.slow
def test_the_python_example_runs_as_it_stands(tmp_path):
    (example,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "supported: False" in done.stdout
    assert "without the shield" in done.stdout and "with it" in done.stdout


@pytest.mark.parametrize("behaviour", ["expert", "mixed"])
def test_the_tables_are_those_of_the_committed_results(behaviour):
    results = json.loads((ROOT / "docs" / "results" / f"{behaviour}.json").read_text())
    assert markdown_table(results) in README
    assert f"`{results['command']}`" in README
    assert results["command"] == COMMANDS[behaviour]
    assert min(cell["n_episodes"] for cell in results["cells"]) >= 100


@pytest.mark.parametrize("behaviour", ["expert", "mixed"])
def test_how_the_policy_follows_is_that_of_the_committed_results(behaviour):
    results = json.loads((ROOT / "docs" / "results" / f"{behaviour}.json").read_text())
    assert followed_markdown_table(results) in README


def markdown_tables(text):
    """Every table of a text in Markdown, to the letter."""
    return re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)


def test_the_benchmarks_tables_are_those_of_the_committed_results():
    """Those of the sections that refer to the results, and any with the same columns elsewhere."""
    path = ROOT / "docs" / "results" / "achievability.md"
    if not path.exists():
        pytest.skip(
            "docs/results/achievability.md is not there: the benchmark's results are not in"
        )
    committed = markdown_tables(path.read_text())
    heads = {table.splitlines()[0] for table in committed}
    quoted = 0
    for part in re.split(r"^## ", README, flags=re.MULTILINE):
        refers = "docs/results/achievability.md" in part
        for table in markdown_tables(part):
            if refers or table.splitlines()[0] in heads:
                assert table in committed
                quoted += 1
    assert quoted


def test_the_time_a_run_takes_is_that_of_the_committed_results():
    results = json.loads((ROOT / "docs" / "results" / "mixed.json").read_text())
    assert f"it took: {sum(results['seconds'].values()):.0f} s" in README


def test_the_picture_is_there():
    for path in re.findall(r"\]\((docs/[^)]+)\)", README):
        assert (ROOT / path).stat().st_size > 0
