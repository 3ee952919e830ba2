"""What each config value may be: its type, its range, its choices.

The packaged YAML is the schema: a value's type is the type of the default it replaces. The tables
below add what YAML cannot say. Keys are dotted and may hold wildcards (`shield.*.n_steps`).
"""

__all__ = [
    "CHOICES",
    "DERIVED",
    "FREE_KEYS",
    "PATH_KEYS",
    "RANGES",
    "check_commands",
    "check_key",
    "check_shares",
    "checked_value",
    "flatten",
    "several_values",
]

import difflib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple, TypeVar

from flowshield.errors import ConfigError, unknown_name
from flowshield.paths import expanded
from flowshield.shell import command_line

Row = TypeVar("Row")

FREE_KEYS: Final = ("env.kwargs", "env.commands", "behaviour.components", "tune.space")
"""Lists and mappings whose content belongs to the user and is not checked here."""

PATH_KEYS: Final = ("run_dir", "data.path", "log_dir")
"""Paths or addresses: taken as they are typed, with `~` for the home folder."""

_LISTS: Final = ("shield", "ray.num_workers", *FREE_KEYS)  # may be given several values

DERIVED: Final = (
    "env.return_step",
    "evaluation.bound_margin",
    "evaluation.followed.return_tolerance",
    "shield.*.return_noise",
)
"""Keys for which null means: derived from the data, where older releases had a number."""

# Where the packaged default does not tell the type: (type, may be null).
_TYPES: Final[dict[str, tuple[type, bool]]] = {
    "run_dir": (str, True),
    "data.path": (str, True),
    "ray.rollout_workers": (int, True),
    "ray.chunk_episodes": (int, True),
    "ray.use_gpu": (bool, True),
    "env.return_step": (float, True),
    "evaluation.bound_margin": (float, True),
    "evaluation.deterministic": (bool, False),
    "evaluation.followed.return_tolerance": (float, True),
    "optimizer.gradient_clip": (float, True),
    "optimizer.ema_decay": (float, True),
    "scheduler.warmup_epochs": (float, False),
    "scheduler.step_epochs": (float, False),
    "shield.*.return_noise": (float, True),
    "tune.reduction_factor": (float, False),
    "tune.max_concurrent": (int, True),
}

CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "data.commands": ("remaining", "future"),
    "guard.kind": ("outcome", "support", "none"),
    "guard.intent": ("at_least", "exact"),
    "calibration.unit": ("step", "episode"),
    "calibration.score": ("density", "achievability"),
    "model.activation": ("silu", "relu", "gelu", "tanh", "elu"),
    "scheduler.type": ("cosine", "linear", "step", "plateau", "constant"),
    "shield.*.beta_schedule": ("linear", "cosine", "quadratic"),
    "shield.*.solver": ("euler", "midpoint", "rk4", "dopri5"),
    "tune.search": ("random", "optuna"),
    "tune.scheduler": ("asha", "none"),
}


class _Range(NamedTuple):
    words: str
    holds: Callable[[float], bool]


_AT_LEAST_MINUS_1: Final = _Range("at least -1", lambda value: value >= -1)
_AT_LEAST_0: Final = _Range("at least 0", lambda value: value >= 0)
_AT_LEAST_1: Final = _Range("at least 1", lambda value: value >= 1)
_AT_LEAST_2: Final = _Range("at least 2", lambda value: value >= 2)
_BETWEEN_2_AND_256: Final = _Range("between 2 and 256", lambda value: 2 <= value <= 256)
_SEED: Final = _Range("at least 0 and below 2**63", lambda value: 0 <= value < 2**63)
_EVEN: Final = _Range("even and at least 2", lambda value: value >= 2 and value % 2 == 0)
_POSITIVE: Final = _Range("above 0", lambda value: value > 0)
_INSIDE_0_1: Final = _Range("above 0 and below 1", lambda value: 0 < value < 1)
_BELOW_1: Final = _Range("at least 0 and below 1", lambda value: 0 <= value < 1)
_SHARE: Final = _Range("between 0 and 1", lambda value: 0 <= value <= 1)
_HALF: Final = _Range("above 0 and at most 0.5", lambda value: 0 < value <= 0.5)
_ABOVE_1: Final = _Range("above 1", lambda value: value > 1)
_FACTOR: Final = _Range("above 0 and at most 1", lambda value: 0 < value <= 1)

