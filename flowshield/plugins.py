"""The user's own modules, which the program imports before it does anything else."""

__all__ = ["PLUGINS", "import_plugins", "words_for_plugins"]

import importlib
import os
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from flowshield.errors import ConfigError
from flowshield.shell import command_line

PLUGINS: Final = "FLOWSHIELD_PLUGINS"


def import_plugins() -> None:
    """Imports the modules that FLOWSHIELD_PLUGINS names, separated by commas.

    They call `register_env` and `register_shield`. It is a variable and no config key: a config may
    come from a stranger, and to import is to run code.

    Raises:
        ConfigError: Such a module is not there, or cannot be imported.
    """
    for name in _named():
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


def words_for_plugins(modules: Iterable[str]) -> list[str] | None:
    """What stands before a command line, so that it knows what was registered in this process.

    Args:
        modules: Those that registered it; "__main__" is the script that runs.

    Returns:
        FLOWSHIELD_PLUGINS= with these modules and those that it names already, and PYTHONPATH=
        with their folders, quoted for the shell; nothing where no module is needed. None where one
        cannot be imported by a name: a notebook, or a script that does its work when it is
        imported.
    """
    names = _named()
    for module in modules:
        name = _script() if module == "__main__" else module
        if name is None:
            return None
        names.append(name)
    if not names:
        return []
    folders = [_folder(sys.modules.get(name, sys.modules["__main__"]), name) for name in names]
    folders += os.environ.get("PYTHONPATH", "").split(os.pathsep)
    variables = {
        PLUGINS: ",".join(dict.fromkeys(names)),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(filter(None, folders))),
    }
    return [f"{key}={command_line(value)}" for key, value in variables.items() if value]


def _named() -> list[str]:
    """The modules in the variable."""
    return list(filter(None, map(str.strip, os.environ.get(PLUGINS, "").split(","))))


def _script() -> str | None:
    """The name by which the script that runs can be imported, without doing its work again."""
    main = sys.modules["__main__"]
    spec, path = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if path is None or not os.path.isfile(path):
        return None
    if "__name__" not in Path(path).read_text(errors="replace"):
        return None
    return spec.name if spec is not None else Path(path).stem


def _folder(module: object, name: str) -> str | None:
    """The folder to put on PYTHONPATH for a module; None for one that is installed."""
    path = getattr(module, "__file__", None)
    if path is None:
        return None
    file = Path(path).resolve()
    depth = name.count(".") + (file.name == "__init__.py")
    folder = file.parents[depth]
    if any(folder.is_relative_to(sysconfig.get_path(kind)) for kind in ("purelib", "stdlib")):
        return None
    return os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)
