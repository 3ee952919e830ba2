"""Model files: hyperparameters and weights, read without executing anything from the file."""

__all__ = ["FORMAT_VERSIONS", "load_payload", "rebuilding", "rebuilt", "save_payload"]

import io
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from flowshield.atomic import atomic_write
from flowshield.errors import ConfigError, FileFormatError
from flowshield.models.file_inspection import inspected
from flowshield.paths import expanded

Model = TypeVar("Model", bound=nn.Module)

# A shield's file holds its calibration since version 2, and with it a checkpoint's. Since the next
# version of all of them columns may be bent, and an agent's actions have a unit of their own.
FORMAT_VERSIONS = {
    "agent": 2,
    "weights": 2,
    "fit": 2,
    "shield": 3,
    "checkpoint": 3,
    "outcome": 1,
}
_ALSO_READ = {"agent": 1, "weights": 1, "shield": 2, "checkpoint": 2}
# Buffers that older files lack, and the value with which a model acts as it did then.
_SINCE = {
    "knots": math.inf,
    "heights": math.inf,
    "reward_per_step": 0.0,
    "action_center": 0.0,
    "action_scale": 1.0,
}


def save_payload(path: str | os.PathLike[str], kind: str, payload: dict[str, Any]) -> None:
    """Writes tensors and plain containers to `path`, whole or not at all.

    Args:
        path: The file, by custom `.pt`.
        kind: What the file is, one of `FORMAT_VERSIONS`; `load_payload` insists on it.
        payload: Tensors, numbers, strings, and lists and dicts of these.

    Raises:
        OSError: The folder cannot be written to, or the disk is full; an old file stays.
    """
    # by way of memory: on a full disk torch.save raises a RuntimeError about file positions
    buffer = io.BytesIO()
    torch.save({"format_version": FORMAT_VERSIONS[kind], "kind": kind, **payload}, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def load_payload(
    path: str | os.PathLike[str], kind: str, *, device: str | torch.device = "cpu"
) -> dict[str, Any]:
    """Reads what `save_payload` wrote, with `weights_only=True`.

    Raises:
        ConfigError: The device is CUDA and there is none.
        FileNotFoundError: There is no such file.
        FileFormatError: The file is truncated, foreign, of another kind or another version.
    """
    path = expanded(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"no {kind} file at {path}: check the path, or train first")
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"cannot load {path} to {device}: this machine has no usable CUDA device")
    content = Path(path).read_bytes()
    try:
        payload = torch.load(inspected(content), map_location=device, weights_only=True)
    except Exception as e:  # damaged bytes make torch.load raise almost anything, OSError too
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise FileFormatError(
            f"{path} is not a readable flowshield {kind} file (truncated or foreign): {reason}"
        ) from e
    if not isinstance(payload, dict) or "format_version" not in payload:
        raise FileFormatError(f"{path} was not written by flowshield: no format version in it")
    if payload.get("kind") != kind:
        raise FileFormatError(f"{path} holds a {payload.get('kind')!r:.40}, expected a {kind!r}")
    if payload["format_version"] not in (FORMAT_VERSIONS[kind], _ALSO_READ.get(kind)):
        raise FileFormatError(
            f"{path} has format version {payload['format_version']!r:.40}; this release reads "
            f"version {FORMAT_VERSIONS[kind]} of a {kind}"
        )
    return payload


@contextmanager
def rebuilding(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Names the file whose content the body could not make a model of.

    Settings and weights come and go between releases; a file that knows others cannot be used.

    Args:
        path: Where the content was read.
        kind: What the file is.

    Raises:
        FileFormatError: A setting or a weight is unknown, missing or of another shape.
    """
    try:
        yield
    except ConfigError as error:
        raise FileFormatError(f"{path} holds a {kind} that cannot be: {error}") from error
    except Exception as error:  # settings and weights that do not fit raise nearly anything
        reason = " ".join(str(error).split())
        raise FileFormatError(
            f"{path} holds a {kind} of another release, with settings or weights that this one "
            f"does not have ({type(error).__name__}: {reason}): remove the file and train again"
        ) from error


def rebuilt(
    make: Callable[..., Model], settings: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> Model:
    """Makes a model of the settings and weights in a file, and allocates no more than these have.

    Raises:
        ValueError: The settings are those of a larger or smaller model.
        Exception: Of nearly any kind, from the constructor, where a setting is wrong.
    """
    if not 0 <= settings.get("n_layers", 0) <= len(weights):  # each layer has some
        raise ValueError(f"n_layers is {settings['n_layers']}, with {len(weights)} weights")
    with torch.device("meta"), _NoValues():
        shapes = {name: value.shape for name, value in make(**settings).state_dict().items()}
    weights = {**_missing(shapes, weights), **weights}
    for name in shapes.keys() | weights.keys():
        held = weights[name].shape if name in weights else None
        if shapes.get(name) != held:
            raise ValueError(f"{name}: expected {shapes.get(name)}, the file has {held}")
    model = make(**settings)
    model.load_state_dict(weights)
    return model


def _missing(shapes: Mapping[str, torch.Size], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The buffers that an older file lacks."""
    return {
        name: torch.full(shape, _SINCE[name.rpartition(".")[2]])
        for name, shape in shapes.items()
        if name not in weights and name.rpartition(".")[2] in _SINCE
    }


class _NoValues(TorchFunctionMode):
    """Leaves tensors without values: on "meta" they have none, and drawing them takes seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name.endswith("_") and not name.endswith("__"):  # changes its first argument in place
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))
