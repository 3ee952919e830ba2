"""The stage that certifies: which rule of the outcome guard does no harm, shield by shield."""

__all__ = [
    "certify_run",
    "check_guard_request",
    "guard_record",
    "guarded_subjects",
    "outcome_guards",
]

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig

from flowshield.data import TrajectoryDataset
from flowshield.evaluation import Evaluator, Subjects
from flowshield.evaluation.agent import EvaluatedEpisode
from flowshield.evaluation.certificate import (
    Certificate,
    PairedLosses,
    certificate_text,
    certify,
    check_episodes,
)
from flowshield.evaluation.certifying import certified_guard, paired_losses, would_replace
from flowshield.json_files import read_json, write_json
from flowshield.models import Guard, Intent, OutcomeGuard, OutcomeModel, SupportGuard
from flowshield.models.intent import return_range
from flowshield.models.policy import RULES
from flowshield.pipeline.place import place, rollout_workers
from flowshield.pipeline.probing import check_probe, probe, probe_settings, probed_part
from flowshield.pipeline.subjects import evaluator_of, existing_dataset, run_subjects
from flowshield.progress import Bar, Reporter
from flowshield.run_folder import RunFolder

if TYPE_CHECKING:
    from flowshield.distributed.evaluate import EvaluatorPool

_TASK = 100  # episodes of a task: the same for any number of workers


def certify_run(
    config: DictConfig,
    folder: RunFolder,
    reporter: Reporter,
    dataset: TrajectoryDataset | None = None,
) -> dict[str, Certificate]:
    """Certifies the outcome guard of every shield; what is on file is not measured again.

    Args:
        config: From `load_config`.
        folder: Likewise; it holds the trained models. What is not probed yet is probed.
        reporter: Where progress goes.
        dataset: The run's; None = read it.

    Returns:
        The certificates by shield, also in the folder as certificates/SHIELD.json.

    Raises:
        DataError: `certificate.n_episodes` is less than can certify anything.
    """
    _check_sizes(config)
    dataset = dataset or existing_dataset(config, folder)
    model = probe(config, folder, reporter, dataset)
    subjects = run_subjects(config, folder, dataset)
    guards = outcome_guards(config, subjects, model, dataset)
    settings = {name: _settings(config, subjects, guards[name]) for name in guards}
    known = {name: _on_file(folder, name, settings[name]) for name in guards}
    found = {name: certificate for name, certificate in known.items() if certificate is not None}
    missing = [name for name in guards if name not in found]
    for name in found:
        reporter.stage("certify", f"found {folder.certificate(name)}")
    if missing:
        alone = probed_part(config, folder, subjects, "certificate")
        subjects = subjects.with_guards(guards)
        workers = rollout_workers(config)
        with folder.timed("certify"), place(config):
            evaluator = evaluator_of(subjects, workers)
            try:
                for name in missing:
                    with reporter.bar(f"certify: {name}", len(_rules(config))) as bar:
                        pairs = _Pairs(
                            config, folder, evaluator, guards[name], settings[name], alone, bar
                        )
                        found[name] = pairs.certificate()
                    reporter.stage("certify", f"{name}: {_first_line(found[name])}")
            finally:
                evaluator.close()
    return {name: found[name] for name in guards}


def check_guard_request(config: DictConfig) -> None:
    """Refuses too few episodes for the outcome guard of a config, before any work is done for it.

    Raises:
        DataError: `certificate.n_episodes` can certify nothing, or `probe.n_episodes` is too low.
    """
    if config.guard.kind == "outcome" and config.shield:
        _check_sizes(config)


def _check_sizes(config: DictConfig) -> None:
    settings = config.certificate
    check_episodes(settings.n_episodes, settings.epsilon, settings.delta)
    check_probe(config)


def outcome_guards(
    config: DictConfig, subjects: Subjects, model: OutcomeModel, dataset: TrajectoryDataset
) -> dict[str, OutcomeGuard]:
    """The outcome guard of every shield, none of which is certified yet, by name.

    Args:
        config: Its section `guard` says how.
        subjects: The run's.
        model: Fitted to the run's agent.
        dataset: The run's: the intent and the unit of harm follow from it.
    """
    returns, lengths = dataset.episode_returns, dataset.episode_lengths
    intent = Intent.of_data(config.guard.intent, returns, lengths)
    unit = return_range(returns)
    return {
        name: OutcomeGuard(
            shield,
            model.to(shield.device),
            intent,
            unit,
            every=config.guard.every,
            n_candidates=config.guard.n_candidates,
            projection=config.guard.projection,
            name=name,
        )
        for name, shield in subjects.shields.items()
    }


def guarded_subjects(
    config: DictConfig, folder: RunFolder, reporter: Reporter, dataset: TrajectoryDataset
) -> Subjects:
    """The run's subjects with the guard of `guard.kind` for every shield.

    Outcome guards are probed and certified first, where they are not yet. One of which nothing can
    be certified replaces no command. Where all returns of the data are equal nothing can be, and
    there is no guard.
    """
    subjects = run_subjects(config, folder, dataset)
    guards: Mapping[str, Guard] = {}
    if config.guard.kind == "support":
        guards = {name: SupportGuard(s, name) for name, s in subjects.shields.items()}
    elif config.guard.kind == "outcome" and not return_range(dataset.episode_returns):
        reporter.stage(
            "certify",
            "all returns of the data are equal, so that harm has no unit and nothing can be "
            "certified: no command is replaced (guard.kind=support needs no certificate)",
        )
    elif config.guard.kind == "outcome" and subjects.shields:
        certificates = certify_run(config, folder, reporter, dataset)
        model = OutcomeModel.load(folder.model("outcome"))
        guards = {
            name: certified_guard(
                certificates[name],
                shield,
                model.to(shield.device),
                every=config.guard.every,
                n_candidates=config.guard.n_candidates,
                projection=config.guard.projection,
                name=name,
            )
            for name, shield in subjects.shields.items()
        }
    return subjects.with_guards(guards)


