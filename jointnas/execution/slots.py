"""Slots share the machine's cores, so that jobs that run side by side never oversubscribe them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from jointnas.cores import available_cores
from jointnas.errors import SearchError

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Slot:
    """Where one job runs: its device, its threads, and how many such slots the machine has."""

    device: str
    threads: int
    workers: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return asdict(self)


def share_slots(workers: int, device: str = "auto") -> Slot:
    """Return the slot that each of `workers` gets when the machine's cores are shared evenly.

    Raises `SearchError` for more workers than cores, or a device that is not there.
    """
    cores = available_cores()
    if not 1 <= workers <= cores:
        raise SearchError(
            f"workers share {cores} cores, one or more each, got {workers}: choose --workers 1 to {cores}"
        )
    if device not in DEVICES:
        raise SearchError(f"a device is one of {', '.join(DEVICES)}, got {device!r}: use --device auto")
    if device != "cpu":
        import torch  # here, as a slot on the processor needs none of it

        has_gpu = torch.cuda.is_available()
        if device == "cuda" and not has_gpu:
            raise SearchError("the device cuda needs a GPU that PyTorch can use, and there is none: use --device cpu")
        device = "cuda" if has_gpu else "cpu"
    return Slot(device, cores // workers, workers)
