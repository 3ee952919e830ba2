"""Does a guard do harm? Every environment, command and training seed, with each guard and without.

    python benchmarks/harm.py                                  # hours: 9 environments, 3 seeds
    python benchmarks/harm.py --envs cartpole --seeds 0 --episodes 10 --profile quick

Each environment and seed is a run in a folder of its own below --out: collected, trained, probed
and certified by the package's own pipeline. Its cells (command x guard, the same starts in each)
are files in the folder's `harm`. What is finished is read and not done again. The tables go below
a mark in --page; what people wrote above it stays. The table of all cells is OUT/cells.md.
"""

__all__ = ["main", "measure_run"]

import argparse
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baseline_guards import ExpectileTarget, ReturnCap
from controls import make_control
from harm_tables import GUARDS, cell_tables, page_tables
from numpy.typing import NDArray
from omegaconf import DictConfig

from flowshield.data import TrajectoryDataset
from flowshield.envs import EnvWrapper
from flowshield.evaluation import Subjects
from flowshield.evaluation.agent import EvaluatedEpisode, run_batch, start_seeds
from flowshield.evaluation.certificate import Certificate
from flowshield.evaluation.outcome_record import outcome_record
from flowshield.json_files import read_json, write_json
from flowshield.machine import machine
from flowshield.models import BaseShield, CommandedPolicy, Guard, OutcomeGuard, OutcomeModel
from flowshield.models.intent import INTENTS, Intent, return_range
from flowshield.models.policy import SupportGuard
from flowshield.models.shields.projection import ProjectionSettings
from flowshield.paths import typed_path
from flowshield.pipeline import certify_run, collect, probe, train
from flowshield.pipeline.certifying import guarded_subjects, outcome_guards
from flowshield.pipeline.probing import probed_part
from flowshield.pipeline.subjects import run_subjects
from flowshield.progress import Reporter
from flowshield.run_config import open_run
from flowshield.run_folder import RunFolder
from flowshield.training import Trainer

ENVS: dict[str, tuple[str, ...]] = {
    "lunarlander_mixed": ("env=lunarlander", "behaviour=mixed"),
    "lunarlander_expert": ("env=lunarlander", "behaviour=expert"),
    **{
        name: (f"env={name}",)
        for name in (
            "lunarlander_discrete",
            "cartpole",
            "pendulum",
            "hopper",
            "highway",
            "acrobot",
            "mountain_car",
        )
    },
}
"""What is measured, by name, and the overrides that make it."""

_MARK = "<!-- below this line: benchmarks/harm.py -->"
_PAGE = Path(__file__).parents[1] / "docs" / "results" / "harm.md"
_BEFORE = ProjectionSettings(horizon_weight=1e-4, typicality=0.85)  # as shipped before
_STARTS, _SAMPLES = 20, 12  # of the search for the best candidate of a cell
_SHORT = 0.10  # a cell fails by so many failures, or by that share of the data's return range

