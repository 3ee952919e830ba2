"""Command lines as they are typed in a shell."""

__all__ = ["command_line"]

import re
import shlex
from typing import Final

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def command_line(*words: str) -> str:
    """Words as one line that bash and zsh take apart into the same words."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if _CONTROL.search(word):  # $'...' has escapes for what cannot be seen, or ends a line
        escaped = word.replace("\\", "\\\\").replace("'", "\\'")
        return "$'" + _CONTROL.sub(lambda found: f"\\u{ord(found.group()):04x}", escaped) + "'"
    if word.startswith("="):  # zsh takes =word for the program of that name
        return "'='" + shlex.quote(word[1:])
    return shlex.quote(word)
