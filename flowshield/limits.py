"""How far a file may unfold in memory: what it says of its own size is checked, not believed."""

__all__ = ["check_unfolded"]

import os

from flowshield.errors import ConfigError, FileFormatError

_VARIABLE = "FLOWSHIELD_UNFOLD_MIB"
_DEFAULT_MIB = 1024
_RATIO = 20  # trajectories compress 2 to 10 times; a deflate bomb a thousand times


def check_unfolded(claimed: int, stored: int, source: object) -> None:
    """Refuses a file that would fill the memory although it is small.

    Args:
        claimed: Bytes that it says it unfolds to.
        stored: Bytes that it has. It may unfold to 20 times as many in any case, and to 1024 MiB,
            or what the environment variable FLOWSHIELD_UNFOLD_MIB says.
        source: What the error calls the file.

    Raises:
        FileFormatError: It claims more.
        ConfigError: The variable holds no whole number.
    """
    text = os.environ.get(_VARIABLE, str(_DEFAULT_MIB))
    if not text.isdecimal():
        raise ConfigError(f"{_VARIABLE}: expected a whole number of MiB, got {text!r}")
    if claimed > max(_RATIO * stored, int(text) << 20):
        raise FileFormatError(
            f"{source}: claims {claimed} bytes in memory and has {stored}: refused, as no dataset "
            f"shrinks so far; if you trust it, {_VARIABLE} says how many MiB a file may unfold to"
        )
