"""Shields and agents on data of every size: returns, rewards of another size, actuators.

    python benchmarks/scales.py                         # about ten minutes on one core
    python benchmarks/scales.py --shields mixture --epochs 4

Every case is made of the geometric chain, whose p(H, R | s) is known, so that what a command is
worth is known too. The tables say how far each shield is from the exact answer (AUROC against
Bayes), how often an impossible command is detected at a false-alarm rate of 5%, and how much of
the actions an agent explains.
"""

__all__ = ["main"]

import argparse
import itertools
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowshield.config import compose
from flowshield.data import TrajectoryDataset
from flowshield.envs import make_env
from flowshield.evaluation.metrics import auc_roc
from flowshield.evaluation.scoring import shield_limits, shield_scores
from flowshield.models import BaseShield
from flowshield.training import DataCollector, Trainer

_SHIELDS = ("quantile", "mixture", "diffusion", "flow_matching")
_N_TEST = 2000
_UNITS = (1e-6, 1.0, 1e6)

Arrays = dict[str, NDArray[np.float64]]
Row = dict[str, str]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints one table a case."""
    options = _arguments(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as options.scratch:
        for case in options.cases:
            print(f"\n### {_CASES[case].__doc__}\n", flush=True)
            _print(_CASES[case](options))


# ------------------------------------------------------------------ cases


def small_returns(options: argparse.Namespace) -> list[Row]:
    """Returns that deviate by 0.5 sqrt(H): AUROC, shield less Bayes, commands too high."""
    env = make_env("geometric_chain", reward_std=0.5)
    dataset = DataCollector(env).collect(options.episodes, seed=options.seed)
    states, commands = _held_out(env, options.seed)
    rows = []
    for name in options.shields:
        shield = _shield(dataset, name, options)
        row = {"shield": name, "noise": f"{shield.return_noise:g}"}
        for n in (2, 4):
            high = commands + np.stack([0 * commands[:, 0], n * 0.5 * commands[:, 0] ** 0.5], 1)
            ours = _auroc(
                shield_scores(shield, *_float32(states, commands)),
                shield_scores(shield, *_float32(states, high)),
            )
            exact = _without_noise(env).log_prob
            bayes = _auroc(exact(states, commands), exact(states, high))
            row |= {
                f"{n} deviations": f"{ours:.3f}",
                f"Bayes {n}": f"{bayes:.3f}",
                f"less Bayes {n}": f"{ours - bayes:+.3f}",
            }
        rows.append(row)
    return rows


def success(options: argparse.Namespace) -> list[Row]:
    """Returns of 0 or 1: flagged where R = 1 is sure, and the highest supported return there."""
    rows = []
    for unit in _UNITS:
        dataset = _dataset(_successes(options, unit), options)
        state = torch.tensor([[0.9, 0.0]] * 50)
        for name in options.shields:
            shield = _shield(dataset, name, options)
            row = {"shield": name, "unit": f"{unit:g}", "noise": f"{shield.return_noise:g}"}
            for r in (1.0, 0.5, 1.5, 2.0):
                asked = torch.tensor([[10.0, r * unit]]).expand(len(state), 2)
                row[f"R = {r:g}"] = f"{float(shield.is_ood(state, asked).double().mean()):.0%}"
            highest = shield.achievable(state[:1], [10.0]).returns
            rows.append(row | {"achievable": f"{float(highest) / unit:.3f}"})
    return rows


def outliers(options: argparse.Namespace) -> list[Row]:
    """Rewards of another size: detected of commands too high by 60 (false-alarm rate 5%)."""
    rows = []
    for what, spoil in (
        ("none", _nothing),
        ("3 glitches of 1e6", _glitches),
        ("penalty of -1000 in 3%", _penalties(0.03)),
        ("penalty of -1000 in 15%", _penalties(0.15)),
    ):
        arrays = spoil(_chain(options, drift=2.0, reward_std=5.0), np.random.default_rng(1))
        dataset = _dataset(arrays, options)
        env = make_env("geometric_chain", drift=2.0, reward_std=5.0)
        states, commands = _held_out(env, options.seed)
        for name in options.shields:
            shield = _shield(dataset, name, options)
            rows.append(
                {
                    "shield": name,
                    "outliers": what,
                    "false alarms": f"{_flagged(shield, states, commands):.1%}",
                    "+60": f"{_flagged(shield, states, commands + [0, 60]):.1%}",
                    "+1000": f"{_flagged(shield, states, commands + [0, 1000]):.1%}",
                }
            )
    return rows


def actuators(options: argparse.Namespace) -> list[Row]:
    """Small actions: share of the actions' variance that drawn and mean actions explain."""
    rows = []
    for bound in (1.0, 0.1, 1e-3, 1e-6, 1e3):
        arrays = _chain(options, drift=0.0, reward_std=1.0)
        rng = np.random.default_rng(0)
        s = arrays["states"]
        arrays["actions"] = bound * np.clip(
            0.6 * s[:, :1] + 0.05 * rng.normal(size=(len(s), 1)), -1, 1
        )
        dataset = _dataset(arrays, options, action_low=[-bound], action_high=[bound])
        config = compose(
            "train",
            [
                f"n_epochs={options.epochs}",
                "learning_rate=1e-3",
                *_SETTINGS,
                f"seed={options.seed}",
            ],
        )
        agent = _trainer(config, options).train_udrl(dataset)
        states, commands = torch.as_tensor(dataset.states), torch.as_tensor(dataset.commands)
        row = {"bounds": f"+-{bound:g}"}
        for kind, deterministic in (("drawn", False), ("mean", True)):
            torch.manual_seed(0)
            done = agent.sample(states, commands, deterministic=deterministic).detach().numpy()
            error = ((done - dataset.actions) ** 2).mean() / dataset.actions.var()
            row[kind] = f"{1 - error:.3f}"
        rows.append(row)
    return rows


