"""Loops over Gymnasium environments as one would write them: what nothing around them undercuts."""

__all__ = ["BareLoop", "BareProcesses"]

import multiprocessing
from multiprocessing.connection import Connection
from typing import Self

import numpy as np

from collecting.contender import Stepping
from collecting.lander import make_lander
from collecting.policies import batch_policy


class BareLoop(Stepping):
    """One process: environments stepped one after the other, one call of the policy for all.

    Args:
        policy: "random" or "network".
        n_envs: Environments.
        seed: Of the resets and of the random policy.
    """

    def __init__(self, policy: str, n_envs: int = 1, seed: int = 0) -> None:
        self._policy, self._n_envs, self._seed = policy, n_envs, seed

    def __enter__(self) -> Self:
        """Makes environments and policy."""
        self._act = batch_policy(self._policy, self._seed)
        self._envs = [make_lander() for _ in range(self._n_envs)]
        starts = [env.reset(seed=self._seed + i)[0] for i, env in enumerate(self._envs)]
        self._states = np.stack(starts).astype(np.float32)
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the environments."""
        for env in self._envs:
            env.close()

    def advance(self) -> int:
        """A step of every environment."""
        actions = self._act(self._states)
        for i, env in enumerate(self._envs):
            state, _, terminated, truncated, _ = env.step(actions[i])
            self._states[i] = env.reset()[0] if terminated or truncated else state
        return len(self._envs)


class BareProcesses:
    """Processes with a `BareLoop` each that know nothing of each other: the machine's ceiling.

    Args:
        policy: "random" or "network".
        n_processes: Processes.
        n_envs: Environments of each.
    """

    def __init__(self, policy: str, n_processes: int, n_envs: int) -> None:
        self._loops = [BareLoop(policy, n_envs, 1000 * i) for i in range(n_processes)]

    def __enter__(self) -> Self:
        """Starts the processes."""
        context = multiprocessing.get_context("spawn")  # what Ray started does not survive a fork
        self._running: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []
        for loop in self._loops:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(loop, theirs), daemon=True)
            process.start()
            self._running.append((process, ours))
        for _, pipe in self._running:
            pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the processes."""
        for process, pipe in self._running:
            pipe.send(None)
            process.join()

    def speed(self, seconds: float) -> float:
        """Sum of their speeds."""
        for _, pipe in self._running:
            pipe.send(seconds)
        return float(sum(pipe.recv() for _, pipe in self._running))


def _serve(loop: BareLoop, pipe: Connection) -> None:
    with loop:
        pipe.send(None)
        while (seconds := pipe.recv()) is not None:
            pipe.send(loop.speed(seconds))
