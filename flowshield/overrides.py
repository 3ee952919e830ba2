"""Overrides as people type them, and as the program prints them to be typed."""

__all__ = ["opened", "path_given", "run_command", "typed_run_dir"]

from collections.abc import Sequence
from typing import Final, TypeGuard

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString
from hydra.errors import HydraException

from flowshield.errors import ConfigError
from flowshield.paths import expanded
from flowshield.schema import FREE_KEYS, PATH_KEYS, several_values
from flowshield.shell import command_line

_STRUCTURE: Final = frozenset(",:=[]{}()'\"\\")


def opened(override: str) -> str:
    """An override as Hydra reads it, made of what a person types.

    * A path is taken as it stands: what Hydra's grammar cannot read, or reads as a number, a list
      or several values, needs none of Hydra's quotes.
    * Nor does other text with letters that are not ASCII, or with `~/` at its start, which is the
      home folder there too.
    * `env.kwargs.gravity=-3` adds the key: Hydra asks for `+` where a key is new.

    Raises:
        ConfigError: It is a setting of Hydra's own, or gives several values to one key.
    """
    if override.lstrip("+~").startswith(("hydra.", "hydra/")):
        raise ConfigError(
            f"override {override!r}: Hydra's own settings do nothing here; "
            "give run_dir=PATH for where a run goes"
        )
    key, equals, value = override.partition("=")
    parsed = _parsed(override) if equals else None
    if equals and key.lstrip("+") in PATH_KEYS:
        if not _is_text(parsed):
            override = f"{key}={_quoted(value)}"
    elif equals and parsed is None and _is_plain(value):
        override = f"{key}={_quoted(expanded(value) if value.startswith('~/') else value)}"
    elif parsed is not None and parsed.is_sweep_override():
        raise several_values(key.lstrip("+"), value, _choices(parsed))
    return f"++{override}" if override.startswith(FREE_KEYS) else override


def path_given(overrides: Sequence[str], key: str) -> str | None:
    """The path that overrides give to a key, the last where there are several; None = none."""
    given = [word for word in overrides if word.partition("=")[0].lstrip("+") == key]
    parsed = _parsed(opened(given[-1])) if given else None
    value = None if parsed is None else parsed.value()
    return None if value is None else str(value)


def run_command(command: str, run_dir: str, *options: str) -> str:
    """What to type for a command on a run folder: quoted for Hydra and for the shell.

    Args:
        command: Such as "train".
        run_dir: The folder, or its address.
        options: What stands before it, such as "--resume".
    """
    return " ".join([command_line("flowshield", command, *options), typed_run_dir(run_dir)])


def typed_run_dir(run_dir: str) -> str:
    """`run_dir=` with a folder or address behind it, quoted for Hydra and for the shell."""
    override = f"run_dir={run_dir}"
    parsed = _parsed(override)
    if not _is_text(parsed) or parsed.value() != run_dir:
        override = f"run_dir={_quoted(run_dir)}"
    return command_line(override)


def _parsed(override: str) -> Override | None:
    """What Hydra's grammar makes of it; None = nothing."""
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def _is_text(parsed: Override | None) -> TypeGuard[Override]:
    """Whether Hydra reads one text, or null."""
    if parsed is None or parsed.is_sweep_override():
        return False
    return isinstance(parsed.value(), str | None)


def _is_plain(value: str) -> bool:
    """Whether only letters that Hydra does not know keep it from reading this as text."""
    unknown = not value.isascii() or value.startswith("~/")
    return unknown and value == value.strip() and not _STRUCTURE.intersection(value)


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.double).with_quotes()


def _choices(parsed: Override) -> list[str]:
    """The values of a,b,c; none of a function such as glob, whose values another thing decides."""
    if not isinstance(parsed.value(), ChoiceSweep):
        return []
    return list(map(str, parsed.sweep_string_iterator()))
