"""Paths as people write them: `~` is a home folder, and nothing is no path."""

__all__ = ["expanded", "typed_path"]

import os
from pathlib import Path, PurePath

from flowshield.errors import ConfigError


def expanded(path: str | os.PathLike[str]) -> str:
    """The path with `~` or `~user` at its start replaced by that home folder.

    An address such as s3://bucket/run stays as it is. A folder that is really called `~x` is
    written ./~x; it comes back absolute, so that it is not taken for a home folder later.

    Args:
        path: A path or an address.

    Raises:
        ConfigError: The path is empty, or there is no such user.
    """
    text = os.fspath(path)
    if not text.strip():
        raise ConfigError(
            f"expected a path, got {text!r}: check that the shell variable in it is set, or write "
            "./ for the working directory"
        )
    if "://" in text or not str(PurePath(text)).startswith("~"):
        return text
    if not text.startswith("~"):
        return os.path.abspath(text)
    home = os.path.expanduser(text)
    if home.startswith("~"):
        user = text.partition("/")[0]
        raise ConfigError(
            f"expected a path, got {text!r}: there is no user {user[1:]!r} with a home folder; "
            f"write ./{user} for a folder of that name"
        )
    return home


def typed_path(text: str) -> Path:
    """A path of this machine as it was typed: what `type=` of an argparse argument is.

    Raises:
        ConfigError: As `expanded`.
    """
    return Path(expanded(text))
