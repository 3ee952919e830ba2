"""Shields and agents on data of every size: returns, rewards of another size, actuators.

    python benchmarks/scales.py                                     # three seeds, about 15 minutes
    python benchmarks/scales.py --cases success --seeds 42 --shields mixture

Every case is made of the geometric chain, whose p(H, R | s) is known, so that the exact answer
stands beside the models'. Figures are means over the seeds; commands are those that held-out
episodes fulfil from one random step each.
"""

__all__ = ["main"]

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig

from flowshield.config import compose
from flowshield.data import TrajectoryDataset
from flowshield.envs import EnvWrapper, KnownAnswer, make_env
from flowshield.evaluation.metrics import auc_roc
from flowshield.evaluation.scoring import shield_limits, shield_scores
from flowshield.models import BaseShield
from flowshield.training import DataCollector, Trainer

_SHIELDS = ("quantile", "mixture", "diffusion", "flow_matching")
_ALPHA = 0.05
_WIDE = {"drift": 2.0, "reward_std": 5.0}  # a chain whose returns are of LunarLander's size
_PENALTY = -1000.0
_SETTINGS = ("batch_size=256", "early_stopping.patience=100")

Floats = NDArray[np.float64]
Arrays = dict[str, Floats]
Score = Callable[[Floats, Floats], Floats]


