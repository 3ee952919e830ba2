"""How far a shield is from the truth, where the environment knows p(H, R | s) exactly."""

__all__ = ["contrast_commands", "evaluate_known_answer"]

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from flowshield.data import TrajectoryDataset
from flowshield.envs import GridworldAnswer, KnownAnswer, make_env
from flowshield.errors import ConfigError, DataError
from flowshield.evaluation.metrics import auc_roc
from flowshield.evaluation.scoring import shield_log_probs, shield_scores
from flowshield.models import BaseShield
from flowshield.models.scale import ReturnScale

_N_HORIZONS = 12  # at which the frontier is compared
# A horizon that is met little more often than the level asks for has its frontier at the very
# lowest return, from where it leaps: there an error of any size says nothing.
_MARGIN = 2.0
_TOLERANCE = 0.01  # deviations of the noise: how exact the dequantised law's frontier is


def evaluate_known_answer(
    shield: BaseShield,
    dataset: TrajectoryDataset,
    answer: KnownAnswer | None = None,
    *,
    n_states: int = 3000,
    level: float = 0.05,
    seed: int = 0,
) -> dict[str, float]:
    """Compares a shield with the exact distribution of the commands, at random held-out steps.

    Args:
        shield: A trained shield; it need not be calibrated.
        dataset: Held-out episodes of the uniformly random behaviour (`behaviour=random`).
        answer: The truth; None = that of the environment that the dataset names. Either is
            dequantised with the shield's own `return_noise`, whatever it was made with.
        n_states: Steps drawn (all, if there are fewer).
        level: The probability whose frontier is compared.
        seed: Of the draw of steps, of the dequantisation and of the contrast commands.

    Returns:
        * excess_nll: mean of exact minus modelled log p of the dequantised true commands, nats:
            the Kullback-Leibler divergence from the truth, 0 at best but for sampling noise;
            infinite where the model's log p is not finite at some row.
        * excess_nll_error: standard error of it, the rows taken for independent.
        * auroc: true commands against `contrast_commands` by the shield's score.
        * auroc_bayes: the same by the exact log p (or, for a shield that scores by achievability,
            the exact achievability). What no model of the behaviour need reach beyond.
        * frontier_error, frontier_error_worst: mean and largest distance of the shield's frontier
            from the exact one, in steps of the grid of returns (raw reward 1), over all states and
            up to 12 horizons each, those with P(H' <= h) of at least twice the level. Where the
            shield finds nothing, its frontier counts as one step below the lowest reachable return.
            NaN where the answer has no frontier or no such horizon.
        * frontier_within_step: share of these (state, horizon) with an error of at most one step.
        * frontier_dequantized_error, frontier_dequantized_error_worst,
            frontier_dequantized_within_step: the same against the exact frontier of the dequantised
            law, P(R' + noise >= R, H' <= h) = level, which is the law that a shield learns.
        * frontier_perfect_error, frontier_perfect_error_worst, frontier_perfect_within_step: how
            far that frontier itself is from the exact one. No model that is perfect at what it
            learns does better than this in the first three; where P hardly changes between two
            returns far apart and the level lies there, the noise moves the frontier by steps.

    Raises:
        ConfigError: The shield's noise on horizons is not the answer's: their densities are not
            comparable.
        DataError: The environment has no known answer, other behaviours are in the data, or the
            shield has no noise on returns, and its truth no density.
    """
    answer = _answer_of(dataset) if answer is None else answer
    _check_noise(shield, answer)
    answer = answer.with_noise(shield.return_noise)
    _check_behaviours(dataset)
    rng = np.random.default_rng(seed)
    steps = rng.choice(len(dataset), size=min(n_states, len(dataset)), replace=False)
    states, commands = dataset.states[steps], dataset.commands[steps]
    dequantized = answer.dequantize(commands, rng).astype(np.float32)
    excess = answer.log_prob(states, dequantized) - shield_log_probs(shield, states, dequantized)
    excess = np.where(np.isfinite(excess), excess, np.inf)
    finite = bool(np.isfinite(excess).all())
    return {
        "excess_nll": float(excess.mean()),
        "excess_nll_error": float(excess.std() / np.sqrt(len(excess))) if finite else np.inf,
        **_detection(shield, answer, states, commands, contrast_commands(commands, rng)),
        **_frontier_errors(shield, answer, dataset, level),
    }


