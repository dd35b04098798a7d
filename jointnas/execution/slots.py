"""Slots: how the machine's cores are shared out, so that trainings side by side never oversubscribe them."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jointnas.errors import SearchError

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Slot:
    """Where one training runs: its device, its threads, and how many slots share the machine."""

    device: str
    threads: int
    workers: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


def available_cores() -> int:
    """Return the cores this process may use: those it may run on, within a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return cores


def share_slots(workers: int, device: str = "auto") -> Slot:
    """Return the kind of slot that `workers` slots of this machine are, its cores shared out evenly.

    Raises `SearchError` for more workers than cores, or a device that is not there.
    """
    cores = available_cores()
    if not 1 <= workers <= cores:
        raise SearchError(f"workers share {cores} cores, one or more each, got {workers}: say --workers 1 to {cores}")
    if device not in DEVICES:
        raise SearchError(f"a device is one of {', '.join(DEVICES)}, got {device!r}: say --device auto")
    if device != "cpu":
        import torch  # here, as the processor is there without it

        seen = torch.cuda.is_available()
        if device == "cuda" and not seen:
            raise SearchError("the device cuda needs a GPU that PyTorch sees, got none: say --device cpu")
        device = "cuda" if seen else "cpu"
    return Slot(device, cores // workers, workers)
