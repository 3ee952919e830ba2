"""Every option is documented where users look, from the comments in configs/."""

import importlib.util
import re
from pathlib import Path

from flowshield.config import config_dir
from flowshield.groups import compose_files, plain
from flowshield.schema import flatten

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("options", ROOT / "docs" / "options.py")
options = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(options)


def test_the_page_is_what_the_configs_say():
    assert options.PAGE.read_text() == options.page(), "run: python docs/options.py"


def test_every_key_has_a_row_with_a_meaning():
    rows = dict(re.findall(r"^\| `([\w.]+)` \| .*? \| (.*) \|$", options.page(), re.MULTILINE))
    known = flatten(plain(compose_files("tune", ["shield=all"])))
    assert known.keys() == rows.keys()
    bare = [key for key, meaning in rows.items() if not re.sub(r"\*\(.*\)\*", "", meaning).strip()]
    assert not bare, f"without a comment in configs/: {bare}"


def test_every_choice_of_every_group_is_described():
    page = options.page()
    for path in config_dir().glob("*/*.yaml"):
        assert options.description(path.read_text()), path
        assert f"{path.parent.name}={path.stem}" in page


def test_a_comment_is_found_wherever_it_stands():
    text = """\
# The file.
a: 1  # beside
      # and below
# above
b:
  c: [1, 2]  # of c

# a heading

d: "#x"  # of d
e: 3
"""
    found = {option.key: (option.value, option.comment) for option in options.options_of(text)}
    assert found == {
        "a": ("1", ["beside", "and below"]),
        "b.c": ("[1, 2]", ["of c"]),
        "d": ('"#x"', ["of d"]),
        "e": ("3", []),
    }