def guard_record(
    config: DictConfig, folder: RunFolder, subjects: Subjects, dataset: TrajectoryDataset
) -> dict[str, Any]:
    """The entry "guard" of results.json.

    Args:
        config: Its section `guard` says how the run is guarded.
        folder: Of the run.
        subjects: With their guards.
        dataset: The run's: the cost of a step and the unit of harm follow from it.

    Returns:
        "kind" ("none" also where there is no guard), "intent", its "step_cost" and the data's
        "return_range", both in raw reward; of an outcome guard "every",
        "n_candidates", "projection", "outcome" (the record of models/outcome.json, how true its
        predictions are) and "certificates" by shield.
    """
    kind = "none" if subjects.shields and not subjects.guards else str(config.guard.kind)
    returns, lengths = dataset.episode_returns, dataset.episode_lengths
    intent = Intent.of_data(config.guard.intent, returns, lengths)
    record = {
        "kind": kind,
        "intent": intent.kind,
        "step_cost": intent.step_cost,
        "return_range": return_range(returns),
    }
    if kind != "outcome" or not subjects.shields:
        return record
    certificates = {n: read_json(folder.certificate(n))["certificate"] for n in subjects.shields}
    outcome = read_json(folder.models / "outcome.json")
    del outcome["settings"]
    return {
        **record,
        "every": int(config.guard.every),
        "n_candidates": int(config.guard.n_candidates),
        "projection": bool(config.guard.projection),
        "outcome": outcome,
        "certificates": certificates,
    }


class _Pairs:
    """The paired losses of one shield's guard, rule by rule, each on file once it is known."""

    def __init__(
        self,
        config: DictConfig,
        folder: RunFolder,
        evaluator: "Evaluator | EvaluatorPool",
        guard: OutcomeGuard,
        settings: Mapping[str, Any],
        alone: Sequence[EvaluatedEpisode],
        bar: Bar,
    ) -> None:
        self.config, self.folder, self.evaluator = config, folder, evaluator
        self.guard, self.name, self.settings = guard, guard.name, settings
        self.alone, self.bar = alone, bar
        self.rules = _rules(config)
        replaces = would_replace(guard, alone, self.rules)
        self.replaces = dict(zip(self.rules, replaces, strict=True))

    def certificate(self) -> Certificate:
        """Tests the rules in order, and writes what follows."""
        settings = self.config.certificate
        found = certify(
            self.rules,
            self._losses,
            return_range=self.guard.return_range,
            intent=self.guard.intent,
            epsilon=settings.epsilon,
            delta=settings.delta,
        )
        content = {"certificate": found.to_json(), "settings": self.settings}
        write_json(self.folder.certificate(self.name), content)
        self.folder.send()
        return found

    def _losses(self, rule: float) -> PairedLosses:
        path = self.folder.paired(self.name, rule)
        if path.exists() and (content := read_json(path))["settings"] == self.settings:
            return _losses_of(content)
        losses = paired_losses(
            self.guard, self.alone, self.replaces[rule], lambda those: self._run(rule, those)
        )
        write_json(path, {**_plain(losses), "settings": self.settings})
        self.folder.send()
        self.bar.advance(f"rule {rule:g}: replaces in {np.mean(losses.replaced):.0%} of episodes")
        return losses

    def _run(self, rule: float, those: Sequence[EvaluatedEpisode]) -> list[EvaluatedEpisode]:
        parts = [those[first : first + _TASK] for first in range(0, len(those), _TASK)]
        tasks = [
            (
                "guarded",
                (self.name, rule, [e.command for e in part], [e.seed for e in part], number),
            )
            for number, part in enumerate(parts)
        ]
        done = {task[1][-1]: record for task, record in self.evaluator.measure_all(tasks)}
        return [episode for number in sorted(done) for episode in done[number]["episodes"]]


def _plain(losses: PairedLosses) -> dict[str, Any]:
    failure = None if losses.failure is None else losses.failure.tolist()
    return {
        "utility": losses.utility.tolist(),
        "failure": failure,
        "replaced": losses.replaced.tolist(),
    }


def _losses_of(content: Mapping[str, Any]) -> PairedLosses:
    failure = content["failure"]
    return PairedLosses(
        np.array(content["utility"], dtype=np.float64),
        None if failure is None else np.array(failure, dtype=np.float64),
        np.array(content["replaced"], dtype=bool),
    )


def _settings(config: DictConfig, subjects: Subjects, guard: OutcomeGuard) -> dict[str, Any]:
    """What the losses of a guard were measured by."""
    return {
        **{key: value for key, value in guard.settings().items() if key != "rule"},
        "probe": probe_settings(subjects),
        "boldest": float(config.guard.boldest),
        "n_episodes": int(config.certificate.n_episodes),
        "epsilon": float(config.certificate.epsilon),
        "delta": float(config.certificate.delta),
    }


def _rules(config: DictConfig) -> list[float]:
    """The family of rules up to the boldest that the config allows; that one at least."""
    boldest = float(config.guard.boldest)
    return [*(rule for rule in RULES if rule > boldest), boldest]


def _on_file(folder: RunFolder, name: str, settings: Mapping[str, Any]) -> Certificate | None:
    path = folder.certificate(name)
    if not path.exists() or (content := read_json(path)).get("settings") != settings:
        return None
    return Certificate.from_json(content["certificate"])


def _first_line(certificate: Certificate) -> str:
    return certificate_text(certificate).splitlines()[0]