RANGES: Final[dict[str, _Range]] = {
    "seed": _SEED,
    "n_epochs": _AT_LEAST_1,
    "shield_epochs": _AT_LEAST_1,
    "batch_size": _AT_LEAST_1,
    "learning_rate": _POSITIVE,
    "checkpoint_every": _AT_LEAST_1,
    "num_workers": _AT_LEAST_0,
    "ray.rollout_workers": _AT_LEAST_1,
    "ray.cpus_per_worker": _POSITIVE,
    "ray.gpus_per_worker": _FACTOR,
    "ray.envs_per_worker": _AT_LEAST_1,
    "ray.chunk_episodes": _AT_LEAST_1,
    "ray.max_failures": _AT_LEAST_MINUS_1,
    "ray.resident_bytes": _AT_LEAST_0,
    "n_threads": _AT_LEAST_1,
    "data.n_episodes": _AT_LEAST_1,
    "data.split.*": _INSIDE_0_1,
    "env.return_step": _POSITIVE,
    "guard.boldest": _AT_LEAST_0,
    "guard.every": _AT_LEAST_1,
    "guard.n_candidates": _AT_LEAST_1,
    "probe.n_episodes": _AT_LEAST_2,
    "probe.validation": _INSIDE_0_1,
    "probe.n_steps": _AT_LEAST_1,
    "certificate.n_episodes": _AT_LEAST_1,
    "certificate.epsilon": _HALF,
    "certificate.delta": _INSIDE_0_1,
    "evaluation.n_episodes": _AT_LEAST_1,
    "evaluation.n_states": _AT_LEAST_1,
    "evaluation.bound_margin": _POSITIVE,
    "evaluation.explorer.n_episodes": _AT_LEAST_0,
    "evaluation.explorer.n_moments": _AT_LEAST_1,
    "evaluation.explorer.n_requests": _AT_LEAST_2,
    "evaluation.followed.n_starts": _AT_LEAST_1,
    "evaluation.followed.n_commands": _BETWEEN_2_AND_256,
    "evaluation.followed.return_tolerance": _POSITIVE,
    "model.hidden_dim": _AT_LEAST_1,
    "model.n_layers": _AT_LEAST_1,
    "optimizer.weight_decay": _AT_LEAST_0,
    "optimizer.gradient_clip": _POSITIVE,
    "optimizer.ema_decay": _INSIDE_0_1,
    "scheduler.warmup_epochs": _AT_LEAST_0,
    "scheduler.final_factor": _SHARE,
    "scheduler.step_epochs": _POSITIVE,
    "scheduler.step_factor": _FACTOR,
    "scheduler.patience": _AT_LEAST_0,
    "early_stopping.patience": _AT_LEAST_1,
    "early_stopping.min_delta": _AT_LEAST_0,
    "calibration.alpha": _INSIDE_0_1,
    "calibration.groups": _AT_LEAST_1,
    "projection.n_candidates": _AT_LEAST_1,
    "projection.n_steps": _AT_LEAST_0,
    "projection.lr": _FACTOR,
    "projection.horizon_weight": _AT_LEAST_0,
    "projection.typicality": _BELOW_1,
    "shield.*.learning_rate": _POSITIVE,
    "shield.*.hidden_dim": _AT_LEAST_1,
    "shield.*.field_dim": _AT_LEAST_1,
    "shield.*.n_layers": _AT_LEAST_1,
    "shield.*.time_embed_dim": _EVEN,
    "shield.*.dropout": _BELOW_1,
    "shield.*.ddim_steps": _AT_LEAST_1,
    "shield.*.n_timesteps": _AT_LEAST_2,
    "shield.*.n_quantiles": _AT_LEAST_2,
    "shield.*.n_components": _AT_LEAST_1,
    "shield.*.tolerance": _POSITIVE,
    "shield.*.tau": _INSIDE_0_1,
    "shield.*.n_steps": _AT_LEAST_1,
    "shield.*.horizon_noise": _AT_LEAST_0,
    "shield.*.return_noise": _AT_LEAST_0,
    "tune.n_samples": _AT_LEAST_1,
    "tune.grace_epochs": _AT_LEAST_1,
    "tune.reduction_factor": _ABOVE_1,
    "tune.max_concurrent": _AT_LEAST_1,
}

