"""The latency and energy of inference on a device."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from jointnas.errors import ConstraintError
from jointnas.network.blueprint import Blueprint
from jointnas.network.module import build
from jointnas.training.scoring import logits_of, synchronise

BATCH = 64  # images of batch latency and energy

SETTLED_SECONDS = 0.1  # without a faster call: then the warm-up is over
WARM_UP_SECONDS = 0.5  # at most
WARM_UP_CALLS = 2  # at least
GAIN = 0.98  # a call counts as faster below this share of the fastest so far
TIMED_SECONDS = 0.75  # in which calls are timed
TIMED_CALLS = 3  # at least
ENERGY_SECONDS = 1.5  # many updates of an energy counter
POWERCAP = Path("/sys/class/powercap")

Call = Callable[[], object]
Now = Callable[[], float]


class Timing(NamedTuple):
    """Seconds of a call: the median and the 95th percentile."""

    median: float
    p95: float


def measure_inference(blueprint: Blueprint, device: torch.device | str, batch: int, flip: bool = False) -> Timing:
    """Return the latency of a network for a batch of normalised images on the device.

    flip: whether each image's mirror image is scored too. As in scoring: evaluation and inference mode, channels-last
    float32. Each call waits for the GPU.
    """
    call = forward(blueprint, torch.device(device), batch, flip)
    warm_up(call)
    seconds = timed(call)
    return Timing(float(np.median(seconds)), float(np.quantile(seconds, 0.95)))


def measure_energy(
    blueprint: Blueprint, device: torch.device | str, counters: Sequence[EnergyCounter], flip: bool = False
) -> float:
    """Return the joules per image in batches of `BATCH`, including what the device draws when idle.

    flip: whether each image's mirror image is scored too.
    """
    call = forward(blueprint, torch.device(device), BATCH, flip)
    warm_up(call)
    before = [counter.read() for counter in counters]
    calls = len(timed(call, within=ENERGY_SECONDS))
    return sum(c.since(b) for c, b in zip(counters, before, strict=True)) / (calls * BATCH)


def forward(blueprint: Blueprint, device: torch.device, batch: int, flip: bool = False) -> Call:
    """Return a function that classifies one batch of random images and waits for the result."""
    generator = torch.Generator().manual_seed(0)
    network = build(blueprint, generator).to(device).to(memory_format=torch.channels_last).eval()
    channels, height, width = blueprint.input_shape
    images = torch.rand(batch, height, width, channels, generator=generator).to(device).permute(0, 3, 1, 2)

    @torch.inference_mode()
    def call() -> None:
        logits_of(network, images, flip)
        synchronise(device)

    return call


def warm_up(call: Call, now: Now = time.perf_counter) -> None:
    """Repeat a call until none has been faster than those before for `SETTLED_SECONDS`."""
    fastest, calls = math.inf, 0
    start = gained = now()
    while calls < WARM_UP_CALLS or (now() - gained < SETTLED_SECONDS and now() - start < WARM_UP_SECONDS):
        took = _seconds(call, now)
        calls += 1
        if took < GAIN * fastest:
            fastest, gained = took, now()


def timed(
    call: Call, now: Now = time.perf_counter, within: float = TIMED_SECONDS, fewest: int = TIMED_CALLS
) -> list[float]:
    """Return the seconds of repeated calls: as many as start `within` seconds, `fewest` at least."""
    seconds: list[float] = []
    start = now()
    while len(seconds) < fewest or now() - start < within:
        seconds.append(_seconds(call, now))
    return seconds


def _seconds(call: Call, now: Now) -> float:
    start = now()
    call()
    return now() - start


class EnergyCounter(NamedTuple):
    """A counter of the joules that a device has drawn; it wraps around at `limit`."""

    read: Callable[[], float]
    limit: float = math.inf

    def since(self, before: float) -> float:
        """Return the joules since the counter stood at `before`."""
        return (self.read() - before) % self.limit


def energy_counters(device: torch.device, powercap: Path = POWERCAP) -> list[EnergyCounter]:
    """Return the energy counters of a device, whose sum is its energy: NVML for a GPU, RAPL for each CPU package.

    Raises `ConstraintError` with the reason where there is none.
    """
    counters, reason = _gpu_counters(device) if device.type == "cuda" else _package_counters(powercap)
    if not counters:
        raise ConstraintError(f"energy cannot be measured on this {device.type} device: {reason}")
    return counters


def _package_counters(powercap: Path) -> tuple[list[EnergyCounter], str]:
    """Return one counter for each CPU package, and the remedy where there is none."""
    counters = []
    for folder in sorted(powercap.glob("intel-rapl:*")):  # of AMD's processors too
        try:
            if (folder / "name").read_text().startswith("package"):
                counter = EnergyCounter(partial(_joules, folder / "energy_uj"), _joules(folder / "max_energy_range_uj"))
                counter.read()
                counters.append(counter)
        except (OSError, ValueError):
            return [], f"make {folder}/energy_uj readable, or leave energy out"
    return counters, f"{powercap} has no counters, so leave energy out"


def _joules(file: Path) -> float:
    """Read a file that holds microjoules."""
    return int(file.read_text()) / 1e6


def _gpu_counters(device: torch.device) -> tuple[list[EnergyCounter], str]:
    """Return NVML's counter of a GPU, and the remedy where there is none."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return [], "install nvidia-ml-py, or leave energy out"
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        counter = EnergyCounter(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)
        counter.read()
    except nvml.NVMLError as error:
        return [], f"leave energy out ({error})"
    return [counter], ""
