"""Shell lines as zsh reads them: what it would take for a pattern, or for another's home."""

import re

PROGRAM = re.compile(
    r"(?:[A-Z_]+=\S* )*(?:flowshield|python|pip|ray|pytest|ruff|mypy|mkdocs|tensorboard|export|"
    r"source|git|kubectl|docker|aws|nohup|for)\b "
)
_ALONE = {"[", "]", "[[", "]]", "{", "}"}  # a test, a group
_MARKS = set("[]{}*?")


def patterns(line):
    """The words of a line that zsh would not hand over as they stand."""
    return [word for word, marked in _words(line) if marked and word not in _ALONE]


def _words(line):
    """(word, whether something in it is special and not quoted)."""
    word, marked, quote, i = "", False, "", 0
    while i < len(line):
        char, left = line[i], line[i:]
        if quote:
            quote = "" if char == quote else quote
            if char == "\\" and quote == '"':
                word, i = word + char, i + 1
                char = line[i : i + 1]
        elif char == "#" and not word:
            break
        elif char.isspace() or char in "|;&<>" or left.startswith("$("):
            yield word, marked
            word, marked, i = "", False, i + (2 if left.startswith("$(") else 1)
            continue
        elif variable := re.match(r"\$\{[^}]*\}", left):
            word, i = word + variable.group(), i + variable.end()
            continue
        elif char == "\\":
            word, i = word + char, i + 1
            char = line[i : i + 1]
        elif char in "'\"":
            quote = char
        else:
            marked |= char in _MARKS or (char == "(" and word != "")
            marked |= not word and re.match(r"~[^/\s]|=[^=\s]", left) is not None
            marked |= word.endswith("=") and re.match(r"~[^/\s]", left) is not None
        word, i = word + char, i + 1
    yield word, marked
