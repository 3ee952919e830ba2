"""The files of a run folder, read and compared by the soak of kills."""

__all__ = ["comparable", "content", "files", "is_ours", "is_theirs", "is_writing", "same"]

import json
import os
from pathlib import Path

import torch
from omegaconf import OmegaConf

from flowshield.data import TrajectoryDataset


def files(folder: Path) -> list[Path]:
    # walk, not rglob, which fails where a folder goes while it looks
    return [Path(place, name) for place, _, names in os.walk(folder) for name in names]


def is_writing(folder: Path) -> bool:
    return any(path.parent.suffix == ".part" for path in files(folder))


def is_ours(path: Path, folder: Path) -> bool:
    """Not Ray's own files, nor TensorBoard's, whose names hold the time."""
    name = path.relative_to(folder).as_posix()
    return not name.startswith(("tensorboard/", "sweep/trials/")) and "/ray/" not in name


def is_theirs(name: str) -> bool:
    return name in ("ray", "_ray_lockfiles") or name.endswith(("wandb-media", "wandb-artifacts"))


def content(path: Path):
    if path.name.startswith("."):
        return None  # a temporary file, or the lock
    if path.suffix == ".npz":
        TrajectoryDataset(path)
        return path.read_bytes()
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".yaml":
        return OmegaConf.to_container(OmegaConf.load(path))
    if path.suffix == ".html" and not path.read_text().rstrip().endswith("</html>"):
        raise ValueError("it has no end")
    return None


def comparable(path: Path):
    """What does not depend on the clock, the machine, or where the folder lies."""
    found = content(path)
    if path.name in ("config.yaml", "commands.json", "best.yaml", "timings.json"):
        return None
    if path.name == "results.json":
        trials = sorted(
            (str(t["parameters"]), t["status"], t["epochs"], t["scores"])
            for t in found.get("trials", ())
        )
        return trials, [found.get(part) for part in ("cells", "shields", "followed")]
    return found


def same(a, b) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = (a.keys() | b.keys()) - {"seconds"}
        return all(key in a and key in b and same(a[key], b[key]) for key in keys)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    return a == b or (a != a and b != b)
