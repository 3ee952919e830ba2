"""Measurements of an evaluation, spread over actors."""

__all__ = ["EvaluatorPool"]

import os
from collections.abc import Iterable, Iterator
from typing import Any

import ray
import torch

from flowshield.distributed.backup_tasks import keep_busy
from flowshield.distributed.errors import own_error
from flowshield.evaluation import Evaluator, Measurement, Subjects


class EvaluationWorker:
    """An evaluator in a process of its own.

    It is constructed with nothing: Ray warns of constructor arguments in the object store, which an
    actor that starts again may no longer find.
    """

    def __init__(self) -> None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # an actor that asks for no GPU sees every one
        torch.set_num_threads(1)
        self.evaluator: Evaluator | None = None

    def measure(
        self, measurement: Measurement, subjects: list["ray.ObjectRef[Subjects]"]
    ) -> tuple[Measurement, dict[str, Any]]:
        """One measurement and its record.

        Args:
            measurement: What to measure.
            subjects: A reference to what is evaluated, the same for every measurement; in a list,
                so that it is read once an actor and not once a measurement.
        """
        if self.evaluator is None:  # here, that what it raises comes out as itself
            self.evaluator = Evaluator(ray.get(subjects[0]))
        return measurement, self.evaluator.measure(measurement)


class EvaluatorPool:
    """Actors that make an evaluation's records; the numbers are those of one process.

    An actor that dies is started again, and what it was at is measured again; see `keep_busy`.

    Args:
        subjects: What is evaluated, on the CPU; each node gets it once.
        num_workers: Actors, one CPU each.
    """

    def __init__(self, subjects: Subjects, num_workers: int) -> None:
        self._subjects = ray.put(subjects)
        actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(EvaluationWorker)
        self._actors = [actor.remote() for _ in range(num_workers)]

    def measure_all(
        self, measurements: Iterable[Measurement]
    ) -> Iterator[tuple[Measurement, dict[str, Any]]]:
        """Makes all of these records; yields each with what was asked, as it gets done."""

        def begin(actor: Any, measurement: Measurement) -> tuple["ray.ObjectRef[Any]", None]:
            return actor.measure.remote(measurement, [self._subjects]), None

        for _, done, _ in keep_busy(self._actors, measurements, begin, in_flight=1):
            with own_error():
                measured = ray.get(done)
            yield measured

    def close(self) -> None:
        """Lets go of the actors: each ends after what it is at."""
        self._actors.clear()
