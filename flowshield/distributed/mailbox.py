"""How a training's epochs come back to the process that waits for them."""

__all__ = ["Mailbox"]

import threading
import uuid
from collections import defaultdict
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Record = dict[str, float]

_TURN = threading.Lock()
_LETTERS: dict[tuple[str, str], Any] = {}
"""This process's, by cluster and job: an actor lives as long as whoever made it holds it."""


class Letters:
    """What lies in all mailboxes of a driver; one process serves them all."""

    def __init__(self) -> None:
        self.boxes: defaultdict[str, list[Record]] = defaultdict(list)
        self.closed: set[str] = set()

    def put(self, box: str, record: Record) -> bool:
        if box not in self.closed:
            self.boxes[box].append(record)
        return box not in self.closed

    def take(self, box: str) -> list[Record]:
        return self.boxes.pop(box, [])

    def close(self, box: str) -> None:
        self.boxes.pop(box, None)
        self.closed.add(box)


class Mailbox:
    """Takes records from a worker to the driver; it can be sent to the worker.

    It lies on the driver's node and ends with the driver.
    """

    def __init__(self) -> None:
        self._letters = _letters()
        self._box = uuid.uuid4().hex

    def put(self, record: Record) -> bool:
        """Leaves a record; says whether anybody still waits for it."""
        try:
            return bool(ray.get(self._letters.put.remote(self._box, record)))
        except RayActorError:  # it ended with the driver
            return False

    def take(self) -> list[Record]:
        """What has come since the last time, in order."""
        letters: list[Record] = ray.get(self._letters.take.remote(self._box))
        return letters

    def close(self) -> None:
        """Nobody waits any more."""
        ray.get(self._letters.close.remote(self._box))


def _letters() -> Any:
    """The process that serves this driver's mailboxes, on the driver's node."""
    context = ray.get_runtime_context()
    key = (context.gcs_address, context.get_job_id())
    with _TURN:
        if key not in _LETTERS:
            here = NodeAffinitySchedulingStrategy(context.get_node_id(), soft=False)
            _LETTERS.clear()  # of a Ray that is gone
            # one that is killed is started again: a record may be lost, the training goes on
            letters: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Letters)
            _LETTERS[key] = letters.options(scheduling_strategy=here).remote()
        return _LETTERS[key]
