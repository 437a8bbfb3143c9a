"""Runs units on a Ray cluster, one task each. Ray distributes them and retries if a worker or a node is lost."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ...errors import DferError, ParameterError, first_line, require
from .plan import Unit
from .settings import Job, LabelSettings
from .unit import label_unit

_PATIENCE = 10.0  # seconds for the head to respond
_STARTING = 300.0  # seconds for a suitable node: one may be starting, or an autoscaler adding it
_AHEAD = 4
"""Tasks submitted per task that can run: enough that no worker waits, few enough for the driver's memory."""


def run_on_cluster(
    units: Sequence[Unit], job: Job, address: str, cpus: float, gpus: float
) -> Iterator[tuple[Unit, int]]:
    """Yield every unit as it is done, with the number of its videos that failed.

    address: of the cluster's head, HOST:PORT. cpus, gpus: resources of each task.
    Videos, bundle and folder must have the same paths on all nodes, and this package must be installed there.
    Raises DferError if there is no such cluster, or no node with enough resources, or if a task raises it.
    """
    with _connected(address):
        import ray

        # Tasks, not actors: restarting an actor consumes the retries of tasks waiting for it. Workers keep their
        # recognizer, so max_calls, which would end a worker after a task that used a GPU, is off.
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=-1, max_calls=0)(label_unit_or_end)
        waiting = deque(units)
        running: dict[Any, Unit] = {}
        while waiting or running:
            slots = max(1, int(ray.cluster_resources().get("CPU", 1) / max(cpus, 0.1)))  # a cluster may grow
            while waiting and len(running) < _AHEAD * slots:
                unit = waiting.popleft()
                running[task.remote(unit, job)] = unit
            ready, _ = ray.wait(list(running), num_returns=1, timeout=_STARTING)
            if not ready:
                _check_nodes(cpus, gpus)
            for one in ready:
                unit = running.pop(one)
                yield unit, _result(one, f"unit {unit.name}", address)


def resolve_on_cluster(
    settings: LabelSettings, address: str, cpus: float, gpus: float
) -> tuple[LabelSettings, list[str]]:
    """Return the settings with the provider and precision that a task of the cluster chooses, and its warnings; the
    devices of this machine may be others. Raises DferError as `run_on_cluster` does."""
    with _connected(address):
        import ray

        choice = ray.remote(num_cpus=cpus, num_gpus=gpus)(_resolve).remote(settings)
        while not ray.wait([choice], timeout=_STARTING)[0]:
            _check_nodes(cpus, gpus)
        resolved: tuple[LabelSettings, list[str]] = _result(choice, "the choice of a provider", address)
        return resolved


def _resolve(settings: LabelSettings) -> tuple[LabelSettings, list[str]]:
    warnings: list[str] = []
    return settings.resolved(warnings.append), warnings


@contextmanager
def _connected(address: str) -> Iterator[None]:
    require("ray", "ray")
    import ray

    host, _, port = address.rpartition(":")
    try:
        if not host or not port.isdecimal():
            raise ParameterError("cluster", f"{address!r} is not HOST:PORT, such as head:6379")
        socket.create_connection((host, int(port)), _PATIENCE).close()  # Ray itself would try for many minutes
        ray.init(address, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise DferError(f"no Ray cluster at {address}: {first_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _result(task: Any, what: str, address: str) -> Any:
    """Return a finished task's result. Raises DferError if the task or the cluster failed."""
    import ray

    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, DferError) else DferError(f"{what}: {cause}") from error
    except ray.exceptions.RayError as error:
        raise DferError(f"the Ray cluster at {address} failed: {first_line(error)}") from error


def _check_nodes(cpus: float, gpus: float) -> None:
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        problem = f"no node of the cluster has {cpus:g} CPU and {gpus:g} GPU; ask for less, or add such a node"
        raise ParameterError("gpus" if gpus else "cpus", problem)


def label_unit_or_end(unit: Unit, job: Job) -> int:
    """Call `label_unit`. Any error but a DferError ends the process like a crash, so that the unit is retried and only
    the video at which that happens three times fails."""
    try:
        return label_unit(unit, job)
    except DferError:
        raise
    except Exception:
        traceback.print_exc()  # into the worker's log
        sys.stderr.flush()
        os._exit(1)
