"""Runs tasks in order of priority as soon as what they need is on file, some at a time."""

__all__ = ["Context", "Task", "run_tasks"]

import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from protocol.settings import Settings
from protocol.store import Key, Store

Measure = Callable[["Context", Key], dict[str, Any]]


@dataclass(frozen=True)
class Context:
    """What every measurement is given: small enough to be sent to another process.

    Attributes:
        settings: Sizes, seeds, models.
        folder: Where results, data and models lie.
    """

    settings: Settings
    folder: Path

    @property
    def store(self) -> Store:
        """The folder as a store."""
        return Store(self.folder)


@dataclass(frozen=True)
class Task:
    """One result to be made.

    Attributes:
        key: Its name.
        measure: A module-level function that makes it.
        needs: Results that must be on file before.
        alone: Whether nothing else may run meanwhile: it measures time.
    """

    key: Key
    measure: Measure
    needs: tuple[Key, ...] = ()
    alone: bool = False


def run_tasks(
    tasks: Sequence[Task], context: Context, jobs: int, say: Callable[[str], None]
) -> dict[Key, str]:
    """Makes every result that is not on file, or older than what it was made from.

    Args:
        tasks: In order of priority, each behind what it needs.
        context: What they are given.
        jobs: Processes; 1 = this one.
        say: Hears a line for each result.

    Returns:
        Why each result that is missing is missing: its own error, or that of what it needs.
    """
    tasks = _outdated(tasks, context.store)
    if jobs == 1 or not tasks:
        return _run_here(tasks, context, say)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, initializer=_one_thread) as pool:
        return _Running(pool, context, jobs, say).run(tasks)


def _outdated(tasks: Iterable[Task], store: Store) -> list[Task]:
    """What must be made: lost, made from what is made again now, or from what was since."""
    found: dict[Key, Task] = {}
    for task in tasks:
        made = store.made_at(task.key)
        if any(need in found or store.made_at(need) > made for need in task.needs) or made == 0:
            found[task.key] = task
    return list(found.values())


def _run_here(
    tasks: Iterable[Task], context: Context, say: Callable[[str], None]
) -> dict[Key, str]:
    failed: dict[Key, str] = {}
    for task in tasks:
        lost = _lost(task, failed)
        failed.update(lost or _told(task.key, _perform(task, context), say))
    return failed


class _Running:
    """The loop over a pool of processes."""

    def __init__(
        self, pool: Executor, context: Context, jobs: int, say: Callable[[str], None]
    ) -> None:
        self.pool, self.context, self.jobs, self.say = pool, context, jobs, say
        self.running: dict[Future[tuple[float, str]], Task] = {}
        self.failed: dict[Key, str] = {}

    def run(self, tasks: Sequence[Task]) -> dict[Key, str]:
        pending = list(tasks)
        while pending or self.running:
            pending = self._start(pending)
            if not self.running:
                continue
            done, _ = wait(self.running, return_when=FIRST_COMPLETED)
            for future in done:
                task = self.running.pop(future)
                self.failed.update(_told(task.key, future.result(), self.say))
        return self.failed

    def _start(self, pending: list[Task]) -> list[Task]:
        """Starts what can be started, gives back what cannot yet."""
        unfinished = {task.key for task in (*pending, *self.running.values())}
        left, blocked = [], any(task.alone for task in self.running.values())
        for task in pending:
            if lost := _lost(task, self.failed):
                self.failed.update(lost)
                continue
            waits = blocked or len(self.running) >= self.jobs or unfinished & set(task.needs)
            if waits or (task.alone and self.running):
                # the machine is emptied for it: what comes later must not push in again and again
                blocked = blocked or (task.alone and not unfinished & set(task.needs))
                left.append(task)
            else:
                self.running[self.pool.submit(_perform, task, self.context)] = task
                blocked = task.alone
        return left


def _perform(task: Task, context: Context) -> tuple[float, str]:
    """Makes one result; gives its seconds, and its error or nothing."""
    start = time.perf_counter()
    try:
        record = task.measure(context, task.key)
    except Exception:  # one failure must not take an hour of other results with it
        return time.perf_counter() - start, traceback.format_exc()
    seconds = time.perf_counter() - start
    context.store.save(task.key, {"seconds": seconds, **record})
    return seconds, ""


def _told(key: Key, outcome: tuple[float, str], say: Callable[[str], None]) -> dict[Key, str]:
    seconds, error = outcome
    last = error.strip().splitlines()[-1] if error else "done"
    say(f"{key}: {last} ({seconds:.1f} s)")
    return {key: error} if error else {}


def _lost(task: Task, failed: Mapping[Key, str]) -> dict[Key, str]:
    """Why a task cannot be done any more."""
    for need in task.needs:
        if need in failed:
            return {task.key: f"needs {need}, which failed"}
    return {}


def _one_thread() -> None:
    torch.set_num_threads(1)
