"""The user's own modules, which the program imports before it does anything else."""

__all__ = ["PLUGINS", "import_plugins"]

import importlib
import os
from typing import Final

from flowshield.errors import ConfigError

PLUGINS: Final = "FLOWSHIELD_PLUGINS"


def import_plugins() -> None:
    """Imports the modules that FLOWSHIELD_PLUGINS names, separated by commas.

    They call `register_env` and `register_shield`. It is a variable and no config key: a config may
    come from a stranger, and to import is to run code.

    Raises:
        ConfigError: Such a module is not there, or cannot be imported.
    """
    for name in filter(None, map(str.strip, os.environ.get(PLUGINS, "").split(","))):
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            advice = (
                "put the folder that it lies in on PYTHONPATH"
                if isinstance(error, ModuleNotFoundError) and error.name == name
                else "mend it, or take it out of the list"
            )
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(f"{PLUGINS}: cannot import {name!r}: {reason}; {advice}") from error
