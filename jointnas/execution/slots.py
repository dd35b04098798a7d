"""Slots share the machine's cores and GPUs, so that jobs that run side by side never oversubscribe them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from jointnas.cores import available_cores
from jointnas.errors import SearchError

VISIBLE = "CUDA_VISIBLE_DEVICES"


class Place(NamedTuple):
    """What one worker of a slot gets: threads, variables of its environment, cores (none: the system chooses), part of a GPU's memory.

    memory_share: None on a processor.
    """

    threads: int
    environment: Mapping[str, str]
    cores: tuple[int, ...] = ()
    memory_share: float | None = None


@dataclass(frozen=True)
class Slot:
    """Where one job runs: its device, its threads, and how many such slots the machine has.

    device: cpu, cuda or mps. gpus: the numbers of this machine's GPUs that the slots take by turns; a worker sees its own alone. per_gpu: how
    many slots share a GPU and its memory.
    """

    device: str
    threads: int
    workers: int
    gpus: tuple[int, ...] = ()
    per_gpu: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types, those of GPUs only where there are some."""
        values = {**asdict(self), "gpus": list(self.gpus)}
        return values if self.device == "cuda" else {k: values[k] for k in ("device", "threads", "workers")}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Slot:
        """Return the slot of `to_json`; where an older one has a GPU without its number, that is the first one. Raises `SearchError`."""
        old = {"gpus": [0], "per_gpu": values.get("workers")} if values.get("device") == "cuda" else {}
        given = {**old, **values}
        gpus = given.pop("gpus", [])
        counts = [given.get(name, 1) for name in ("threads", "workers", "per_gpu")]
        numbers = all(isinstance(n, int) for n in gpus) if isinstance(gpus, list | tuple) else False
        names = {f.name for f in fields(cls)}
        numbers = numbers and isinstance(given.get("device"), str)
        if not (numbers and given.keys() <= names and all(isinstance(n, int) and n >= 1 for n in counts)):
            raise SearchError(
                f"a slot has a device, and numbers of threads and workers from 1 on, got {dict(values)}: correct it"
            )
        try:
            return cls(**given, gpus=tuple(gpus))
        except TypeError as error:
            raise SearchError(
                f"a slot has a device, threads and workers, got {dict(values)}: add what is missing"
            ) from error

    @property
    def name(self) -> str:
        """The device as `--device` names it, and PyTorch where it is a single one."""
        return f"{self.device}:{','.join(map(str, self.gpus))}" if self.gpus else self.device

    def place(self, worker: int, alone: bool = False) -> Place:
        """Return the place of a worker, by its number from 0 on. alone: whether no other worker shares its GPU."""
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
        }
        if self.gpus:
            environment[VISIBLE] = _visible(self.gpus[worker % len(self.gpus)])
        return Place(self.threads, environment, self._cores(worker), self.memory_share(alone))

    def memory_share(self, alone: bool = False) -> float | None:
        """Return the part of a GPU's memory that a job may use, None on a processor."""
        return None if self.device != "cuda" else 1.0 if alone else 1 / self.per_gpu

    def _cores(self, worker: int) -> tuple[int, ...]:
        """Return a worker's own cores, none where it has them all or where others may be given the same ones.

        Within a container's quota of a part of the machine, every container would pin its workers to the same cores.
        """
        if not hasattr(os, "sched_getaffinity"):
            return ()
        cores = sorted(os.sched_getaffinity(0), key=_physical_core)
        if len(cores) != available_cores() or self.workers == 1 or self.threads != len(cores) // self.workers:
            return ()
        return tuple(cores[worker * self.threads : (worker + 1) * self.threads])


