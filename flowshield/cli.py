"""The command line: flowshield run | collect | train | evaluate, with Hydra overrides."""

__all__ = ["main"]

import argparse
import shlex
import sys
from collections.abc import Sequence

import torch
from omegaconf import DictConfig, OmegaConf

from flowshield import __version__
from flowshield.config import compose, config_groups
from flowshield.errors import ConfigError, FlowshieldError
from flowshield.evaluation import detection_table, followed_lines, results_table
from flowshield.filesystem import absolute
from flowshield.pipeline import collect, dataset_path, evaluate, run, train
from flowshield.progress import Reporter
from flowshield.run_folder import RunFolder, load_config

_DESCRIPTION = """\
Collect episodes, train a command-conditioned policy and its shields, and say whether the shields
keep the policy out of trouble. Settings are overridden in Hydra's grammar: key=value."""

_EXAMPLES = """\
examples:
  flowshield run                                   the main job, under ten minutes on two cores
  flowshield run profile=quick                     the same in under 90 seconds, for a first look
  flowshield run behaviour=expert seed=1 run_dir=runs/expert
  flowshield run run_dir=runs/expert               go on with a run that was interrupted
  flowshield collect data.n_episodes=500 run_dir=runs/mine
  flowshield train run_dir=runs/other data.path=episodes.npz shield=quantile
  flowshield evaluate run_dir=runs/mine

groups:
{groups}
keys:   flowshield config [overrides] prints every key with its value"""

_COMMANDS = {
    "run": "collect, train, evaluate; leaves a run folder with report.html",
    "collect": "collect episodes into RUN_DIR/dataset.npz",
    "train": "train the agent and the shields on a dataset",
    "evaluate": "evaluate a trained run folder; cells that are on file are not run again",
    "config": "print the composed config and stop",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Without the program's name; None = those of this process.

    Returns:
        The exit code: 0 done, 1 a mistake that the message explains, 130 interrupted.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    parsed = _parser().parse_args(typed)
    reporter = Reporter()
    try:
        _dispatch(parsed.command, parsed.overrides, reporter, "flowshield " + shlex.join(typed))
    except (FlowshieldError, OSError) as error:
        if parsed.debug:
            raise
        print(f"flowshield: {reporter.named(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("flowshield: interrupted; the same run_dir=... goes on from here", file=sys.stderr)
        return 130
    return 0


def _dispatch(command: str, overrides: list[str], reporter: Reporter, typed: str) -> None:
    if command == "config":
        reporter.line(OmegaConf.to_yaml(compose("run", overrides)).rstrip())
        return
    if command == "evaluate" and not any(o.startswith("run_dir=") for o in overrides):
        raise ConfigError("evaluate needs run_dir=PATH, the folder of a trained run")
    config, folder = load_config(overrides)
    reporter.named = folder.named
    torch.set_num_threads(config.n_threads)
    reporter.stage(command, f"run folder {folder.place} (to go on later: run_dir={folder.place})")
    if command == "collect":
        collect(config, folder, reporter)
        reporter.stage(command, f"the episodes are in {absolute(dataset_path(config, folder))}")
    elif command == "train":
        train(config, folder, reporter)
        reporter.stage(command, f"the models are in {absolute(folder.models)}")
    else:
        _finish(command, config, folder, reporter, typed)


def _finish(
    command: str, config: DictConfig, folder: RunFolder, reporter: Reporter, typed: str
) -> None:
    step = run if command == "run" else evaluate
    results = step(config, folder, reporter, typed)
    reporter.table(results_table(results))
    if results["shields"]:
        reporter.table(detection_table(results))
    for line in followed_lines(results):
        reporter.stage(command, line)
    total = sum(results["seconds"].values())
    reporter.stage(command, f"done in {total:.0f} s of work; open {absolute(folder.report)}")


def _parser() -> argparse.ArgumentParser:
    groups = (f"  {name}={'|'.join(options)}" for name, options in config_groups().items())
    examples = _EXAMPLES.format(groups="\n".join(groups))
    parser = argparse.ArgumentParser(
        prog="flowshield",
        description=_DESCRIPTION,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"flowshield {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides")
        command.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser
