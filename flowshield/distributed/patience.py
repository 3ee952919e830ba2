"""Time for Ray to start on a busy machine, where some of Ray's own limits are short."""

__all__ = ["patient_start"]

import inspect
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import ray._raylet
from ray._private import ray_constants, services

_SECONDS = 600

# Ray's settings of how long its processes wait for each other
_LIMITS = {
    "RAY_agent_register_timeout_ms": 1000 * _SECONDS,
    "RAY_gcs_server_port_wait_time_s": _SECONDS,
    "RAY_raylet_start_wait_time_s": _SECONDS,
    "RAY_worker_register_timeout_seconds": _SECONDS,
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": _SECONDS,
}

# the arguments that tell a raylet its agents' ports, and Ray's names of the files that do
_PORTS = {
    "metrics_agent_port": "METRICS_AGENT_PORT_NAME",
    "metrics_export_port": "METRICS_EXPORT_PORT_NAME",
    "dashboard_agent_listen_port": "DASHBOARD_AGENT_LISTEN_PORT_NAME",
    "runtime_env_agent_port": "RUNTIME_ENV_AGENT_PORT_NAME",
}
# below the ports that the kernel gives away, above those of Ray's workers
_FIRST_PORT, _N_PORTS = 20_000, 12_000


@contextmanager
def patient_start() -> Iterator[None]:
    """Gives a Ray that is started in the body minutes where Ray itself gives it seconds.

    Most of the limits are settings of Ray's. Two are not. That of the dashboard is read when Ray is
    imported. And a raylet ends itself where its agents, two Python programs, do not say within 15 s
    which ports they took (ray-project/ray#65983): here the ports are chosen before it starts, and
    it waits for nobody.
    """
    for name, value in _LIMITS.items():
        os.environ.setdefault(name, str(value))
    start = services.start_raylet
    with (
        _replaced(ray_constants, "RAY_DASHBOARD_STARTUP_TIMEOUT_S", _SECONDS),
        _replaced(services, "start_raylet", partial(_with_known_ports, start)),
    ):
        yield


@contextmanager
def _replaced(module: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _with_known_ports(start: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Starts a raylet whose agents are told their ports, which stand where it looks for them."""
    call = inspect.signature(start).bind(*arguments, **named)
    told = call.arguments
    # an older Ray does not wait for its agents
    if hasattr(ray._raylet, "persist_port"):
        for (name, file), port in zip(_PORTS.items(), _free_ports(len(_PORTS)), strict=False):
            told[name] = told.get(name) or port
            file_name = getattr(ray._raylet, file)
            ray._raylet.persist_port(told["session_dir"], told["node_id"], file_name, told[name])
    return start(*call.args, **call.kwargs)


def _free_ports(number: int) -> Iterator[int]:
    """At most so many ports on which nobody listens.

    Processes that start Ray at the same time begin to look at different ports, after their ids.
    """
    first = os.getpid() * 2 * len(_PORTS)
    for i in range(_N_PORTS):
        port = _FIRST_PORT + (first + i) % _N_PORTS
        with socket.socket() as one, suppress(OSError):
            one.bind(("", port))
            yield port
            number -= 1
        if number == 0:
            return
