"""The errors that flowshield raises for what a user can mend."""

__all__ = [
    "BusyError",
    "ConfigError",
    "DataError",
    "DataWarning",
    "FileFormatError",
    "FlowshieldError",
    "NotCalibratedError",
    "ShapeError",
    "UsageError",
    "WriteError",
    "unknown_name",
]

import difflib
from collections.abc import Iterable
from typing import Final

_OWN: Final = ("environment", "shield")  # what users register


class FlowshieldError(Exception):
    """Something the user gave cannot be used; the message says what to do about it."""


class ConfigError(FlowshieldError, ValueError):
    """A config key or value is unknown, of the wrong type or out of range."""


class UsageError(FlowshieldError, ValueError):
    """A command line asks for what cannot be: exit code 2, as for one that does not parse."""


class DataError(FlowshieldError, ValueError):
    """Data hold NaN, are empty, or lack what is asked of them."""


class DataWarning(UserWarning):
    """Data can be used, and something about them costs what the message says."""


class ShapeError(FlowshieldError, ValueError):
    """An array or tensor has another shape than its documentation says."""


class FileFormatError(FlowshieldError, ValueError):
    """A file is truncated, foreign, or of a version that this release does not know."""


class NotCalibratedError(FlowshieldError, RuntimeError):
    """A shield was asked for a verdict before it was calibrated."""


class BusyError(FlowshieldError, RuntimeError):
    """Another process works in the folder."""


class WriteError(FlowshieldError, OSError):
    """A file cannot be written: a full disk, a folder that vanished or may not be written to."""

    def __str__(self) -> str:
        """Says which file, and that nothing is lost."""
        if self.filename is None:
            return super().__str__()
        reason = f"cannot write {self.filename}: {self.strerror}"
        return f"{reason}; what was there before is unchanged, and can be gone on with"


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ConfigError:
    """Builds the error for a name that is not in a registry, with the near ones first.

    Args:
        kind: What is named, in words ("shield", "config key").
        name: What the user gave.
        known: The names that would have been accepted.
    """
    choices = sorted(known)
    near = difflib.get_close_matches(str(name), choices, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    own = " (one of your own: FLOWSHIELD_PLUGINS names its module)" if kind in _OWN else ""
    return ConfigError(f"unknown {kind} {name!r}: {hint}expected one of {', '.join(choices)}{own}")
