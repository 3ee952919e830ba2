"""Writes options.md: every key of configs/ with its default, its range and its comment.

    python docs/options.py

A key's meaning is the comment on its line, the comment lines that go on below it further to the
right, and those right above it. A file's first comment is about the file; one that a blank line
follows is a heading and about no key.
"""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import yaml

from flowshield.config import config_dir
from flowshield.schema import CHOICES, FREE_KEYS, RANGES

PAGE = Path(__file__).with_name("options.md")

# Where a group's keys are told: its default option. Options of a group hold the same keys.
_FILES = ("train", "run", "tune")
_GROUPS = {"env": "lunarlander", "model": "udrl", "behaviour": "mixed", "profile": "default"}
_GROUPS["ray"] = "local"

_HEAD = """\
# Options

*Made from the comments in `configs/` by `python docs/options.py`; a test fails when it is stale.*

Any key is overridden on the command line, in [Hydra](https://hydra.cc)'s grammar: `seed=1`,
`'env.commands=[[200,280]]'`, `shield.quantile.hidden_dim=128`. A group is chosen by its name:
`env=cartpole profile=quick 'shield=[quantile,mixture]'`. `flowshield config` prints the result, and
a key that is misspelt, of another type or out of range is an error that says so.
"""


class Option(NamedTuple):
    """A key of one file: its dotted name there, its value as written, and its comment's lines."""

    key: str
    value: str
    comment: list[str]


def options_of(text: str, package: str = "") -> list[Option]:
    """The keys of a config file, without its `defaults` list, in the order of the file."""
    lines = text.splitlines()
    return [
        Option(key, value, _comment(lines, first, last, column))
        for key, value, first, last, column in _leaves(yaml.compose(text), text, package)
        if key != f"{package}defaults"
    ]


def description(text: str) -> str:
    """The comment that a file begins with."""
    lines = [line for line in text.splitlines() if not line.startswith("# @package")]
    head = [line for line in lines[: _first_other(lines)]]
    return " ".join(line.lstrip("# ") for line in head)


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_file_sections(), *_group_sections(), *_shield_sections()])


def _leaves(node, text: str, prefix: str) -> Iterator[tuple[str, str, int, int, int]]:
    for name, value in node.value if node else ():
        key = f"{prefix}{name.value}"
        if isinstance(value, yaml.MappingNode) and value.value and key not in FREE_KEYS:
            yield from _leaves(value, text, f"{key}.")
            continue
        last = value.start_mark.line if value.start_mark.line > name.end_mark.line else None
        yield key, _written(value), name.start_mark.line, last, name.start_mark.column


def _written(node) -> str:
    """A value on one line."""
    if isinstance(node, yaml.SequenceNode):
        return "[" + ", ".join(map(_written, node.value)) + "]"
    if isinstance(node, yaml.MappingNode):
        return "{" + ", ".join(f"{k.value}: {_written(v)}" for k, v in node.value) + "}"
    return f'"{node.value}"' if node.style else node.value


def _comment(lines: list[str], first: int, last: int | None, column: int) -> list[str]:
    above: list[str] = []
    row = first - 1
    while row >= _first_other(lines) and re.match(rf" {{{column}}}#", lines[row]):
        above.insert(0, lines[row])
        row -= 1
    beside = re.search(r"\s#.*", lines[first])
    below: list[str] = []
    if last is None:
        for line in lines[first + 1 :]:
            if not re.match(rf" {{{column + 1},}}#", line):
                break
            below.append(line)
    parts = [*above, *([beside.group()] if beside else []), *below]
    return [re.sub(r"^\s*# ?", "", part) for part in parts]


def _first_other(lines: list[str]) -> int:
    return next((row for row, line in enumerate(lines) if not line.startswith("#")), len(lines))


def _file_sections() -> Iterator[str]:
    for name in _FILES:
        text = (config_dir() / f"{name}.yaml").read_text()
        yield f"## {name}.yaml\n\n{description(text)}\n\n{_table(options_of(text))}"


def _group_sections() -> Iterator[str]:
    known = {option.key: option for option in options_of(_read("train"))}
    for group, default in _GROUPS.items():
        package = "" if group == "profile" else f"{group}."
        told = options_of(_read(f"{group}/{default}"), package)
        for option in told:
            if not option.comment and option.key in known:
                option.comment.extend(known[option.key].comment)
        yield f"## {group}=\n\n{_table(told)}\n{_choices(group, default, package, told)}"


def _choices(group: str, default: str, package: str, told: list[Option]) -> str:
    usual = {option.key: option.value for option in told}
    lines = []
    for path in sorted((config_dir() / group).glob("*.yaml")):
        text = path.read_text()
        other = [o for o in options_of(text, package) if usual.get(o.key) != o.value]
        values = "; ".join(f"`{o.key}`: `{o.value}`" for o in other if path.stem != default)
        note = f" Other values: {values}." if values else ""
        first = " The default, above." if path.stem == default else ""
        lines.append(f"- **`{group}={path.stem}`** {_escaped(description(text))}{first}{note}\n")
    return "".join(lines)


def _shield_sections() -> Iterator[str]:
    for path in sorted((config_dir() / "shield").glob("*.yaml")):
        text = path.read_text()
        told = options_of(text, f"shield.{path.stem}.")
        table = f"\n{_table(told)}" if told else ""
        yield f"## shield={path.stem}\n\n{_escaped(description(text))}\n{table}"


def _read(name: str) -> str:
    return (config_dir() / f"{name}.yaml").read_text()


def _table(options: list[Option]) -> str:
    head = "| key | default | what it is |\n| --- | --- | --- |\n"
    return head + "".join(f"| `{o.key}` | {_code(o.value)} | {_meaning(o)} |\n" for o in options)


def _meaning(option: Option) -> str:
    parts = [("<br>" if part.startswith("  ") else " ") + part.strip() for part in option.comment]
    bound = next((r.words for known, r in RANGES.items() if fnmatchcase(option.key, known)), "")
    choices = next((c for known, c in CHOICES.items() if fnmatchcase(option.key, known)), ())
    allowed = bound or ("one of " + ", ".join(choices) if choices else "")
    return _escaped("".join(parts).strip()) + (f" *({_escaped(allowed)})*" if allowed else "")


def _code(value: str) -> str:
    return f"`{value}`".replace("|", r"\|")


def _escaped(text: str) -> str:
    """Text for a table cell: what is between backticks stands as it is."""
    parts = re.split(r"(`[^`]*`|<br>)", text)
    plain = (re.sub(r"([*_|\[\]])", r"\\\1", part).replace("<", "&lt;") for part in parts[::2])
    kept = (part.replace("|", r"\|") for part in parts[1::2])
    return "".join(a + b for a, b in zip(plain, [*kept, ""], strict=True))


if __name__ == "__main__":
    PAGE.write_text(page())
