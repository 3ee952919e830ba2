"""Datasets from one format to another, and from and to Minari."""

__all__ = ["CONVERT", "EXPORT_MINARI", "IMPORT_MINARI"]

import argparse

from flowshield.cli.command import Command
from flowshield.progress import Reporter


def _add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="A", help="the dataset: .npz, .pkl, .parquet, minari:ID")
    parser.add_argument("target", metavar="B", help="where to write it; the suffix says the format")
    _add_force(parser)


def _add_import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="of a dataset that Minari has on this machine")
    parser.add_argument(
        "path",
        metavar="PATH",
        nargs="?",
        help="a .npz file or .parquet folder; the id's last part, .npz, if left out",
    )
    _add_force(parser)


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="the dataset: .npz, .pkl or .parquet")
    parser.add_argument("id", metavar="ID", help="for Minari: (namespace/)name-v0")
    _add_force(parser)


def _add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="replace a dataset that is there")


def _convert(parsed: argparse.Namespace, reporter: Reporter, typed: str) -> None:
    _write("convert", parsed.source, parsed.target, parsed.force, reporter)


def _import_minari(parsed: argparse.Namespace, reporter: Reporter, typed: str) -> None:
    target = parsed.path or f"{parsed.id.rpartition('/')[2]}.npz"
    _write("import-minari", f"minari:{parsed.id}", target, parsed.force, reporter)


def _export_minari(parsed: argparse.Namespace, reporter: Reporter, typed: str) -> None:
    _write("export-minari", parsed.path, f"minari:{parsed.id}", parsed.force, reporter)


def _write(command: str, source: str, target: str, force: bool, reporter: Reporter) -> None:
    from flowshield.counted import counted
    from flowshield.data.conversion import convert
    from flowshield.data.minari import is_minari

    arrays = convert(source, target, force=force)
    lost = arrays.metadata.get("minari", {}).get("not_kept", ()) if is_minari(source) else ()
    for note in lost:
        reporter.stage(command, f"not kept: {note}")
    size = f"{counted(len(arrays.ends), 'episode')}, {counted(len(arrays), 'step')}"
    reporter.stage(command, f"wrote {target}: {size}")


CONVERT = Command(
    "convert",
    "write a dataset in another format",
    """\
  flowshield convert runs/mine/dataset.npz mine.parquet
  flowshield convert mine.parquet mine.npz --force   replace what is there""",
    _convert,
    _add_convert_arguments,
)
IMPORT_MINARI = Command(
    "import-minari",
    "make a dataset of one that Minari has on this machine",
    """\
  flowshield import-minari pendulum/random-v0         leaves random-v0.npz
  flowshield import-minari pendulum/random-v0 pendulum.parquet""",
    _import_minari,
    _add_import_arguments,
)
EXPORT_MINARI = Command(
    "export-minari",
    "give a dataset to Minari on this machine",
    "  flowshield export-minari runs/mine/dataset.npz lander/mixed-v0",
    _export_minari,
    _add_export_arguments,
)
