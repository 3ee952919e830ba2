"""The stage that probes: rollouts of the agent alone, and the outcome model fitted to them."""

__all__ = ["check_probe", "probe", "probe_settings", "probed_part"]

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from flowshield.data import Episode, TrajectoryDataset
from flowshield.envs import EnvWrapper
from flowshield.errors import DataError
from flowshield.evaluation import Subjects
from flowshield.evaluation.agent import EvaluatedEpisode, crashed
from flowshield.evaluation.outcome_record import outcome_record, outcome_text, rows_of
from flowshield.evaluation.probing import PARTS
from flowshield.json_files import read_json, write_json
from flowshield.models import OutcomeModel
from flowshield.models.outcome import LEAST_VALIDATION, weights_checksum
from flowshield.pipeline.place import place, rollout_workers
from flowshield.pipeline.subjects import evaluator_of, existing_dataset, run_subjects
from flowshield.progress import Reporter
from flowshield.run_folder import RunFolder

_CHUNK = 100  # episodes of a task: the same for any number of workers, and so are the bytes


def probe(
    config: DictConfig,
    folder: RunFolder,
    reporter: Reporter,
    dataset: TrajectoryDataset | None = None,
) -> OutcomeModel:
    """Rolls the agent out alone and fits the outcome model; what is on file is not made again.

    Args:
        config: From `load_config`.
        folder: Likewise; it holds the trained models.
        reporter: Where progress goes.
        dataset: The run's; None = read it.

    Returns:
        The outcome model, also in the folder as models/outcome.pt.

    Raises:
        DataError: `probe.n_episodes` leaves too few episodes for validation.
    """
    check_probe(config)
    subjects = run_subjects(config, folder, dataset or existing_dataset(config, folder))
    path, record = folder.model("outcome"), folder.models / "outcome.json"
    settings = _fit_settings(config, subjects)
    if path.exists() and record.exists() and read_json(record).get("settings") == settings:
        reporter.stage("probe", f"found {path}")
        return OutcomeModel.load(path)
    missing = list(_missing(config, folder, subjects))
    n_episodes = sum(len(indices) for _, indices in missing)
    reporter.stage("probe", f"{n_episodes} episodes of the agent alone, to learn what it does")
    with folder.timed("probe"):
        if missing:
            _roll_out(config, folder, reporter, subjects, missing)
        model = _fitted(config, folder, reporter, subjects)
    return model


def check_probe(config: DictConfig) -> None:
    """Refuses a probe that is too small to fit anything to; free, so call it early.

    Raises:
        DataError: `probe.n_episodes` leaves too few episodes for validation, or for the fit.
    """
    fit, validation = _count(config, "fit"), _count(config, "validation")
    if validation < LEAST_VALIDATION or fit < 2:
        raise DataError(
            f"expected a probe with at least {LEAST_VALIDATION} episodes for validation and 2 to "
            f"fit to, got {validation} and {fit} (probe.n_episodes={config.probe.n_episodes}, "
            f"probe.validation={config.probe.validation}): probe more episodes"
        )


