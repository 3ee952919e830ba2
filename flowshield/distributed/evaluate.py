"""Measurements of an evaluation, spread over actors."""

__all__ = ["EvaluatorPool"]

import os
from collections.abc import Iterable, Iterator
from typing import Any

import ray
import torch
from ray.util import ActorPool

from flowshield.distributed.errors import own_error
from flowshield.evaluation import Evaluator, Measurement, Subjects


class EvaluationWorker:
    """An evaluator in a process of its own.

    Args:
        subjects: A reference to what is evaluated, in a list: its owner keeps it for as long as
            an actor may have to start again.
    """

    def __init__(self, subjects: list["ray.ObjectRef[Subjects]"]) -> None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # an actor that asks for no GPU sees every one
        torch.set_num_threads(1)
        self.evaluator = Evaluator(ray.get(subjects[0]))

    def measure(self, measurement: Measurement) -> tuple[Measurement, dict[str, Any]]:
        """One measurement and its record."""
        return measurement, self.evaluator.measure(measurement)


class EvaluatorPool:
    """Actors that make an evaluation's records; the numbers are those of one process.

    An actor that dies is started again, and what it was at is measured again.

    Args:
        subjects: What is evaluated, on the CPU; each node gets it once.
        num_workers: Actors, one CPU each.
    """

    def __init__(self, subjects: Subjects, num_workers: int) -> None:
        self._subjects = ray.put(subjects)
        actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(EvaluationWorker)
        self._actors = [actor.remote([self._subjects]) for _ in range(num_workers)]

    def measure_all(
        self, measurements: Iterable[Measurement]
    ) -> Iterator[tuple[Measurement, dict[str, Any]]]:
        """Makes all of these records; yields each with what was asked, as it gets done."""
        pool = ActorPool(self._actors)
        with own_error():
            yield from pool.map_unordered(
                lambda actor, measurement: actor.measure.remote(measurement),
                list(measurements),
            )

    def close(self) -> None:
        """Ends the actors."""
        for actor in self._actors:
            ray.kill(actor)  # type: ignore[arg-type]
