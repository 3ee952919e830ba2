"""Imports matplotlib whatever MPLBACKEND says."""

__all__ = ["settle_backend"]

import os
import sys
from contextlib import suppress
from typing import Final

_VARIABLE: Final = "MPLBACKEND"


def settle_backend() -> None:
    """Imports matplotlib where MPLBACKEND is set, also if it names an unknown backend.

    Every notebook hands MPLBACKEND=module://matplotlib_inline.backend_inline to its subprocesses,
    and `import matplotlib` fails where that package is missing. All drawing here goes into files
    and needs no such backend. One that matplotlib knows stays chosen: it is the caller's notebook
    or window. The variable stays as it is.
    """
    named = os.environ.get(_VARIABLE)
    if not named or "matplotlib" in sys.modules:
        return
    del os.environ[_VARIABLE]
    try:
        import matplotlib
    finally:
        os.environ[_VARIABLE] = named
    with suppress(ValueError):  # what matplotlib does with the variable, but for the error
        matplotlib.rcParams["backend"] = named
