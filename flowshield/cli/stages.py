"""The main job, its stages one by one, and the sweep."""

__all__ = ["CERTIFY", "COLLECT", "CONFIG", "EVALUATE", "PROBE", "RUN", "TRAIN", "TUNE"]

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from flowshield.cli.command import Command
from flowshield.errors import ConfigError
from flowshield.progress import Reporter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omegaconf import DictConfig

    from flowshield.run_folder import RunFolder


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Lets a command take Hydra overrides."""
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides")


def _add_tune_arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser)
    parser.add_argument(
        "--resume", action="store_true", help="go on with the sweep that run_dir holds"
    )


@contextmanager
def _prepared(
    command: str, overrides: "Sequence[str]", reporter: Reporter, typed: str
) -> "Iterator[tuple[DictConfig, RunFolder]]":
    import torch

    from flowshield.pipeline.typed_again import typed_again
    from flowshield.run_config import open_run

    with open_run(overrides, "tune" if command == "tune" else "run") as (config, folder):
        reporter.named, reporter.run_dir = folder.named, folder.place
        folder.remember(typed)
        torch.set_num_threads(config.n_threads)
        reporter.again = partial(typed_again, config, command, folder.place)
        again = reporter.again(*(["--resume"] if command == "tune" else []))
        reporter.stage(command, f"run folder {folder.place} (to go on later: {again})")
        yield config, folder


def _needs_run_dir(command: str, holding: str, overrides: "Sequence[str]") -> None:
    from flowshield.filesystem import local_path
    from flowshield.overrides import path_given, typed_run_dir

    place = path_given(overrides, "run_dir")
    if place is None:
        words = [o for o in overrides if "=" not in o]
        hint = f": did you mean {typed_run_dir(words[0])}?" if words else ""
        raise ConfigError(f"{command} needs run_dir=PATH, the folder of {holding}{hint}")
    path = local_path(place)
    if path is not None and not path.is_dir():
        raise ConfigError(f"run_dir={path}: expected the folder of {holding}, there is none")


def _needs_commands(overrides: "Sequence[str]") -> None:
    """Refuses to ask an environment of one's own what the config's own environment is asked."""
    said = dict(override.partition("=")[::2] for override in overrides)
    if "env.name" not in said or said.keys() & {"env", "env.commands"}:
        return
    import gymnasium

    from flowshield.config import compose
    from flowshield.envs import list_envs
    from flowshield.groups import config_groups
    from flowshield.overrides import path_given

    name = said["env.name"].strip("'\"")
    if name == compose("run").env.name or _holds_config(path_given(overrides, "run_dir")):
        return
    if name not in {*list_envs(), *gymnasium.registry}:
        return  # it is told with the names that are near
    hint = f"; or did you mean env={name}?" if name in config_groups()["env"] else ""
    raise ConfigError(
        f"env.name={name} needs 'env.commands=[[H,R],...]', the commands to evaluate with: those "
        f"of the config are another environment's{hint}"
    )


def _holds_config(run_dir: str | None) -> bool:
    """Whether a run is gone on with, which has commands of its own; unknown = it may be."""
    from flowshield.filesystem import local_path

    if run_dir is None:
        return False
    place = local_path(run_dir)
    return place is None or (place / "config.yaml").exists()


def _run(parsed: argparse.Namespace, reporter: Reporter, typed: str) -> None:
    from flowshield.pipeline import run

    _needs_commands(parsed.overrides)
    with _prepared("run", parsed.overrides, reporter, typed) as (config, folder):
        _tell_results("run", folder, reporter, run(config, folder, reporter, typed))


def _collect(parsed: argparse.Namespace, reporter: Reporter, typed: str) -> None:
    from flowshield.pipeline import collect

    with _prepared("collect", parsed.overrides, reporter, typed) as (config, folder):
        collect(config, folder, reporter)


def _train(parsed: argparse.Namespace, reporter: Reporter, typed: str) -> None:
    from flowshield.filesystem import absolute
    from flowshield.pipeline import train

    _needs_commands(parsed.overrides)
    with _prepared("train", parsed.overrides, reporter, typed) as (config, folder):
        train(config, folder, reporter)
        reporter.stage("train", f"the models are in {absolute(folder.models)}")


def _probe(parsed: argparse.Namespace, reporter: Reporter, typed: str) -> None:
    from flowshield.filesystem import absolute
    from flowshield.pipeline import probe

    _needs_run_dir("probe", "a trained run", parsed.overrides)
    with _prepared("probe", parsed.overrides, reporter, typed) as (config, folder):
        probe(config, folder, reporter)
        reporter.stage("probe", f"the outcome model is {absolute(folder.model('outcome'))}")


def _certify(parsed: argparse.Namespace, reporter: Reporter, typed: str) -> None:
    from flowshield.evaluation import certificate_text
    from flowshield.filesystem import absolute
    from flowshield.pipeline import certify_run

    _needs_run_dir("certify", "a trained run", parsed.overrides)
    with _prepared("certify", parsed.overrides, reporter, typed) as (config, folder):
        for name, certificate in certify_run(config, folder, reporter).items():
            reporter.line(f"{name}: {certificate_text(certificate)}")
        reporter.stage("certify", f"the certificates are in {absolute(folder.certificates)}")


def _evaluate(parsed: argparse.Namespace, reporter: Reporter, typed: str) -> None:
    from flowshield.pipeline import evaluate

    _needs_run_dir("evaluate", "a trained run", parsed.overrides)
    with _prepared("evaluate", parsed.overrides, reporter, typed) as (config, folder):
        _tell_results("evaluate", folder, reporter, evaluate(config, folder, reporter, typed))


def _tell_results(
    command: str, folder: "RunFolder", reporter: Reporter, results: dict[str, Any]
) -> None:
    from flowshield.evaluation import (
        detection_table,
        followed_lines,
        results_table,
        verdict_lines,
    )
    from flowshield.filesystem import absolute

    reporter.table(results_table(results))
    if results["shields"]:
        reporter.table(detection_table(results))
    for line in (*followed_lines(results), *verdict_lines(results)):
        reporter.stage(command, line)
    seconds = results["seconds"]
    parts = ", ".join(f"{stage} {time:.0f}" for stage, time in seconds.items())
    work = f"{sum(seconds.values()):.0f} s of work in this folder, over all starts ({parts})"
    reporter.stage(command, f"done: {work}; open {absolute(folder.report)}")


def _tune(parsed: argparse.Namespace, reporter: Reporter, typed: str) -> None:
    from flowshield.pipeline import tune

    if parsed.resume:
        _needs_run_dir("tune", "a sweep", parsed.overrides)
    with _prepared("tune", parsed.overrides, reporter, typed) as (config, folder):
        _tell_sweep(folder, reporter, tune(config, folder, reporter, typed, parsed.resume))


def _tell_sweep(folder: "RunFolder", reporter: Reporter, results: dict[str, Any]) -> None:
    from flowshield.evaluation import sweep_table
    from flowshield.evaluation.wording import percent, percent_interval
    from flowshield.filesystem import absolute

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


def _config(parsed: argparse.Namespace, reporter: Reporter, typed: str) -> None:
    from omegaconf import OmegaConf

    from flowshield.config import compose

    reporter.line(OmegaConf.to_yaml(compose("tune", parsed.overrides)).rstrip())


RUN = Command(
    "run",
    "collect, train, probe, certify, evaluate; leaves a run folder with report.html",
    """\
  flowshield run                                   the main job
  flowshield run profile=quick                     the same in minutes, for a first look
  flowshield run behaviour=expert seed=1 run_dir=runs/expert
  flowshield run run_dir=runs/expert               go on with a run that was interrupted""",
    _run,
    add_overrides,
    shows_groups=True,
)
COLLECT = Command(
    "collect",
    "collect episodes into RUN_DIR/dataset.npz",
    "  flowshield collect data.n_episodes=500 run_dir=runs/mine",
    _collect,
    add_overrides,
    shows_groups=True,
)
TRAIN = Command(
    "train",
    "train the agent and the shields on a dataset",
    """\
  flowshield train run_dir=runs/mine
  flowshield train run_dir=runs/other data.path=episodes.npz shield=quantile""",
    _train,
    add_overrides,
    shows_groups=True,
)
PROBE = Command(
    "probe",
    "roll the agent out alone, and learn what it does under a command",
    "  flowshield probe run_dir=runs/mine probe.n_episodes=800",
    _probe,
    add_overrides,
    shows_groups=True,
)
CERTIFY = Command(
    "certify",
    "test which rule of the guard does no harm, with a guarantee",
    "  flowshield certify run_dir=runs/mine certificate.epsilon=0.01 certificate.n_episodes=400",
    _certify,
    add_overrides,
    shows_groups=True,
)
EVALUATE = Command(
    "evaluate",
    "evaluate a trained run folder; cells that are on file are not run again",
    "  flowshield evaluate run_dir=runs/mine",
    _evaluate,
    add_overrides,
    shows_groups=True,
)
TUNE = Command(
    "tune",
    "sweep shield types and their settings on Ray Tune; leaves RUN_DIR/sweep",
    """\
  flowshield tune run_dir=runs/sweep 'tune.space.batch_size={choice:[512,1024]}'
  flowshield tune --resume run_dir=runs/sweep      go on with a sweep that was interrupted""",
    _tune,
    _add_tune_arguments,
    shows_groups=True,
)
CONFIG = Command(
    "config",
    "print the composed config and stop",
    "  flowshield config profile=quick shield=quantile",
    _config,
    add_overrides,
    shows_groups=True,
)
