"""Files that are whole or absent: written to a temporary name, flushed, then renamed."""

__all__ = ["atomic_write"]

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Opens a binary file that takes the place of `path` only once it is completely written.

    The temporary file lies in the same folder, because a rename is atomic only within one
    file system. If the body or the flush fails (a full disk, say), the temporary file is removed
    and whatever was at `path` before is still there.

    Args:
        path: Where the file shall be. Missing parent folders are made.

    Yields:
        A writable binary file.

    Raises:
        OSError: The folder cannot be written to, or the disk is full.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files private to their owner
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
