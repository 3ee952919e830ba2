"""Arguments in the style of another command: `ask` takes options, `film` takes KEY=VALUE."""

__all__ = ["other_style"]

import os
import re
from collections.abc import Sequence

from flowshield.shell import command_line

_KEYS = "run_dir|command|state|seed|step|follow|shield|alpha|out|max_mb"
_SETTING = re.compile(f"({_KEYS})=(.+)")
_OPTION = re.compile(f"--({_KEYS})(?:=(.+))?")


def other_style(typed: Sequence[str]) -> str | None:
    """What to type in place of a line in the other command's style; None where there is nothing.

    Args:
        typed: The words behind `flowshield`.
    """
    translate = {"ask": _as_options, "film": _as_settings}.get(typed[0]) if typed else None
    words = list(typed[1:])
    found = translate(words) if translate else words
    if found == words or "--help" in words or "-h" in words:
        return None
    takes = "options, as in --seed 3" if typed[0] == "ask" else "settings, as in seed=3"
    return f"{typed[0]} takes {takes}; type {command_line('flowshield', typed[0], *found)}"


def _as_options(words: list[str]) -> list[str]:
    found = []
    for word in words:
        setting = _SETTING.fullmatch(word)
        if setting is None or os.path.isdir(word):  # a folder may be called so
            found.append(word)
        elif setting[1] == "run_dir":
            found.insert(0, setting[2])
        else:
            found += [f"--{setting[1]}", *re.split(r"[,\s]+", setting[2].strip("[]() "))]
    return found


def _as_settings(words: list[str]) -> list[str]:
    found, rest = list[str](), list(words)
    while rest:
        word = rest.pop(0)
        option = _OPTION.fullmatch(word)
        if option is None:
            found.append(word)
            continue
        wanted = 2 if option[1] == "command" and option[2] is None else 1
        values = [option[2]] if option[2] else [rest.pop(0) for _ in range(min(wanted, len(rest)))]
        value = f"[{','.join(values)}]" if wanted == 2 else "".join(values)
        found.append(value if option[1] == "run_dir" else f"{option[1]}={value}")
    return found