class Figures(NamedTuple):
    """A row of a table: what it is of, and what was measured."""

    of: dict[str, str]
    measured: dict[str, float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints one table per case."""
    options = _arguments(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.cases:
            trained = _Training(options, folder)
            rows = [list(_CASES[name](trained, seed)) for seed in options.seeds]
            print(f"\n### {_CASES[name].__doc__}\n\n{_table(rows)}", flush=True)


class _Training:
    """Trains what a case asks for."""

    def __init__(self, options: argparse.Namespace, folder: str) -> None:
        self.shields, self.episodes, self.epochs = options.shields, options.episodes, options.epochs
        self._folders = (f"{folder}/{i}" for i in itertools.count())

    def shields_of(self, dataset: TrajectoryDataset, seed: int) -> Iterator[tuple[str, BaseShield]]:
        for name in self.shields:
            config = compose("train", [f"shield={name}", f"seed={seed}", *_SETTINGS])
            yield name, self._trainer(config).train_shield(dataset, name, self.epochs)

    def agent(self, dataset: TrajectoryDataset, seed: int) -> Any:
        config = compose("train", [f"seed={seed}", "learning_rate=1e-3", *_SETTINGS])
        return self._trainer(config).train_udrl(dataset, self.epochs)

    def _trainer(self, config: DictConfig) -> Trainer:
        config.log_dir = next(self._folders)
        return Trainer(config)


# ------------------------------------------------------------------ cases


def small_returns(training: _Training, seed: int) -> Iterator[Figures]:
    """Returns that deviate by 0.5 sqrt(H): AUROC of commands 2 and 4 deviations too high."""
    env = make_env("geometric_chain", reward_std=0.5)
    states, commands = _random_steps(_dataset(_chain(env, training.episodes, seed + 1000)), seed)
    deviation = np.stack([0 * commands[:, 0], 0.5 * np.sqrt(commands[:, 0])], axis=1)
    exact = _exact(env).log_prob

    def auroc(score: Score, n: int) -> float:
        high = score(states, commands + n * deviation)
        return auc_roc(-high, -score(states, commands))

    bayes = {n: auroc(exact, n) for n in (2, 4)}
    dataset = _dataset(_chain(env, training.episodes, seed))
    for name, shield in training.shields_of(dataset, seed):
        found = {n: auroc(_score(shield), n) for n in bayes}
        measured = {"noise": shield.return_noise}
        for n, value in found.items():
            measured |= {f"{n} deviations": value, f"less Bayes ({n})": value - bayes[n]}
        yield Figures({"shield": name}, measured)


def success(training: _Training, seed: int) -> Iterator[Figures]:
    """Returns of 0 or 1 unit: share flagged where 1 is sure, and the highest supported return."""
    env = make_env("geometric_chain")
    states = torch.tensor([[0.9, 0.0]]) + torch.linspace(-0.1, 0.1, 50)[:, None]
    for unit in (1e-6, 1.0, 1e6):
        dataset = _dataset(_successes(_chain(env, training.episodes, seed), unit, seed))
        for name, shield in training.shields_of(dataset, seed):
            measured = {"noise / unit": shield.return_noise / unit}
            for ret in (1.0, 0.5, 1.5, 2.0):
                asked = torch.tensor([[10.0, ret * unit]]).expand(len(states), 2)
                flagged = shield.is_ood(states, asked).double().mean()
                measured[f"R = {ret:g}"] = float(flagged)
            highest = shield.achievable(states, [10.0]).returns.median()
            measured["achievable / unit"] = float(highest) / unit
            yield Figures({"unit": f"{unit:g}", "shield": name}, measured)


def outliers(training: _Training, seed: int) -> Iterator[Figures]:
    """Rewards of another size: share flagged of true commands and of ones that are too high."""
    env = make_env("geometric_chain", **_WIDE)
    clean = _chain(env, training.episodes, seed + 1000)
    for what, share in (("none", 0.0), ("3 glitches of 1e6", None), ("-1000 in 3%", 0.03),
                        ("-1000 in 15%", 0.15)):  # fmt: skip
        spoil = _with_glitches if share is None else _with_penalties(share)
        steps = _random_steps(_dataset(clean), seed)
        reference = _random_steps(_dataset(spoil(clean, seed + 1)), seed)
        bayes = _exact_with_penalties(env, share or 0.0)
        limit = np.quantile(bayes(*reference), _ALPHA)
        yield Figures({"outliers": what, "shield": "exact"}, _flagged(bayes, limit, *steps))
        dataset = _dataset(spoil(_chain(env, training.episodes, seed), seed))
        for name, shield in training.shields_of(dataset, seed):
            limits = shield_limits(shield, steps[0].astype(np.float32))
            yield Figures(
                {"outliers": what, "shield": name}, _flagged(_score(shield), limits, *steps)
            )


def constant_reward(training: _Training, seed: int) -> Iterator[Figures]:
    """A constant in every reward: share flagged of true commands and of ones that are too high."""
    env = make_env("geometric_chain", **_WIDE)
    arrays = _chain(env, training.episodes, seed)
    states, commands = _random_steps(_dataset(_chain(env, training.episodes, seed + 1000)), seed)
    limit = np.quantile(_exact(env).log_prob(states, commands), _ALPHA)
    yield Figures(
        {"constant": "any", "shield": "exact"},
        {"noise": 0.0, **_flagged(_exact(env).log_prob, limit, states, commands)},
    )
    for constant in (0.0, 10.0, 100.0, -1000.0):
        dataset = _dataset({**arrays, "rewards": arrays["rewards"] + constant})
        asked = commands + np.stack([0 * commands[:, 0], constant * commands[:, 0]], axis=1)
        for name, shield in training.shields_of(dataset, seed):
            limits = shield_limits(shield, states.astype(np.float32))
            yield Figures(
                {"constant": f"{constant:g}", "shield": name},
                {
                    "noise": shield.return_noise,
                    **_flagged(_score(shield), limits, states, asked),
                },
            )


def actuators(training: _Training, seed: int) -> Iterator[Figures]:
    """Actions within small bounds: share of their variance that an agent's actions explain."""
    arrays = _chain(make_env("geometric_chain"), training.episodes, seed)
    noise = np.random.default_rng(seed).normal(size=(len(arrays["states"]), 1))
    actions = np.clip(0.6 * arrays["states"][:, :1] + 0.05 * noise, -1.0, 1.0)
    for bound in (1.0, 0.1, 1e-3, 1e-6, 1e3):
        arrays["actions"] = bound * actions
        dataset = _dataset(arrays, action_low=[-bound], action_high=[bound])
        agent = training.agent(dataset, seed)
        states, commands = torch.tensor(dataset.states), torch.tensor(dataset.commands)
        measured = {}
        for kind, deterministic in (("drawn", False), ("mean", True)):
            torch.manual_seed(seed)
            done = agent.sample(states, commands, deterministic=deterministic).detach().numpy()
            error = np.mean((done.astype(float) - dataset.actions) ** 2)
            measured[kind] = 1.0 - error / dataset.actions.astype(float).var()
        yield Figures({"bounds": f"±{bound:g}"}, measured)


_CASES: dict[str, Callable[[_Training, int], Iterator[Figures]]] = {
    case.__name__: case for case in (small_returns, success, outliers, constant_reward, actuators)
}


# ------------------------------------------------------------------ data


def _chain(env: EnvWrapper, n_episodes: int, seed: int) -> Arrays:
    data = DataCollector(env).collect(n_episodes, seed=seed)
    names = ("states", "actions", "rewards", "terminated", "truncated")
    return {name: np.array(getattr(data, name)) for name in names}


def _dataset(arrays: Arrays, **metadata: list[float]) -> TrajectoryDataset:
    return TrajectoryDataset.from_arrays(**arrays, metadata=metadata)


def _random_steps(dataset: TrajectoryDataset, seed: int) -> tuple[Floats, Floats]:
    """State and fulfilled command of one random step per episode."""
    place = np.random.default_rng(seed).random(dataset.n_episodes) * dataset.episode_lengths
    steps = dataset.episode_starts + place.astype(np.intp)
    return dataset.states[steps].astype(float), dataset.commands[steps].astype(float)


def _successes(arrays: Arrays, unit: float, seed: int) -> Arrays:
    """One unit at the end of an episode, likelier the larger the state's first number is."""
    chance = 1.0 / (1.0 + np.exp(-8.0 * arrays["states"][:, 0]))
    won = np.random.default_rng(seed).random(len(chance)) < chance
    return {**arrays, "rewards": unit * (arrays["terminated"] & won)}


def _with_glitches(arrays: Arrays, seed: int) -> Arrays:
    rewards = arrays["rewards"].copy()
    rewards[np.random.default_rng(seed).choice(len(rewards), 3, replace=False)] += 1e6
    return {**arrays, "rewards": rewards}


def _with_penalties(share: float) -> Callable[[Arrays, int], Arrays]:
    def spoiled(arrays: Arrays, seed: int) -> Arrays:
        drawn = np.random.default_rng(seed).random(len(arrays["rewards"])) < share
        penalty = _PENALTY * (arrays["terminated"] & drawn)
        return {**arrays, "rewards": arrays["rewards"] + penalty}

    return spoiled


# ------------------------------------------------------------------ scores


def _exact(env: EnvWrapper) -> KnownAnswer:
    """The known answer, all but without noise on returns."""
    answer = make_env("geometric_chain", **{**env.make_kwargs, "return_noise": 1e-9}).known_answer
    assert answer is not None
    return answer


def _exact_with_penalties(env: EnvWrapper, share: float) -> Score:
    exact = _exact(env).log_prob

    def score(states: Floats, commands: Floats) -> Floats:
        with np.errstate(divide="ignore"):
            hit = np.log(share) + exact(states, commands - [0.0, _PENALTY])
        both: Floats = np.logaddexp(np.log1p(-share) + exact(states, commands), hit)
        return both

    return score


def _score(shield: BaseShield) -> Score:
    return lambda s, g: shield_scores(shield, s.astype(np.float32), g.astype(np.float32))


def _flagged(score: Score, limit: Any, states: Floats, commands: Floats) -> dict[str, float]:
    """Share flagged of the commands as they are, and with more return than they brought."""
    asked = {"true": 0.0, "+60": 60.0, "+1000": 1000.0}
    return {
        name: float(np.mean(score(states, commands + [0.0, more]) < limit))
        for name, more in asked.items()
    }


# ------------------------------------------------------------------ output


def _table(seeds: list[list[Figures]]) -> str:
    """Means over the seeds, in Markdown."""
    first = seeds[0]
    lines = ["| " + " | ".join((*first[0].of, *first[0].measured)) + " |"]
    lines.append("|" + " --- |" * len(first[0].of) + " ---: |" * len(first[0].measured))
    for rows in zip(*seeds, strict=True):
        means = {key: np.mean([row.measured[key] for row in rows]) for key in rows[0].measured}
        values = [f"{mean:.3g}" for mean in means.values()]
        lines.append("| " + " | ".join((*rows[0].of.values(), *values)) + " |")
    return "\n".join(lines)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=_CASES, default=list(_CASES))
    parser.add_argument("--shields", nargs="+", choices=_SHIELDS, default=list(_SHIELDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    parser.add_argument("--episodes", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=8)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
