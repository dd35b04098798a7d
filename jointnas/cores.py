"""How many processor cores this process may use."""

from __future__ import annotations

import os
from pathlib import Path


def available_cores() -> int:
    """Return the cores this process may use: those in its affinity mask, within a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return cores
