"""The pages in docs/ as a site; their blocks are tried by `test_pages_as_typed.py`."""

import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
from pages import ROOT

DOCS = ROOT / "docs"


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
