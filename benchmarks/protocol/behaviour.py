"""Part 5: what the agent brings on the grid of commands, guarded by each and by none."""

__all__ = ["command_name", "measure"]

from functools import lru_cache
from typing import Any

import torch

from flowshield.envs import ContinuousEnvWrapper, make_env
from flowshield.evaluation import cell_record, evaluate_agent
from protocol import training
from protocol.contenders import load_shield
from protocol.schedule import Context
from protocol.store import Key

_ENV_SEED = 2000  # the same starts in every cell, whoever trained on what


def command_name(command: tuple[float, float]) -> str:
    """A command as part of a file's name."""
    return f"{command[0]:g}_{command[1]:g}"


def measure(context: Context, key: Key) -> dict[str, Any]:
    """One cell: a command, an agent, a guard."""
    n = context.settings.n_cell
    by_name = {command_name(command): command for command in context.settings.commands}
    agent = training.agent(context, key.dataset, key.seed)
    guard = None if key.model == "none" else load_shield(context, key)
    with torch.no_grad():
        cell = evaluate_agent(
            agent, _envs(n), by_name[key.detail], guard, n_episodes=n, seed=_ENV_SEED
        )
    record = cell_record(cell, None)
    del record["vs_none"]  # paired over all training seeds in the tables
    return {**record, "shield": key.model}


@lru_cache(maxsize=1)
def _envs(n: int) -> tuple[ContinuousEnvWrapper, ...]:
    return tuple(make_env("lunarlander") for _ in range(n))
