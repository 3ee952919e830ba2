"""The settings of a config as one row of a table."""

__all__ = ["hyperparameters"]

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

_PLACES = {"device", "log_dir", "n_threads", "num_workers", "ray", "run_dir", "tune", "use_wandb"}


def hyperparameters(config: DictConfig) -> dict[str, bool | int | float | str]:
    """Everything that a config sets, by dotted name; where it runs and logs is left out.

    Args:
        config: Resolved. Lists and nulls become text, since TensorBoard takes plain values alone.
    """
    tree: Any = OmegaConf.to_container(config, resolve=True)
    return dict(_flat({key: value for key, value in tree.items() if key not in _PLACES}))


def _flat(
    tree: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, bool | int | float | str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, bool | int | float | str):
            yield prefix + key, value
        else:
            yield prefix + key, "null" if value is None else str(value)
