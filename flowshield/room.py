"""Memory and disk that this machine has left, and how much of it data need."""

__all__ = ["MEMORY_COPIES", "free_disk", "free_memory", "in_words"]

import shutil
from pathlib import Path

import psutil

MEMORY_COPIES = 4
"""Times the size of a dataset that memory holds at its fullest.

Measured 3.3 while episodes are laid end to end. On Ray the object store holds one while this
process makes two of it, and training holds the parts of the split beside their tensors.
"""

# The limit of a container, what it uses, and the pages in that which are given back on demand.
_CGROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that can still be used: of the machine, or of the container where that has fewer.

    Args:
        cgroup: Where Linux tells of the container's limit; other systems have no such folder.
    """
    free = [int(psutil.virtual_memory().available)]  # type: ignore[no-untyped-call]
    for limit, used, given_back in _CGROUPS:
        try:
            most, now = (int((cgroup / name).read_text()) for name in (limit, used))
            told = (cgroup / limit).with_name("memory.stat").read_text().split()
            cached = int(told[told.index(given_back) + 1])
        except (OSError, ValueError):  # no such file, "max", or another layout: no limit is known
            continue
        free.append(most - now + cached)
    return max(0, min(free))


def free_disk(path: Path) -> int:
    """Bytes that this process may still write where a path is or will be."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def in_words(n_bytes: float) -> str:
    """A size in the unit that fits it, such as 1.2 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.{0 if unit == 'bytes' or n_bytes >= 10 else 1}f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.1f} TB"
