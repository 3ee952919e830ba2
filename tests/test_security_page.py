"""docs/security.md names tests; they exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)


def test_every_test_that_the_page_names_exists():
    missing = [
        f"{file}::{name}"
        for file, name in NAMED
        if not (ROOT / file).exists() or (name and name not in functions(ROOT / file))
    ]
    assert len(NAMED) > 20 and not missing


def functions(file):
    tree = ast.parse(file.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_guard_names_a_test():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "---" not in line]
    guards = [row for row in rows if not row.startswith("| what |")]
    assert guards and not [row for row in guards if "`tests/" not in row.split("|")[-2]]


def test_every_file_that_the_page_links_to_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", PAGE)
    assert links and not [link for link in links if not (ROOT / "docs" / link).exists()]
