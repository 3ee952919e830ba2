"""The command line: flowshield run | collect | train | tune | evaluate, with Hydra overrides."""

__all__ = ["main"]

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from flowshield import __version__
from flowshield.config import compose, config_groups
from flowshield.errors import ConfigError, FlowshieldError
from flowshield.evaluation import detection_table, followed_lines, results_table, sweep_table
from flowshield.evaluation.wording import percent, percent_interval
from flowshield.filesystem import absolute
from flowshield.pipeline import collect, dataset_path, evaluate, run, train, tune
from flowshield.progress import Reporter
from flowshield.run_folder import RunFolder, load_config

_DESCRIPTION = """\
Collect episodes, train a command-conditioned policy and its shields, and say whether the shields
keep the policy out of trouble. Settings are overridden in Hydra's grammar: key=value."""

_EXAMPLES = """\
examples:
  flowshield run                                   the main job
  flowshield run profile=quick                     the same in minutes, for a first look
  flowshield run behaviour=expert seed=1 run_dir=runs/expert
  flowshield run run_dir=runs/expert               go on with a run that was interrupted
  flowshield collect data.n_episodes=500 run_dir=runs/mine
  flowshield train run_dir=runs/other data.path=episodes.npz shield=quantile
  flowshield evaluate run_dir=runs/mine
  flowshield tune run_dir=runs/sweep 'tune.space.batch_size={{choice:[512,1024]}}'
  flowshield tune --resume run_dir=runs/sweep      go on with a sweep that was interrupted

groups:
{groups}
keys:   flowshield config [overrides] prints every key with its value"""

_COMMANDS = {
    "run": "collect, train, evaluate; leaves a run folder with report.html",
    "collect": "collect episodes into RUN_DIR/dataset.npz",
    "train": "train the agent and the shields on a dataset",
    "evaluate": "evaluate a trained run folder; cells that are on file are not run again",
    "tune": "sweep shield types and their settings on Ray Tune; leaves RUN_DIR/sweep",
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
        _dispatch(parsed, reporter, "flowshield " + shlex.join(typed))
    except (FlowshieldError, OSError) as error:
        if parsed.debug:
            raise
        print(f"flowshield: {reporter.named(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        again = " (with --resume, if trials had begun)" if parsed.command == "tune" else ""
        print(f"flowshield: interrupted; the same run_dir=... goes on{again}", file=sys.stderr)
        return 130
    return 0


def _dispatch(parsed: argparse.Namespace, reporter: Reporter, typed: str) -> None:
    command, overrides = parsed.command, parsed.overrides
    if command == "config":
        reporter.line(OmegaConf.to_yaml(compose("tune", overrides)).rstrip())
        return
    needed = {"evaluate": "a trained run", "tune": "a sweep"}
    goes_on = command == "evaluate" or (command == "tune" and parsed.resume)
    if goes_on and not any(o.startswith("run_dir=") for o in overrides):
        raise ConfigError(f"{command} needs run_dir=PATH, the folder of {needed[command]}")
    config, folder = load_config(overrides, "tune" if command == "tune" else "run")
    reporter.named = folder.named
    torch.set_num_threads(config.n_threads)
    reporter.stage(command, f"run folder {folder.place} (to go on later: run_dir={folder.place})")
    if command == "collect":
        collect(config, folder, reporter)
        reporter.stage(command, f"the episodes are in {absolute(dataset_path(config, folder))}")
    elif command == "train":
        train(config, folder, reporter)
        reporter.stage(command, f"the models are in {absolute(folder.models)}")
    elif command == "tune":
        _finish_sweep(folder, reporter, tune(config, folder, reporter, typed, parsed.resume))
    else:
        _finish(command, config, folder, reporter, typed)


def _finish_sweep(folder: RunFolder, reporter: Reporter, results: dict[str, Any]) -> None:
    reporter.table(sweep_table(results))
    test = results["best"]["test"]
    alarms, detection = test["false_alarms"], test["detection"]
    reporter.stage(
        "tune",
        f"the best on the test episodes, which chose nothing: AUROC {detection['auc_roc']:.4f}, "
        f"false alarms {percent(alarms['rate'], 1)} "
        f"({percent_interval(alarms['low'], alarms['high'])})",
    )
    place = absolute(folder.sweep)
    reporter.stage("tune", f"wrote {place}: best_shield.pt, best.yaml, sweep.png, table.md")


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
        if name == "tune":
            command.add_argument(
                "--resume", action="store_true", help="go on with the sweep that run_dir holds"
            )
    return parser
