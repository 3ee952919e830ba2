"""Which results the protocol consists of, in the order in which they are worth having."""

__all__ = ["plan"]

from collections.abc import Iterator, Sequence

from protocol import behaviour, calibration, data, detection, known, latency, projection, training
from protocol.contenders import ACHIEVABILITY, knows_achievability, names
from protocol.schedule import Task
from protocol.settings import Settings
from protocol.store import Key


def plan(settings: Settings, parts: Sequence[str]) -> list[Task]:
    """Every task of the chosen parts with what it needs, the first seed and cheap parts first."""
    tasks = {
        task.key: task
        for seed in settings.seeds
        for dataset in settings.datasets
        for task in _of_seed(settings, parts, dataset, seed)
    }
    if "known" in parts:
        tasks |= {task.key: task for task in _known(settings)}
    return list(tasks.values())


def _of_seed(settings: Settings, parts: Sequence[str], dataset: str, seed: int) -> Iterator[Task]:
    """Everything about one dataset and one training seed."""
    collected = Key("data", dataset, 0, "data")
    lots = [Key("data", dataset, 0, "data", lot) for lot in ("fresh", "more")]
    if not set(parts) - {"known"}:
        return
    yield Task(collected, data.measure)
    if "calibration" in parts:
        yield from (Task(lot, data.measure) for lot in lots)
    for name in (*settings.shields, *settings.peers):
        yield _trained(dataset, seed, name)
    for name in names(settings):
        needs = (collected, *_model(settings, dataset, seed, name))
        if "detection" in parts:
            key = Key("detection", dataset, seed, name)
            yield Task(key, detection.measure, needs)
            if name in settings.shields and knows_achievability(name):
                yield Task(key._replace(detail=ACHIEVABILITY), detection.measure, needs)
        if "calibration" in parts:
            key = Key("calibration", dataset, seed, name)
            yield Task(key, calibration.measure, (*needs, *lots))
            if name in settings.shields and knows_achievability(name):
                by_achievability = key._replace(detail=ACHIEVABILITY)
                yield Task(by_achievability, calibration.measure, (*needs, *lots))
    for name in settings.shields:
        needs = (collected, *_model(settings, dataset, seed, name))
        if "projection" in parts:
            yield Task(Key("projection", dataset, seed, name), projection.measure, needs)
    if "latency" in parts and (dataset, seed) == (settings.datasets[0], settings.seeds[0]):
        for name in settings.shields:
            needs = _model(settings, dataset, seed, name)
            yield Task(Key("latency", dataset, seed, name), latency.measure, needs, alone=True)
    if "behaviour" in parts:
        yield from _cells(settings, dataset, seed)


def _known(settings: Settings) -> Iterator[Task]:
    """Everything about the environments with a known answer."""
    densities = [name for name in settings.shields if name != "quantile"]  # it promises none
    for seed in settings.seeds:
        for env in settings.known:
            yield Task(Key("data", env, 0, "data"), data.measure)
            for name in densities:
                yield _trained(env, seed, name)
                needs = _model(settings, env, seed, name)
                yield Task(Key("known", env, seed, name), known.measure, needs)


def _cells(settings: Settings, dataset: str, seed: int) -> Iterator[Task]:
    yield _trained(dataset, seed, "agent")
    agent = Key("train", dataset, seed, "agent")
    for guard in settings.guards:
        needs = (Key("data", dataset, 0, "data"), agent, *_model(settings, dataset, seed, guard))
        for command in settings.commands:
            detail = behaviour.command_name(command)
            yield Task(Key("behaviour", dataset, seed, guard, detail), behaviour.measure, needs)


def _trained(dataset: str, seed: int, name: str) -> Task:
    needs = (Key("data", dataset, 0, "data"),)
    return Task(Key("train", dataset, seed, name), training.measure, needs)


def _model(settings: Settings, dataset: str, seed: int, name: str) -> tuple[Key, ...]:
    """What must be trained before a model can be judged: nothing for a control."""
    if name in (*settings.shields, *settings.peers):
        return (Key("train", dataset, seed, name),)
    return ()