def contrast_commands(
    commands: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Commands that overlap with the true ones without being them.

    Each row gets, evenly: the true command of another row, drawn at random, so that only the state
    tells; or its own with the return raised or lowered by two standard deviations of all returns;
    or its own in half the time (at least 1 step) with one standard deviation more. Where all
    returns are multiples of a number, these changes are too. Many of the commands the behaviour
    could well fulfil, so that the exact density itself is far from an AUROC of 1, and a model that
    ranks by something else than the density shows.

    Args:
        commands: True commands [n, 2], steps and raw return.
        rng: Where the draws come from.

    Returns:
        Commands [n, 2], whole horizons.
    """
    contrast, deviation = commands.copy(), float(commands[:, 1].std())
    grid = ReturnScale.of_commands(commands).grid

    def shift(size: ArrayLike) -> NDArray[np.float32]:
        values = np.asarray(size, np.float64)
        return (values if grid is None else grid * np.rint(values / grid)).astype(np.float32)

    kind = rng.integers(3, size=len(commands))
    contrast[kind == 0] = commands[rng.integers(len(commands), size=int((kind == 0).sum()))]
    sign = rng.choice([-1.0, 1.0], size=int((kind == 1).sum()))
    contrast[kind == 1, 1] += shift(2.0 * sign * deviation)
    contrast[kind == 2, 0] = np.ceil(commands[kind == 2, 0] / 2)
    contrast[kind == 2, 1] += shift(deviation)
    return contrast


def _detection(
    shield: BaseShield,
    answer: KnownAnswer,
    states: NDArray[np.float32],
    commands: NDArray[np.float32],
    contrast: NDArray[np.float32],
) -> dict[str, float]:
    exact = answer.log_prob if shield.score_type == "density" else answer.achievability
    return {
        "auroc": auc_roc(
            -shield_scores(shield, states, contrast), -shield_scores(shield, states, commands)
        ),
        "auroc_bayes": auc_roc(-exact(states, contrast), -exact(states, commands)),
    }


def _frontier_errors(
    shield: BaseShield, answer: KnownAnswer, dataset: TrajectoryDataset, level: float
) -> dict[str, float]:
    all_errors: list[NDArray[np.float64]] = []
    if isinstance(answer, GridworldAnswer):
        longest = min(float(np.quantile(dataset.commands[:, 0], 0.95)), answer.max_horizon)
        horizons = np.unique(np.rint(np.geomspace(1, longest, _N_HORIZONS)))
        for state in np.unique(dataset.states, axis=0):
            pairs = np.stack([horizons, np.full(len(horizons), -np.inf)], axis=1)
            met = answer.achievability(np.tile(state, (len(horizons), 1)), pairs)
            stable = horizons[met >= _MARGIN * level]
            if len(stable):
                exact = answer.frontier(state, level, stable).returns
                floor = _lowest_reachable(answer, state, stable) - 1.0
                found = np.fmax(_frontier(shield, state, stable, level), floor)
                learnt = _dequantized_frontier(answer, state, stable, level)
                rows = [found - exact, found - learnt, learnt - exact]
                all_errors.append(np.abs(rows))
    errors = np.concatenate([np.empty((3, 0)), *all_errors], axis=1)
    names = ("frontier", "frontier_dequantized", "frontier_perfect")
    return {k: v for name, e in zip(names, errors, strict=True) for k, v in _summary(name, e)}


def _dequantized_frontier(
    answer: GridworldAnswer, state: NDArray[np.float32], horizons: NDArray[np.float64], level: float
) -> NDArray[np.float64]:
    """Where P(R' + noise >= R, H' <= h) falls to the level, for each horizon [m], by bisection."""
    reach = 10.0 * answer.return_noise
    returns = answer.reachable(state)[:, 1]
    low = np.full(len(horizons), returns.min() - reach)
    high = np.full(len(horizons), returns.max() + reach)
    states = np.tile(state, (len(horizons), 1))
    tolerance = _TOLERANCE * answer.return_noise
    for _ in range(int(np.ceil(np.log2((high - low).max() / tolerance)))):
        middle = (low + high) / 2
        commands = np.stack([horizons, middle], axis=1)
        enough = answer.achievability(states, commands, noisy=True) >= level
        low, high = np.where(enough, middle, low), np.where(enough, high, middle)
    return low


def _summary(name: str, errors: NDArray[np.float64]) -> list[tuple[str, float]]:
    """Mean, worst and share within one step of errors [n]; NaN where there are none."""
    there = len(errors) > 0
    return [
        (f"{name}_error", float(errors.mean()) if there else float("nan")),
        (f"{name}_error_worst", float(errors.max()) if there else float("nan")),
        (f"{name}_within_step", float((errors <= 1.0).mean()) if there else float("nan")),
    ]


def _frontier(
    shield: BaseShield, state: NDArray[np.float32], horizons: NDArray[np.float64], level: float
) -> NDArray[np.float64]:
    device = shield.device
    frontier = shield.achievable(
        torch.as_tensor(state[None], device=device),
        horizons.tolist(),
        level=level,
        score_type="achievability",
    )
    returns: NDArray[np.float64] = frontier.returns[0].double().cpu().numpy()
    return returns


def _lowest_reachable(
    answer: GridworldAnswer, state: NDArray[np.float32], horizons: NDArray[np.float64]
) -> NDArray[np.float64]:
    pairs = answer.reachable(state)
    return np.array([pairs[pairs[:, 0] <= h, 1].min() for h in horizons], np.float64)


def _answer_of(dataset: TrajectoryDataset) -> KnownAnswer:
    name = dataset.metadata.get("env")
    env = make_env(name, **dataset.metadata.get("env_kwargs", {})) if name else None
    if env is None or env.known_answer is None:
        raise DataError(
            f"the environment {name!r} has no known answer: collect from geometric_chain or "
            "gridworld, or give an answer of your own"
        )
    return env.known_answer


def _check_noise(shield: BaseShield, answer: KnownAnswer) -> None:
    ours, theirs = float(shield.horizon_noise), answer.horizon_noise
    if ours != theirs:
        raise ConfigError(
            f"the shield models commands with horizon_noise={ours:g} and the known answer with "
            f"horizon_noise={theirs:g}: their densities differ by that alone; train the shield "
            f"with horizon_noise={theirs:g}"
        )


def _check_behaviours(dataset: TrajectoryDataset) -> None:
    others = sorted(set(dataset.behaviours.tolist()) - {"random", ""})
    if others:
        raise DataError(
            "a known answer holds for the uniformly random behaviour, and the dataset holds "
            f"episodes of {', '.join(others)}: collect with behaviour=random"
        )
