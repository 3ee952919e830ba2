"""What pages, help and messages say to type: no shell takes a part of it for a pattern."""

import ast
import re
import shutil
import subprocess

import pytest
from pages import PAGES, ROOT
from shell_lines import PROGRAM, patterns

from flowshield.cli.program import make_parser
from flowshield.config import compose, config_groups
from flowshield.groups import packaged_shields, plain
from flowshield.schema import flatten

MARKDOWN = [*PAGES, "CHANGELOG.md", "CONTRIBUTING.md"]
PYTHON = [
    path.relative_to(ROOT).as_posix()
    for folder in ("flowshield", "ray_jobs", "examples", "benchmarks", "docs", "tests/soak")
    for path in sorted(ROOT.glob(f"{folder}/**/*.py"))
]
COMMENTED = [
    path.relative_to(ROOT).as_posix()
    for glob in ("configs/**/*.yaml", "*.yaml", "deploy/*", ".ci/run")
    for path in sorted(ROOT.glob(glob))
]
FILM = {"command", "seed", "shield", "out", "max_mb"}


def keys():
    every = f"shield=[{','.join(packaged_shields())}]"
    return {*flatten(plain(compose("tune", [every]))), *config_groups(), *FILM}


KEYS = keys()
KEY = re.compile(r"(?<![\w'\"./-])([+~]*)([a-z_][\w.]*)(=?)(\S*)")


def overrides(text):
    """Words of a text that are overrides, and are not in quotes."""
    for found in KEY.finditer(text):
        signs, key, equals, value = found.groups()
        known = key in KEYS or key.startswith(("env.kwargs.", "tune.space."))
        if known and (equals or "~" in signs):
            yield f"{signs}{key}{equals}{value}".rstrip(".,;:)`*")


def is_typed(text):
    return PROGRAM.match(f"{text} ") is not None or next(overrides(text), "-") in text.split()[:1]


def in_markdown(text):
    """Lines of blocks of shell, and code in sentences and indented blocks that is to be typed."""
    block = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
    for language, content in block.findall(text):
        for line in content.replace("\\\n", " ").splitlines():
            bare = line.strip().removeprefix("$ ")
            if language in ("bash", "sh", "zsh") or (language != "python" and is_typed(bare)):
                yield bare
    rest = block.sub("", text)
    indented = [line.strip() for line in rest.splitlines() if line.startswith("    ")]
    spans = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", rest)]
    yield from (words for words in [*indented, *spans] if words and is_typed(words))


def in_sentences(text):
    """Lines that are to be typed, and overrides in others."""
    for line in text.replace("\\\n", " ").splitlines():
        bare = line.strip().lstrip("#>$- ").removeprefix("`")
        if PROGRAM.match(bare):
            yield bare.partition("`")[0]
        elif " " in bare:  # a word alone is code
            yield from overrides(bare)


def in_python(source):
    """What the docstrings, messages and comments of a file say to type."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from in_sentences(node.value)
    for comment in re.findall(r"(?:^|  )# (.*)$", source, flags=re.MULTILINE):
        yield from in_sentences(comment)


def refused(lines):
    return [line for line in lines if patterns(line)]


@pytest.mark.parametrize("page", MARKDOWN)
def test_what_a_page_says_to_type_is_quoted(page):
    assert refused(in_markdown((ROOT / page).read_text())) == []


@pytest.mark.parametrize("file", PYTHON)
def test_what_a_program_says_to_type_is_quoted(file):
    assert refused(in_python((ROOT / file).read_text())) == []


@pytest.mark.parametrize("file", COMMENTED)
def test_what_a_config_says_to_type_is_quoted(file):
    assert refused(in_sentences((ROOT / file).read_text())) == []


def helps():
    parser = make_parser()
    (commands,) = (a for a in parser._actions if a.choices)
    every = {"flowshield": parser, **commands.choices}
    return {name: one.format_help() for name, one in every.items()}


@pytest.mark.parametrize("name", helps())
def test_what_help_says_to_type_is_quoted(name):
    usage, _, rest = helps()[name].partition("\n\n")
    assert usage.startswith("usage: ")
    assert refused(in_sentences(rest)) == []
    assert "[overrides]" not in rest


def test_there_is_something_to_look_at():
    readme = list(in_markdown((ROOT / "README.md").read_text()))
    assert sum(line.startswith("flowshield ") for line in readme) > 5
    film = list(in_sentences(helps()["film"]))
    assert "flowshield film runs/mine 'command=[1000,280]'" in film
    assert any("ray up" in line for line in in_sentences((ROOT / "cluster.yaml").read_text()))
    source = 'say("use shield=[] or ~seed for it")\n# such as command=[1,2] here\n'
    assert list(in_python(source)) == ["shield=[]", "~seed", "command=[1,2]"]
    page = "`shield=[a]`, `x=[1]`\n\n    pip install -e .[test]\n\n```\nflowshield run a=*\n```\n"
    assert refused(in_markdown(page)) == [
        "flowshield run a=*", "pip install -e .[test]", "shield=[a]",
    ]  # fmt: skip


FINE = [
    "run_dir=runs/a", "'command=[1,2]'", '"a[1]"', r"a\[1\]", "'~seed'", "~/x", "a=~/x", "a=b=c",
    "$HOME/a", "${HOME}/a", "'it'\"'\"'s[1]'", "a~", "a#b", "--x=1", "'*'", "a=1 # [b]", "'='x",
]  # fmt: skip
SPECIAL = ["command=[1,2]", "a={b,c}", "*", "a?", "a=*", "~nobody-here", "=nothing-here", ".[test]"]
SPECIAL += ["x[[1]]", "a=[", "{a,b}", "~seed", "a(b)"]


def test_what_is_quoted_and_what_is_not():
    assert [word for word in FINE if patterns(word)] == []
    assert [word for word in SPECIAL if not patterns(word)] == []


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed here")
def test_zsh_sees_the_same(tmp_path):
    def shown(line):
        program = "setopt interactive_comments; print -rN -- "
        done = subprocess.run(["zsh", "-fc", program + line], cwd=tmp_path, capture_output=True)
        return done.stdout.decode().split("\0")[:-1] if done.returncode == 0 else None

    for line in SPECIAL:
        assert shown(line) != [line], line
    for line in FINE:
        assert shown(line) is not None and len(shown(line)) == 1, line
