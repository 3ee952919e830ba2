"""Writes a trained run's command explorer."""

__all__ = ["EXPLORE"]

import argparse

from flowshield.cli.command import Command
from flowshield.progress import Reporter

_DESCRIPTION = """\
Writes RUN/explorer.html: one file, to open in any browser without a server or a network. In it one
picks a moment of a recorded held-out episode and a shield, and drags a request over the plane of
commands: is it supported, its score against the threshold, what it is replaced by. The shields are
asked now, the file only looks up: more requests or moments take longer here and make it larger."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = _DESCRIPTION
    parser.add_argument("run_dir", metavar="RUN", help="folder of a trained run")
    for name, default, what in (
        ("episodes", 2, "held-out episodes, from low returns to high"),
        ("moments", 5, "moments of each"),
        ("requests", 11, "requests along each axis of the plane"),
    ):
        parser.add_argument(
            f"--{name}", type=int, metavar="N", default=default, help=f"{what} (default {default})"
        )


def _explore(parsed: argparse.Namespace, reporter: Reporter, typed: str) -> None:
    import torch

    from flowshield.pipeline import ExplorerSettings, TrainedRun, explore

    settings = ExplorerSettings(parsed.episodes, parsed.moments, parsed.requests)
    settings.check()
    run = TrainedRun(parsed.run_dir)
    reporter.named = run.folder.named
    torch.set_num_threads(run.config.n_threads)
    explore(run, settings, reporter)


EXPLORE = Command(
    "explore",
    "write a run's command explorer, in which requests are dragged over the command plane",
    """\
  flowshield explore runs/mine
  flowshield explore runs/mine --moments 10 --requests 21    more of it: minutes""",
    _explore,
    _add_arguments,
)