_WORDS: Final[dict[type, str]] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Lists a nested mapping's leaves under dotted keys.

    What lies below `FREE_KEYS` is one leaf; so is an empty mapping.
    """
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and key not in FREE_KEYS:
            leaves |= flatten(value, f"{key}.")
        else:
            leaves[key] = value
    return leaves


def check_key(key: str, known: Iterable[str]) -> None:
    """Checks that a dotted key is among the known ones, or a section that holds some.

    Raises:
        ConfigError: No such key; the message lists the near ones and what its section holds.
    """
    known = list(known)
    if key in known or any(other.startswith(f"{key}.") for other in known):
        return
    leaf = next((other for other in known if key.startswith(f"{other}.")), None)
    if leaf is not None:
        raise ConfigError(f"config key {leaf!r} is a value and holds no keys: got {key!r}")
    near = _near(key, known)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    section, names = _neighbours(key, known)
    raise ConfigError(f"unknown config key {key!r}: {hint}{section} holds {', '.join(names)}")


def checked_value(key: str, value: Any, default: Any) -> Any:
    """Checks one leaf's type, range and choice.

    Args:
        key: Its dotted key.
        value: What the user gave.
        default: What the packaged config holds there; its type is the type expected.

    Returns:
        The value; an integer given for a number becomes a float, a path becomes text.

    Raises:
        ConfigError: Another type, out of range, or not among the choices.
    """
    if key == "ray.num_workers":
        return _worker_range(value)
    kind, nullable = _lookup(_TYPES, key) or (type(default), default is None)
    if value is None and nullable:
        return None
    value = _converted(value, kind)
    if isinstance(value, list) and kind is not list:
        raise several_values(key, _shown(value), list(map(str, value)))
    if type(value) is not kind:
        expected = _WORDS[kind] + (" or null" if nullable else "")
        raise ConfigError(f"config key {key!r}: expected {expected}, got {_shown(value)}")
    if key in PATH_KEYS:
        return _path(key, str(value))
    _check_range(key, value)
    choices = _lookup(CHOICES, key)
    if choices is not None and value not in choices:
        raise unknown_name(f"value of config key {key!r}:", value, choices)
    return value


def _path(key: str, value: str) -> str:
    try:
        return expanded(value)
    except ConfigError as error:
        raise ConfigError(f"config key {key!r}: {error}") from error


def several_values(key: str, got: str, values: Sequence[str]) -> ConfigError:
    """What to say where one key is given several values.

    Args:
        key: Its dotted key, or the name of a group.
        got: What was given, as it was typed.
        values: Each of them; none where they are not known.
    """
    if key in _LISTS or key.startswith(tuple(f"{free}." for free in FREE_KEYS)):
        listed = command_line(f"{key}=[{','.join(values) or '...'}]")
        return ConfigError(
            f"config key {key!r}: expected one value or a list, got {got}: a list stands in "
            f"brackets and in quotes, {listed}"
        )
    loop = f"for value in {command_line(*values)}; do flowshield run {key}=$value; done"
    return ConfigError(
        f"config key {key!r}: expected one value, got several, {got}: a run has one"
        + (f", and this makes a run of each: {loop}" if values else "")
    )


def _worker_range(value: Any) -> Any:
    """A number of workers, the least and the most, or null."""
    numbers = value if isinstance(value, list) else [value]
    whole = all(type(number) is int and number >= 0 for number in numbers)
    ordered = not isinstance(value, list) or (len(value) == 2 and 1 <= value[0] <= value[1])
    if value is None or (whole and ordered):
        return value
    raise ConfigError(
        "config key 'ray.num_workers': expected null, a whole number of at least 0, or the least "
        f"and the most, such as 'ray.num_workers=[1,4]', got {value!r}"
    )


def check_shares(shares: Mapping[str, float]) -> None:
    """Checks that the shares of the episode split make a whole, within 1e-6.

    Raises:
        ConfigError: They sum to something else than 1.
    """
    total = math.fsum(shares.values())
    if abs(total - 1) > 1e-6:
        listed = " + ".join(f"{name} {share:g}" for name, share in shares.items())
        raise ConfigError(
            f"config key 'data.split': expected shares that sum to 1, got {listed} = {total:g}; "
            "change them together"
        )


def check_commands(commands: Any) -> None:
    """Checks that the grid is a list of different (horizon, return) pairs.

    Raises:
        ConfigError: It is not; the message shows the first pair that is none.
    """
    pairs = commands if isinstance(commands, list) else [commands]
    seen: list[list[float]] = []
    for pair in pairs:
        numbers = isinstance(pair, list) and all(type(x) in (int, float) for x in pair)
        if not numbers or len(pair) != 2 or not math.isfinite(pair[1]) or not pair[0] >= 1:
            raise ConfigError(
                "config key 'env.commands': expected pairs [horizon of at least 1 step, return], "
                f"got {pair!r}"
            )
        if pair in seen:
            raise ConfigError(f"config key 'env.commands': {pair!r} is there twice")
        seen.append(pair)
    if not seen:
        raise ConfigError("config key 'env.commands': expected at least one command, got none")


def _check_range(key: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"config key {key!r}: expected a finite number, got {value}")
    bounds = _lookup(RANGES, key)
    if bounds is not None and not bounds.holds(value):
        raise ConfigError(f"config key {key!r}: expected a value {bounds.words}, got {value}")


def _converted(value: Any, kind: type) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def _shown(value: Any) -> str:
    # An integral float or a quoted number is the usual slip: show the type beside the value.
    return "null" if value is None else f"{value!r} ({type(value).__name__})"


def _lookup(table: Mapping[str, Row], key: str) -> Row | None:
    return next((row for pattern, row in table.items() if fnmatchcase(key, pattern)), None)


def _near(key: str, known: list[str]) -> list[str]:
    """Keys spelt alike, or whose last part is spelt like this one's (a forgotten section)."""
    last = key.rpartition(".")[2]
    lasts = difflib.get_close_matches(last, {name.rpartition(".")[2] for name in known}, 2, 0.75)
    moved = [name for name in known if name.rpartition(".")[2] in lasts]
    alike = difflib.get_close_matches(key, known, n=3, cutoff=0.75)
    return list(dict.fromkeys(alike + moved))[:4]


def _neighbours(key: str, known: list[str]) -> tuple[str, list[str]]:
    """The deepest section that exists on the way to `key`, in words, and the names in it."""
    section = key
    while section:
        section = section.rpartition(".")[0]
        inside = [name for name in known if name.startswith(f"{section}." if section else "")]
        if inside:
            break
    start = len(section) + 1 if section else 0
    names = sorted({name[start:].partition(".")[0] for name in inside})
    return (repr(section) if section else "the config"), names
