"""The paired episodes of a certificate: the policy alone, and with a guard from the same starts."""

__all__ = ["certified_guard", "outcomes_of", "paired_losses", "would_replace"]

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from flowshield.evaluation.agent import EvaluatedEpisode
from flowshield.evaluation.certificate import Certificate, Outcomes, PairedLosses
from flowshield.models import BaseShield, OutcomeGuard, OutcomeModel

_ROWS = 256  # decisions that are predicted at a time


def certified_guard(
    certificate: Certificate,
    shield: BaseShield,
    outcome: OutcomeModel,
    *,
    every: int,
    n_candidates: int,
    projection: bool,
    name: str,
) -> OutcomeGuard:
    """The guard that a certificate speaks of, by its rule; without one it replaces nothing.

    Args:
        certificate: Says the intent, the unit of harm and the rule.
        shield: Gives the candidates.
        outcome: Predicts what the policy gets.
        every: Steps from one decision to the next, as certified.
        n_candidates: Samples at each decision, as certified.
        projection: Whether the projection is a candidate, as certified.
        name: What results call the guard.
    """
    rule = math.inf if certificate.chosen is None else certificate.chosen
    return OutcomeGuard(
        shield,
        outcome,
        certificate.intent,
        certificate.return_range,
        rule=rule,
        every=every,
        n_candidates=n_candidates,
        projection=projection,
        name=name,
    )


def would_replace(
    guard: OutcomeGuard, episodes: Sequence[EvaluatedEpisode], rules: Sequence[float]
) -> NDArray[np.bool_]:
    """Whether a guard, by each rule, replaces a command anywhere in episodes that ran without it.

    Up to its first replacement a guarded episode is the same as the one without a guard. So where
    there is none, nothing need be run again: the guard has done no harm there.

    Args:
        guard: Its own rule does not matter.
        episodes: Of the policy alone [n].
        rules: See `OutcomeGuard` [m].

    Returns:
        [m, n].
    """
    states, requests, owners = _decisions(episodes, guard.every)
    replaced = np.zeros((len(rules), len(episodes)), dtype=bool)
    for first in range(0, len(states), _ROWS):
        part = slice(first, first + _ROWS)
        state, request = (
            torch.as_tensor(array[part], device=guard.shield.device) for array in (states, requests)
        )
        found = guard.replaced_by(state, request, rules).cpu().numpy()
        for row, owner in enumerate(owners[part]):
            replaced[:, owner] |= found[:, row]
    return replaced


def outcomes_of(episodes: Sequence[EvaluatedEpisode]) -> Outcomes:
    """Returns, steps and failures of episodes."""
    failed = [episode.crashed for episode in episodes]
    known = all(flag is not None for flag in failed)
    return Outcomes(
        np.array([episode.episode.total_return for episode in episodes]),
        np.array([episode.episode.length for episode in episodes]),
        np.array(failed, dtype=bool) if known else None,
    )


def paired_losses(
    guard: OutcomeGuard,
    alone: Sequence[EvaluatedEpisode],
    replaces: NDArray[np.bool_],
    run: Callable[[list[EvaluatedEpisode]], Sequence[EvaluatedEpisode]],
) -> PairedLosses:
    """What a guard costs in the episodes of the policy alone.

    Args:
        guard: By the rule that is looked at.
        alone: Episodes without it [n].
        replaces: In which of them it replaces a command [n], from `would_replace`.
        run: Plays given ones again under the guard.
    """
    again = iter(run([episode for episode, hit in zip(alone, replaces, strict=True) if hit]))
    guarded = [next(again) if hit else e for e, hit in zip(alone, replaces, strict=True)]
    commands = np.array([episode.command for episode in alone])
    return PairedLosses.of(
        guard.intent, commands, outcomes_of(alone), outcomes_of(guarded), replaces
    )


def _decisions(
    episodes: Sequence[EvaluatedEpisode], every: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], list[int]]:
    """States and residual requests where a guard decides, and whose episode each is of.

    The residuals are rounded as `CommandedPolicy` rounds them, step by step.
    """
    states, requests, owners = [], [], list[int]()
    for owner, evaluated in enumerate(episodes):
        episode = evaluated.episode
        steps = np.arange(0, episode.length, every)
        passed = np.stack([np.ones(episode.length), episode.rewards], axis=1)
        left = np.cumsum(np.vstack([evaluated.command, -passed]).astype(np.float32), axis=0)
        left[:, 0] = np.maximum(left[:, 0], 1.0)
        states.append(episode.states[steps])
        requests.append(left[steps])
        owners += [owner] * len(steps)
    return np.concatenate(states), np.concatenate(requests), owners
