"""Ray itself: the cluster that this process belongs to, or one of this machine alone."""

__all__ = ["count_cpus", "session"]

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray

from flowshield.distributed.patience import patient_start
from flowshield.errors import ConfigError
from flowshield.paths import expanded
from flowshield.scratch import ScratchFolder


@contextmanager
def session() -> Iterator[None]:
    """Ray for as long as the body runs.

    What is there already is used and left as it is: a Ray that this process has initialised, or
    the cluster whose job it is (`ray job submit` sets RAY_ADDRESS). Otherwise one of this machine
    is started, for this process and those it starts alone, and ended with the body.

    Raises:
        ConfigError: That Ray does not start, or that cluster cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    with ScratchFolder() as temporary:
        _start(temporary)
        try:
            yield
        finally:
            ray.shutdown()


def count_cpus() -> int:
    """CPUs of this Ray, at least 1: a cluster that grows with the work may have none yet."""
    return max(1, int(ray.cluster_resources().get("CPU", 0)))  # type: ignore[no-untyped-call]


def _start(temporary: Path) -> None:
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        # Ray listens to the network, and does what it is told by whoever knows the token, which
        # it demands unless RAY_AUTH_MODE says otherwise: one of this process alone
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # one process less for every training: nobody takes this machine away
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # Ray Train and Tune free what a killed worker held only where the dashboard runs
    dashboard: dict[str, Any] = {"include_dashboard": True, "dashboard_host": "127.0.0.1"}
    of_its_own = ExitStack()
    if address is None:
        of_its_own.enter_context(_temporary_files(temporary))
        of_its_own.enter_context(patient_start())
    with of_its_own:
        try:
            ray.init(
                address="local" if address is None else address,
                log_to_driver=False,
                logging_level=logging.WARNING,
                **(dashboard if address is None else {}),
            )
        except Exception as error:  # of any kind: Ray has none for it
            raise _not_there(address, error) from error


def _not_there(address: str | None, error: Exception) -> ConfigError:
    what, instead = (
        ("Ray does not start on this machine", "ray.num_workers=0 works without it")
        if address is None
        else (f"Ray cannot be reached at RAY_ADDRESS={address}", "unset it for a Ray of your own")
    )
    reason = str(error).strip().split("\n", 1)[0]
    return ConfigError(f"{what}: {type(error).__name__}: {reason}; {instead}")


@contextmanager
def _temporary_files(folder: Path) -> Iterator[None]:
    """Where processes that begin in the body put temporary files; Ray's logs stay where they were.

    Of processes that are killed somebody must clear them away.
    """
    before = {name: os.environ.get(name) for name in ("TMPDIR", "RAY_TMPDIR")}
    # a notebook's %env leaves ~ as it is, and Ray would make a folder of that name
    os.environ["RAY_TMPDIR"] = expanded(before["RAY_TMPDIR"] or before["TMPDIR"] or "/tmp")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
