"""Executors run jobs: one persistent worker process per slot, and a failure stays with its own job."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from jointnas.errors import SearchError
from jointnas.execution.executor import Event, Executor, Job, LocalExecutor
from jointnas.execution.slots import Slot, remote_slots, share_slots
from jointnas.plugins import load_plugin

ENTRY_POINTS = "jointnas.executors"
"""Group in which an installed package registers a class or function with the parameters of `LocalExecutor`."""

RAY = "ray"  # the executor's name, before a colon and the address of a cluster


def find_executor(name: str) -> Callable[..., Executor]:
    """Return what makes the executor called `name`, from the arguments of `LocalExecutor`.

    `local` and `ray` are built in; `ray:ADDRESS` names a cluster. Raises `SearchError` that names the nearest.
    """
    kind, _, address = name.partition(":")
    if name == "local":
        return LocalExecutor
    if kind == RAY:
        return partial(_make_ray, address=address or "auto")
    make: Callable[..., Executor] = load_plugin(ENTRY_POINTS, name, ["local", RAY], SearchError)
    return make


def _make_ray(*arguments: Any, address: str) -> Executor:
    from jointnas.execution.ray_executor import RayExecutor  # here, as it is an extra

    return RayExecutor(*arguments, address=address)


__all__ = ["RAY", "Event", "Executor", "Job", "LocalExecutor", "Slot", "find_executor", "remote_slots", "share_slots"]