_CASES: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    case.__name__: case for case in (small_returns, success, outliers, actuators)
}

# ------------------------------------------------------------------ data

_SETTINGS = ["batch_size=256", "early_stopping.patience=100", "use_wandb=false"]


def _chain(options: argparse.Namespace, **kwargs: float) -> Arrays:
    env = make_env("geometric_chain", **kwargs)
    data = DataCollector(env).collect(options.episodes, seed=options.seed)
    names = ("states", "actions", "rewards", "terminated", "truncated")
    return {name: np.array(getattr(data, name)) for name in names}


def _successes(options: argparse.Namespace, unit: float) -> Arrays:
    """The chain's episodes, with a last reward of 1 where the state's first number says so."""
    arrays = _chain(options)
    rng = np.random.default_rng(0)
    chance = 1 / (1 + np.exp(-8 * arrays["states"][:, 0]))
    arrays["rewards"] = unit * (arrays["terminated"] & (rng.random(len(chance)) < chance))
    return arrays


def _nothing(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    return arrays


def _glitches(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    arrays["rewards"][rng.choice(len(arrays["rewards"]), 3, replace=False)] += 1e6
    return arrays


def _penalties(share: float) -> Callable[[Arrays, np.random.Generator], Arrays]:
    def spoil(arrays: Arrays, rng: np.random.Generator) -> Arrays:
        hit = arrays["terminated"] & (rng.random(len(arrays["rewards"])) < share)
        arrays["rewards"] = np.where(hit, arrays["rewards"] - 1000.0, arrays["rewards"])
        return arrays

    return spoil


def _dataset(
    arrays: Arrays, options: argparse.Namespace, **metadata: list[float]
) -> TrajectoryDataset:
    return TrajectoryDataset.from_arrays(**arrays, metadata=metadata)


def _held_out(env: object, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """States and the commands that an episode from there fulfils, drawn from the exact answer."""
    rng = np.random.default_rng(seed + 1000)
    states = rng.uniform(-1.0, 1.0, (_N_TEST, 2))
    return states, env.known_answer.sample(states, rng)


def _without_noise(env: object) -> object:
    kwargs = {**env.make_kwargs, "return_noise": 1e-9}
    return make_env("geometric_chain", **kwargs).known_answer


# ------------------------------------------------------------------ measurements


def _shield(dataset: TrajectoryDataset, name: str, options: argparse.Namespace) -> BaseShield:
    config = compose(
        "train",
        [
            f"shield={name}",
            f"shield_epochs={options.epochs}",
            *_SETTINGS,
            f"seed={options.seed}",
            *options.override,
        ],
    )
    return _trainer(config, options).train_shield(dataset, name)


_NUMBERS = itertools.count()


def _trainer(config: Any, options: argparse.Namespace) -> Trainer:
    folder = f"{options.scratch}/{next(_NUMBERS)}"
    config.log_dir = f"{folder}/logs"
    return Trainer(config, checkpoint_dir=folder)


def _float32(*arrays: NDArray[np.float64]) -> list[NDArray[np.float32]]:
    return [array.astype(np.float32) for array in arrays]


def _flagged(
    shield: BaseShield, states: NDArray[np.float64], commands: NDArray[np.float64]
) -> float:
    s, g = _float32(states, commands)
    return float(np.mean(~(shield_scores(shield, s, g) >= shield_limits(shield, s))))


def _auroc(true: NDArray[np.float64], impossible: NDArray[np.float64]) -> float:
    return auc_roc(-impossible, -true)


def _print(rows: list[Row]) -> None:
    names = list(rows[0])
    print("| " + " | ".join(names) + " |\n|" + " --- |" * len(names))
    for row in rows:
        print("| " + " | ".join(row[name] for name in names) + " |")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=_CASES, default=list(_CASES))
    parser.add_argument("--shields", nargs="+", choices=_SHIELDS, default=list(_SHIELDS))
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--override", nargs="*", default=[], metavar="KEY=VALUE")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