def probe_settings(subjects: Subjects) -> str:
    """A digest of what a probed episode depends on beside its part and number."""
    plan = subjects.plan
    assert plan is not None
    told = {
        "policy": weights_checksum(subjects.agent),
        "shields": {name: weights_checksum(shield) for name, shield in subjects.shields.items()},
        "deterministic": subjects.deterministic,
        "return_grid": subjects.return_grid,
        "plan": asdict(plan),
        "chunk": _CHUNK,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def probed_part(
    config: DictConfig, folder: RunFolder, subjects: Subjects, part: str
) -> list[EvaluatedEpisode]:
    """The episodes of one part of the probe, in order, from their files."""
    env, plan = subjects.make_env(), subjects.plan
    assert plan is not None
    try:
        return [
            episode
            for indices in _chunks(_count(config, part))
            for episode in _read(
                TrajectoryDataset(folder.probe(part, indices[0])), env, plan.seeds(part, indices)
            )
        ]
    finally:
        env.close()


def _count(config: DictConfig, part: str) -> int:
    """Episodes of a part."""
    if part == "certificate":
        return int(config.certificate.n_episodes) if config.shield else 0
    validation = round(config.probe.validation * config.probe.n_episodes)
    return int(validation if part == "validation" else config.probe.n_episodes - validation)


def _chunks(n_episodes: int) -> Iterator[range]:
    for first in range(0, n_episodes, _CHUNK):
        yield range(first, min(first + _CHUNK, n_episodes))


def _missing(
    config: DictConfig, folder: RunFolder, subjects: Subjects
) -> Iterator[tuple[str, range]]:
    settings = probe_settings(subjects)
    for part in PARTS:
        for indices in _chunks(_count(config, part)):
            if not _on_file(folder.probe(part, indices[0]), len(indices), settings):
                yield part, indices


def _on_file(path: Path, n_episodes: int, settings: str) -> bool:
    if not path.exists():
        return False
    found = TrajectoryDataset(path)
    return found.n_episodes >= n_episodes and found.metadata.get("probe") == settings


def _fit_settings(config: DictConfig, subjects: Subjects) -> dict[str, Any]:
    """What the outcome model depends on."""
    settings = {"probe": probe_settings(subjects), "seed": int(config.seed)}
    counts = {part: _count(config, part) for part in PARTS}  # the last to say how true it is
    return {**settings, **counts, "n_steps": int(config.probe.n_steps)}


def _roll_out(
    config: DictConfig,
    folder: RunFolder,
    reporter: Reporter,
    subjects: Subjects,
    missing: Sequence[tuple[str, range]],
) -> None:
    """Plays the chunks that are not on file, and writes each when it is done."""
    with place(config), reporter.bar("probe", len(missing)) as bar:
        evaluator = evaluator_of(subjects, min(rollout_workers(config), len(missing)))
        try:
            tasks = [("probed", (part, indices)) for part, indices in missing]
            for (_, (part, indices)), record in evaluator.measure_all(tasks):
                episodes: list[EvaluatedEpisode] = record["episodes"]
                _write(episodes, folder.probe(part, indices[0]), indices, probe_settings(subjects))
                folder.send()
                mean = np.mean([episode.episode.total_return for episode in episodes])
                bar.advance(f"{part}: mean return {mean:.4g}")
        finally:
            evaluator.close()


def _write(episodes: Sequence[EvaluatedEpisode], path: Path, indices: range, settings: str) -> None:
    lived = [
        replace(evaluated.episode, behaviour="agent", index=index, request=evaluated.command)
        for evaluated, index in zip(episodes, indices, strict=True)
    ]
    facts: dict[str, Any] = {"probe": settings}
    if lived[0].actions.dtype == np.int64:  # what a file of discrete actions must say
        facts["n_actions"] = max(int(episode.actions.max()) for episode in lived) + 1
    TrajectoryDataset.from_episodes(lived, facts).save(path)


def _read(
    data: TrajectoryDataset, env: EnvWrapper, seeds: Sequence[int]
) -> Iterator[EvaluatedEpisode]:
    assert data.requests is not None and data.final_states is not None
    for number, seed in enumerate(seeds):
        first = int(data.episode_starts[number])
        last = first + int(data.episode_lengths[number]) - 1
        steps = slice(first, last + 1)
        command = (float(data.requests[number, 0]), float(data.requests[number, 1]))
        episode = Episode(
            states=data.states[steps],
            final_state=data.final_states[number],
            actions=data.actions[steps],
            rewards=data.rewards[steps],
            terminated=bool(data.terminated[last]),
            truncated=bool(data.truncated[last]),
            behaviour="agent",
            index=number,
            request=command,
        )
        yield EvaluatedEpisode(episode, command, command, crashed(env, episode), 0, False, seed)


def _fitted(
    config: DictConfig, folder: RunFolder, reporter: Reporter, subjects: Subjects
) -> OutcomeModel:
    """Fits the outcome model, says how true it is on the certificate's episodes, and writes it."""
    fit, validation, held_out = (probed_part(config, folder, subjects, part) for part in PARTS)
    knows = all(episode.crashed is not None for episode in fit)
    model = OutcomeModel(
        subjects.agent.state_dim,
        knows_failure=knows,
        policy_checksum=weights_checksum(subjects.agent),
    )
    model.fit(
        rows_of(fit, config.seed),
        rows_of(validation, config.seed + 1),
        n_steps=config.probe.n_steps,
        seed=config.seed,
    )
    model.save(folder.model("outcome"))
    record = outcome_record(model, held_out or validation, config.seed)
    settings = _fit_settings(config, subjects)
    write_json(folder.models / "outcome.json", {**record, "settings": settings})
    folder.send()
    reporter.stage("probe", f"wrote {folder.model('outcome')}: {outcome_text(record)}")
    return model