Command = tuple[float, float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what is missing, and writes the tables."""
    options = _arguments(arguments)
    torch.set_num_threads(1)
    runs: list[dict[str, Any]] = []
    for env in options.envs:
        for seed in options.seeds:
            runs.append(measure_run(env, seed, options))
            _write(options, runs)  # what is there is not lost


def measure_run(env: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """All that the tables tell of one environment and training seed.

    Args:
        env: A key of `ENVS`.
        seed: Of the data, the training and the starts.
        options: Of the command line.
    """
    began = time.perf_counter()
    place = options.out / f"{env}_{options.profile}_{seed}"
    words = [*ENVS[env], f"profile={options.profile}", f"seed={seed}", "ray.num_workers=0"]
    words += [f"shield={options.shield}", f"run_dir={place}", *options.override]
    with open_run(words) as (config, folder):
        record = _Run(config, folder, options).record()
        seconds = _add_seconds(folder, time.perf_counter() - began)
    return {"env": env, "seed": seed, "seconds": seconds, **record}


class _Run:
    """One trained, probed and certified run, and its cells."""

    def __init__(self, config: DictConfig, folder: RunFolder, options: argparse.Namespace) -> None:
        self.config, self.folder, self.options = config, folder, options
        self.reporter = Reporter()
        self.shield: str = options.shield
        self.dataset = collect(config, folder, self.reporter)
        train(config, folder, self.reporter, self.dataset)
        self.model: OutcomeModel = probe(config, folder, self.reporter, self.dataset)
        self.certificates = {
            kind: _certificate(config, folder, self.reporter, self.dataset, self.shield, kind)
            for kind in reversed(INTENTS)  # the default last: the folder is left with its own
        }
        self.subjects = run_subjects(config, folder, self.dataset)
        returns, lengths = self.dataset.episode_returns, self.dataset.episode_lengths
        self.intents = {kind: Intent.of_data(kind, returns, lengths) for kind in INTENTS}
        self.unit = return_range(returns)
        self.seeds = start_seeds(config.seed, options.episodes)
        self.envs: list[EnvWrapper] = []

    def record(self) -> dict[str, Any]:
        """Measures what is missing."""
        guards = self._guards()
        try:
            n = max(len(self.seeds), _STARTS)
            self.envs = [self.subjects.make_env() for _ in range(n)]
            commands = self.subjects.commands[: self.options.commands]
            cells = [self._cell(name, guards[name], c) for c in commands for name in GUARDS]
            repairs = [r for c in commands if (r := self._repair(c, cells)) is not None]
        finally:
            for env in self.envs:
                env.close()
        held_out = probed_part(self.config, self.folder, self.subjects, "certificate")
        return {
            "return_range": self.unit,
            "return_max": float(np.max(self.dataset.episode_returns)),
            "n_data": self.dataset.n_episodes,
            "step_cost": self.intents["exact"].step_cost,
            "certificates": {k: c.to_json() for k, c in self.certificates.items()},
            "predictions": outcome_record(self.model, held_out, self.config.seed),
            "cells": cells,
            "repairs": repairs,
        }

    def _guards(self) -> dict[str, Guard | None]:
        parts = Trainer(self.config).split(self.dataset)
        outcome = {kind: self._outcome_guard(kind) for kind in INTENTS}
        rules = {kind: self.certificates[kind].chosen for kind in INTENTS}
        certified = {
            name: outcome[kind].with_rule(math.inf if rules[kind] is None else rules[kind])
            for kind, name in (("at_least", "outcome"), ("exact", "outcome_exact"))
        }
        return {
            "none": None,
            "clip": ReturnCap(parts["train"].commands),
            "state_box": _state_box(self.config, parts),
            "support_before": _support_before(self.config, self.folder, self.shield, parts),
            "support_now": self._support_now(),
            "expectile": _expectile(parts["train"], self.config.seed),
            **certified,
            "outcome_projection": replace(certified["outcome"], projection=True),
        }

    def _outcome_guard(self, kind: str) -> OutcomeGuard:
        config = _with_guard(self.config, "intent", kind)
        return outcome_guards(config, self.subjects, self.model, self.dataset)[self.shield]

    def _support_now(self) -> Guard:
        config = _with_guard(self.config, "kind", "support")
        subjects: Subjects = guarded_subjects(config, self.folder, self.reporter, self.dataset)
        return subjects.guards[self.shield]

    def _cell(self, name: str, guard: Guard | None, command: Command) -> dict[str, Any]:
        """One cell, from its file where that is of these settings."""
        path = self.folder.path / "harm" / f"{name}_{command[0]:.17g}_{command[1]:.17g}.json"
        settings = {"episodes": len(self.seeds), "guard": guard and guard.settings()}
        settings["policy"] = self.model.policy_checksum
        if path.exists() and (known := read_json(path))["settings"] == settings:
            return dict(known)
        self.reporter.stage("harm", f"{name} at {command}")
        episodes = self._play([command] * len(self.seeds), guard, self.seeds)
        cell = {"guard": name, "command": list(command), "settings": settings}
        cell |= _outcomes(episodes, self.intents)
        if guard is None:
            cell["predicted"] = self._predicted(episodes, command)
        write_json(path, cell)
        return dict(read_json(path))  # the same numbers whether it was there or not

    def _play(
        self,
        commands: Sequence[Command],
        guard: Guard | None,
        seeds: Sequence[int],
        draws: Sequence[int] | None = None,
    ) -> list[EvaluatedEpisode]:
        """Episodes from the starts of `seeds`; what the agent draws follows from `draws`."""

        def policy(*args: Any, seeds: Sequence[int] | None, **kwargs: Any) -> CommandedPolicy:
            own = seeds if seeds is None or draws is None else draws
            return CommandedPolicy(*args, seeds=own, **kwargs)

        subjects, envs = self.subjects, self.envs[: len(seeds)]
        agent, fixed = subjects.agent, subjects.deterministic
        return run_batch(envs, agent, commands, guard, seeds, fixed, policy)

    def _predicted(
        self, episodes: Sequence[EvaluatedEpisode], command: Command
    ) -> dict[str, list[float]]:
        states = torch.as_tensor(np.stack([e.episode.states[0] for e in episodes]))
        told = self.model.predict(states, torch.tensor([command] * len(states)))
        named = {"low": told.low, "high": told.high, "failure": told.failure}
        return {name: values.tolist() for name, values in named.items()}

    def _repair(
        self, command: Command, cells: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any] | None:
        """Of a cell that fails without a guard: what the best candidate gains, and the guard.

        The best candidate of a start is chosen by one rollout of each, and measured by another,
        with other draws of the agent: else the luckiest would count as the best.
        """
        of = {cell["guard"]: cell for cell in cells if cell["command"] == list(command)}
        alone = of["none"]
        asked = min(command[1], float(np.max(self.dataset.episode_returns)))
        short = asked - float(np.mean(alone["utility"]["at_least"]))
        often = alone["failed"] is not None and np.mean(alone["failed"]) >= _SHORT
        if not often and short < _SHORT * self.unit:
            return None
        path = self.folder.path / "harm" / f"best_{command[0]:.17g}_{command[1]:.17g}.json"
        settings = alone["settings"]
        if not path.exists() or read_json(path)["settings"] != settings:
            self.reporter.stage("harm", f"best candidates at {command}")
            write_json(path, {"settings": settings, "gain": self._best_gain(command)})
        best = np.array(read_json(path)["gain"])
        gained = {
            name: float(np.mean(_gain(of[name], alone)[: len(best)]))
            for name in ("outcome", "outcome_projection", "support_now")
        }
        return {"command": list(command), "best": float(best.mean()), "gained": gained}

    def _best_gain(self, command: Command) -> list[float]:
        seeds = self.seeds[:_STARTS]
        states = np.stack([e.reset(seed=s)[0] for e, s in zip(self.envs, seeds, strict=False)])
        request = torch.tensor([command] * len(seeds), dtype=torch.float32)
        guard = self._outcome_guard("at_least")
        listed = guard.candidates(torch.as_tensor(states), request, request)
        offered = listed[:, [0, *range(2, 2 + _SAMPLES)]].double().numpy()
        first, second = ([seed + more for seed in seeds] for more in (1, 2))
        tried = np.stack(
            [self._utilities(offered[:, i], command, first) for i in range(offered.shape[1])]
        )
        best = offered[np.arange(len(seeds)), tried.argmax(axis=0)]
        gain = self._utilities(best, command, second) - self._utilities(
            offered[:, 0], command, second
        )
        return [float(value) for value in gain]

    def _utilities(
        self, carried: NDArray[np.float64], asked: Command, draws: Sequence[int]
    ) -> NDArray[np.float64]:
        commands = [(float(h), float(r)) for h, r in carried]
        episodes = self._play(commands, None, self.seeds[:_STARTS], draws)
        returns = np.array([e.episode.total_return for e in episodes])
        return np.minimum(returns, asked[1])


def _certificate(
    config: DictConfig,
    folder: RunFolder,
    reporter: Reporter,
    dataset: TrajectoryDataset,
    shield: str,
    kind: str,
) -> Certificate:
    """The certificate of an intent; the folder itself keeps only the last one's."""
    path = folder.path / "harm" / f"certificate_{kind}.json"
    settings = {name: _plain(config[name]) for name in ("probe", "certificate", "guard")}
    if path.exists() and (known := read_json(path))["settings"] == settings:
        return Certificate.from_json(known["certificate"])
    asked = _with_guard(config, "intent", kind)
    found = certify_run(asked, folder, reporter, dataset)[shield]
    write_json(path, {"settings": settings, "certificate": found.to_json()})
    return found


def _plain(section: DictConfig) -> dict[str, Any]:
    return {str(key): value for key, value in section.items()}


def _with_guard(config: DictConfig, key: str, value: str) -> DictConfig:
    changed = config.copy()
    changed.guard[key] = value
    return changed


def _state_box(config: DictConfig, parts: Mapping[str, TrajectoryDataset]) -> Guard:
    control = make_control("state_box", parts["train"])
    control.calibrate(parts["calibration"], alpha=config.calibration.alpha, seed=config.seed)
    return SupportGuard(control, "state_box", lasting=True)


def _support_before(
    config: DictConfig, folder: RunFolder, name: str, parts: Mapping[str, TrajectoryDataset]
) -> Guard:
    """The guard that was shipped before: a density's threshold, a replacement for good."""
    shield = BaseShield.load(folder.model(name))
    shield.projection = _BEFORE
    if shield.score_type != "density":
        old = config.copy()
        old.calibration.score = "density"
        Trainer(old).calibrate(shield, parts["calibration"])
    return SupportGuard(shield, name, lasting=True)


def _expectile(data: TrajectoryDataset, seed: int) -> Guard:
    states, commands = torch.as_tensor(data.states), torch.as_tensor(data.commands)
    return ExpectileTarget(data.state_dim).fit(states, commands[:, 1], seed=seed)


def _outcomes(
    episodes: Sequence[EvaluatedEpisode], intents: Mapping[str, Intent]
) -> dict[str, Any]:
    """What a cell's episodes got, episode by episode."""
    returns = torch.tensor([e.episode.total_return for e in episodes], dtype=torch.float64)
    steps = torch.tensor([e.episode.length for e in episodes], dtype=torch.float64)
    asked = torch.tensor([e.command for e in episodes], dtype=torch.float64)
    failed = [e.crashed for e in episodes]
    return {
        "returns": returns.tolist(),
        "steps": steps.tolist(),
        "utility": {k: i.utility(returns, steps, asked).tolist() for k, i in intents.items()},
        "failed": None if None in failed else failed,
        "replaced": [e.flagged_steps > 0 for e in episodes],
    }


def _gain(cell: Mapping[str, Any], alone: Mapping[str, Any]) -> NDArray[np.float64]:
    return np.array(cell["utility"]["at_least"]) - np.array(alone["utility"]["at_least"])


def _add_seconds(folder: RunFolder, seconds: float) -> float:
    """All that the run took, over restarts; a call that was killed is not counted."""
    path = folder.path / "harm" / "seconds.json"
    total = seconds + (read_json(path)["seconds"] if path.exists() else 0.0)
    write_json(path, {"seconds": total})
    return float(total)


def _write(options: argparse.Namespace, runs: Sequence[dict[str, Any]]) -> None:
    page: Path = options.page
    written = page.read_text().partition(_MARK)[0] if page.exists() else "# Harm\n\n"
    head = f"`{_typed(options)}`; {machine()}.\n"
    page.write_text(f"{written}{_MARK}\n\n{head}\n{page_tables(runs)}")
    (options.out / "cells.md").write_text(cell_tables(runs))


def _typed(options: argparse.Namespace) -> str:
    words = ["python benchmarks/harm.py", "--envs", *options.envs]
    words += ["--seeds", *map(str, options.seeds), "--episodes", str(options.episodes)]
    words += ["--profile", options.profile, "--shield", options.shield]
    if options.commands is not None:
        words += ["--commands", str(options.commands)]
    return " ".join([*words, *(["--override", *options.override] if options.override else [])])


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--envs", nargs="+", default=list(ENVS), choices=list(ENVS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="training seeds")
    parser.add_argument("--episodes", type=int, default=100, help="of a cell")
    parser.add_argument("--commands", type=int, help="only the first so many of env.commands")
    parser.add_argument("--profile", default="default")
    parser.add_argument("--shield", default="mixture", help="whose samples and verdicts are used")
    parser.add_argument("--out", type=typed_path, default=Path("runs/harm"))
    parser.add_argument("--page", type=typed_path, default=_PAGE)
    parser.add_argument("--override", nargs="*", default=[], help="config overrides of every run")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
