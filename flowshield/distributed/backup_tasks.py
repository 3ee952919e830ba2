"""Keeps actors busy until every task is done, whatever becomes of any one of them."""

__all__ = ["keep_busy"]

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import ray

_Task = TypeVar("_Task")
_Begun = TypeVar("_Begun")


def keep_busy(
    actors: Sequence[Any],
    tasks: Iterable[_Task],
    begin: Callable[[Any, _Task], tuple["ray.ObjectRef[Any]", _Begun]],
    in_flight: int,
) -> Iterator[tuple[int, "ray.ObjectRef[Any]", _Begun]]:
    """Has every task done, and yields each once, as it gets done.

    An actor that runs out of tasks takes over what others have not done, and who is first counts
    (the backup tasks of Dean and Ghemawat 2004, MapReduce, section 3.6): nothing waits for an actor
    that no node has room for, as long as one is alive.

    Args:
        actors: Who works.
        tasks: Asked for the next when an actor is free.
        begin: Gives an actor a task; returns a reference to wait for, and whatever shall be yielded
            beside it.
        in_flight: Tasks an actor has at a time.

    Yields:
        The task's number, what was waited for, and what `begin` returned beside it.
    """
    untouched, undone = enumerate(tasks), dict[int, _Task]()
    given: list[set[int]] = [set() for _ in actors]
    running: dict[ray.ObjectRef[Any], tuple[int, int, _Begun]] = {}

    def give(who: int) -> None:
        for number, task in untouched:
            undone[number] = task
            break
        else:
            others = undone.keys() - given[who]
            if not others:
                return
            number = max(others)  # the last that was given: it may well be waiting still
        given[who].add(number)
        ref, begun = begin(actors[who], undone[number])
        running[ref] = number, who, begun

    for _ in range(in_flight):
        for who in range(len(actors)):
            give(who)
    try:
        while undone:
            (done,), _ = ray.wait(list(running), num_returns=1)
            number, who, begun = running.pop(done)
            if number in undone:
                del undone[number]
                yield number, done, begun
            give(who)
    finally:  # what nobody needs any more shall not be begun
        for ref in running:
            ray.cancel(ref)
