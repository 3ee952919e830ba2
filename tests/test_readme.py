"""What the README says; what it tells its readers to type is typed by `test_pages_as_typed.py`."""

import re

from pages import ROOT, blocks, text_of

README = text_of("README.md")


def test_the_two_commands_stand_as_promised():
    lines = [
        line
        for language, text in blocks("README.md")
        if language == "bash"
        for line in text.splitlines()
    ]
    assert lines.count("pip install -c constraints.txt -e . && flowshield run") == 1
    assert lines.count('pip install -c constraints.txt -e ".[test]" && pytest') == 1


def test_the_front_door_is_short():
    assert len(README.splitlines()) < 250


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
