"""The processor cores that this process may use, and how NumPy uses them."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

from threadpoolctl import ThreadpoolController


def available_cores() -> int:
    """Return the cores this process may use: those in its affinity mask, within a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return cores


@cache
def processor_name() -> str:
    """Return the processor's model as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def one_blas_thread() -> AbstractContextManager[object]:
    """Return a context in which NumPy's BLAS uses one thread.

    Its threads spin while they wait for work: beside other programs, small products take several times as long with more than one.
    """
    return _controller().limit(limits=1, user_api="blas")  # type: ignore[no-any-return]


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def for_slices(fill: Callable[[slice], None], n: int, rows: int) -> None:
    """Call `fill` for slices of so many of n rows, on every core: NumPy's loops release the interpreter's lock."""
    parts = [slice(start, start + rows) for start in range(0, n, rows)]
    if len(parts) < 2:
        for part in parts:
            fill(part)
        return
    with ThreadPoolExecutor(available_cores()) as threads:
        list(threads.map(fill, parts))
