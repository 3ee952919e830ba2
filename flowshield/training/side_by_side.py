"""Several trainings at once, each waited for in a thread of this process."""

__all__ = ["side_by_side"]

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

_Result = TypeVar("_Result")


def side_by_side(
    trainings: Sequence[Callable[[], _Result]], at_once: int, stop: threading.Event
) -> list[_Result]:
    """Does all of them, at most so many at a time.

    Args:
        trainings: Each waits for workers elsewhere; this process only looks on.
        at_once: 1 = one after the other, in this thread.
        stop: Set as soon as one fails, or this thread is interrupted: the others shall end. Once
            they have, it is cleared.

    Returns:
        What they return, in the order given.

    Raises:
        Exception: The first that one of them raised; none is begun after it.
    """
    if at_once == 1:
        return [train() for train in trainings]
    pool = ThreadPoolExecutor(at_once)
    try:
        running = [pool.submit(train) for train in trainings]
        for done in as_completed(running):
            done.result()
        return [done.result() for done in running]
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        stop.clear()  # for the next training