def share_slots(workers: int, device: str = "auto", *, alone: bool = False) -> Slot:
    """Return the slot that each of `workers` gets when the machine's cores are shared evenly.

    device: auto (a GPU where there is one), cpu, cuda (all GPUs), cuda:0,1 (these) or mps. alone: one such slot, so that one job runs
    at a time. Raises `SearchError` for more workers than cores, or a device that is not there.
    """
    cores = available_cores()
    if not 1 <= workers <= cores:
        raise SearchError(
            f"workers share {cores} cores, one or more each, got {workers}: choose --workers 1 to {cores}"
        )
    kind, gpus = find_device(device)
    gpus = gpus[:workers]
    return Slot(kind, cores // workers, 1 if alone else workers, gpus, ceil(workers / len(gpus)) if gpus else 1)


def is_here(slot: Slot) -> bool:
    """Whether this machine has such slots."""
    kind, gpus = find_device(slot.name)
    return kind == slot.device and gpus == slot.gpus and slot.threads * slot.workers <= available_cores()


def nearest_slot(slot: Slot) -> Slot:
    """Return a slot of another machine, or the nearest that this one has: on its processor where it lacks the device."""
    try:
        return slot if is_here(slot) else share_slots(min(slot.workers, available_cores()), slot.name)
    except SearchError:
        return share_slots(min(slot.workers, available_cores()), "cpu")


def remote_slots(workers: int, device: str = "auto", threads: int = 1, per_gpu: int = 1) -> Slot:
    """Return the slot of each of `workers` on the machines of a cluster, which need not be like this one.

    device: cpu (also for auto) or cuda. Raises `SearchError`.
    """
    if workers < 1 or threads < 1 or per_gpu < 1:
        name, value = next(
            (n, v) for n, v in (("workers", workers), ("threads", threads), ("workers-per-device", per_gpu)) if v < 1
        )
        raise SearchError(f"--{name} must be 1 or more, got {value}: raise it")
    if device not in ("auto", "cpu", "cuda"):
        raise SearchError(f"the device of a cluster's workers is cpu or cuda, got {device!r}: Ray chooses the GPUs")
    kind = "cuda" if device == "cuda" else "cpu"
    return Slot(kind, threads, workers, (), per_gpu)


def find_device(device: str) -> tuple[str, tuple[int, ...]]:
    """Return the kind of a device (cpu, cuda or mps) and the numbers of its GPUs. Raises `SearchError` for one that is not there."""
    kind, _, numbers = device.partition(":")
    listed = numbers.split(",") if numbers else []
    is_known = kind in ("auto", "cpu", "cuda", "mps") and (not numbers or kind == "cuda")
    if not is_known or not all(n.isdecimal() for n in listed) or len(set(listed)) < len(listed) or device[-1:] == ":":
        raise SearchError(
            f"a device is auto, cpu, cuda, cuda:0,1 (numbers of GPUs) or mps, got {device!r}: use --device auto"
        )
    if kind == "cpu":
        return kind, ()
    import torch  # here, as a slot on the processor needs none of it

    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise SearchError("the device mps needs a Mac with a GPU that PyTorch can use: use --device cpu")
        return kind, ()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and not count:
        raise SearchError(f"the device {device} needs a GPU that PyTorch can use, and there is none: use --device cpu")
    for number in listed:
        if int(number) >= count:
            raise SearchError(
                f"this machine has {count} GPU{'s' if count > 1 else ''}, numbered from 0, got --device {device}: choose lower numbers"
            )
    gpus = tuple(map(int, listed)) or tuple(range(count))
    return ("cuda", gpus) if gpus else ("cpu", ())


def _physical_core(core: int) -> tuple[int, int, int]:
    """Return what sorts the two threads of a physical core beside each other: processor, physical core, number."""
    about = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
    try:
        package, physical = ((about / name).read_text() for name in ("physical_package_id", "core_id"))
        return int(package), int(physical), core
    except (OSError, ValueError):
        return 0, core, core


def _visible(number: int) -> str:
    """Return the name of a GPU that this process sees, for a process that shall see it alone."""
    visible = [name for name in os.environ.get(VISIBLE, "").split(",") if name]
    return visible[number] if visible else str(number)
