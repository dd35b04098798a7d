"""Executors run jobs: one persistent worker process per slot, and a failure stays with its own job."""

from __future__ import annotations

from collections.abc import Callable

from jointnas.errors import SearchError, suggest
from jointnas.execution.executor import Event, Executor, Job, LocalExecutor
from jointnas.execution.slots import Slot, share_slots
from jointnas.plugins import load_plugin, plugin_names

ENTRY_POINTS = "jointnas.executors"
"""Group in which an installed package registers a class or function with the parameters of `LocalExecutor`."""


def find_executor(name: str) -> Callable[..., Executor]:
    """Return what makes the executor called `name`, from the arguments of `LocalExecutor`; `local` is built in.

    Raises `SearchError` that names the nearest.
    """
    if name == "local":
        return LocalExecutor
    if name not in plugin_names(ENTRY_POINTS):
        raise SearchError(f"no executor is called {name!r}: {suggest(name, ['local', *plugin_names(ENTRY_POINTS)])}")
    make: Callable[..., Executor] = load_plugin(ENTRY_POINTS, name)
    return make


__all__ = ["Event", "Executor", "Job", "LocalExecutor", "Slot", "find_executor", "share_slots"]
