"""The command line: flowshield COMMAND, with Hydra overrides where a command composes a config."""

from flowshield.cli.program import main, make_parser

__all__ = ["main", "make_parser"]
