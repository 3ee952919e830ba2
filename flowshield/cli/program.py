"""The program: reads the arguments, runs a command, and turns errors into one line and a code."""

__all__ = ["main", "make_parser"]

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from flowshield import __version__
from flowshield.cli import ask, completion, datasets, explore, film, stages
from flowshield.cli.command import Command
from flowshield.cli.other_style import other_style
from flowshield.errors import ConfigError, DataWarning, FlowshieldError, UsageError
from flowshield.plugins import import_plugins
from flowshield.progress import Reporter
from flowshield.shell import command_line

_COMMANDS = (
    stages.RUN,
    stages.COLLECT,
    stages.TRAIN,
    stages.PROBE,
    stages.CERTIFY,
    stages.EVALUATE,
    stages.TUNE,
    ask.ASK,
    film.FILM,
    explore.EXPLORE,
    stages.CONFIG,
    datasets.CONVERT,
    datasets.IMPORT_MINARI,
    datasets.EXPORT_MINARI,
    completion.COMPLETION,
)

_DESCRIPTION = """\
Collect episodes, train a command-conditioned policy and its shields, and say whether the shields
keep the policy out of trouble. Settings are overridden in Hydra's grammar: key=value."""

_KEYS = "keys:   flowshield config, with the same overrides, prints every key with its value"
_ENVIRONMENT = """\
environment:
  FLOWSHIELD_PLUGINS    modules with environments and shields of your own, separated by commas"""
_EXIT_CODES = """\
exit codes:
  0    done
  1    something that the message on standard error explains; --debug shows the traceback
  2    the command line itself is wrong
  130  interrupted with Ctrl-C; the message says how to go on"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Without the program's name; None = those of this process.

    Returns:
        The exit code: 0 done, 1 a mistake that the message explains, 2 a command line that cannot
        be obeyed, 130 interrupted.
    """
    try:
        try:
            return _run(list(sys.argv[1:] if arguments is None else arguments), _script(arguments))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # who read the output, such as head, is gone: nothing to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _script(arguments: Sequence[str] | None) -> str | None:
    """What was typed to run the script that called `main`; None where no script did."""
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    if arguments is None or path is None or getattr(main, "__spec__", None) is not None:
        return None
    # a program that calls Python code, such as pytest, has no suffix
    return command_line("python", *sys.argv) if path.endswith(".py") else None


def _run(typed: Sequence[str], script: str | None) -> int:
    broken = _plugins_error()  # before the parser is made: its help names their shields, too
    if told := other_style(typed):
        print(f"flowshield: {told}", file=sys.stderr)
        return 2
    parsed = make_parser().parse_args(typed)
    reporter = Reporter()
    try:
        _check_text(typed)
        if broken is not None:
            raise broken
        with _warnings_as_lines():
            parsed.run(parsed, reporter, script or command_line("flowshield", *typed))
    except (FlowshieldError, OSError) as error:
        if parsed.debug:
            raise
        print(f"flowshield: {reporter.named(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print(f"flowshield: interrupted{_how_to_go_on(parsed, reporter)}", file=sys.stderr)
        return 130
    return 0


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Prints what is wrong with data as one line, and once, however many models hear of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        plain, told = warnings.showwarning, set[str]()

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if not issubclass(category, DataWarning):
                plain(message, category, filename, lineno, file, line)
            elif str(message) not in told:
                told.add(str(message))
                print(f"flowshield: note: {message}", file=sys.stderr)

        warnings.showwarning = show
        yield


def _plugins_error() -> ConfigError | None:
    """Imports the user's modules; an error is kept, so that help and version are there without."""
    try:
        import_plugins()
    except ConfigError as error:
        return error
    return None


def _check_text(typed: Sequence[str]) -> None:
    """Refuses at once what could not be written into a config or a report in the end."""
    for argument in typed:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{argument!r} is not UTF-8: name files and values in it") from error


def _how_to_go_on(parsed: argparse.Namespace, reporter: Reporter) -> str:
    if reporter.run_dir is None or reporter.again is None:  # nothing was begun
        return ""
    resume = parsed.command == "tune" and _has_begun_trials(parsed, reporter.run_dir)
    options = ["--resume"] if resume else []
    return f"; to go on: {reporter.again(*options)}"


def _has_begun_trials(parsed: argparse.Namespace, run_dir: str) -> bool:
    if parsed.resume or "ray" not in sys.modules:  # without Ray no trial has begun
        return bool(parsed.resume)
    from flowshield.distributed.tune import holds_sweep

    return holds_sweep(f"{run_dir}/sweep")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    examples = "\n".join(command.examples for command in _COMMANDS)
    parser = argparse.ArgumentParser(
        prog="flowshield",
        description=_DESCRIPTION,
        epilog=f"examples:\n{examples}\n\n{_ENVIRONMENT}\n\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"flowshield {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        added = commands.add_parser(
            command.name,
            help=command.summary,
            description=command.summary,
            epilog=_epilog(command),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(added)
        added.add_argument("--debug", action="store_true", help="show tracebacks")
        added.set_defaults(run=command.run)
    return parser


def _epilog(command: Command) -> str:
    from flowshield.config import config_groups

    parts = [f"examples:\n{command.examples}"]
    if command.shows_groups:
        groups = (f"  {name}={'|'.join(options)}" for name, options in config_groups().items())
        parts += ["groups:\n" + "\n".join(groups), _KEYS]
    return "\n\n".join([*parts, _EXIT_CODES])
