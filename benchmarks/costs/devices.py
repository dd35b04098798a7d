"""What makes a training step faster on this device, and how trainings share it.

    python -m benchmarks.costs.devices --data cifar10-images.zip --to benchmarks/results/devices.json

step     forward, backward and SGD of a ResNet-9 on images that lie ready: in plain and in channels-last memory, under bfloat16
         autocast, and compiled (on a GPU also with CUDA graphs, which "reduce-overhead" stands for); seconds to compile apart
sharing  the same trainings by one worker with all threads and by two or more side by side: images a second of all together

The arms take turns, `--repeats` rounds; a ratio is taken within a round against the arm that the trainer uses on a CPU:
channels-last float32, and one worker with all threads. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.measure import machine, ratio, take_turns, write
from jointnas.cores import available_cores
from jointnas.data.dataset import Data, load_data
from jointnas.data.spec import DataSpec
from jointnas.execution import Slot
from jointnas.network.families import make_blueprint
from jointnas.network.module import build
from jointnas.training.job import TrainingJob, trial_executor

BATCH = 128
STEPS = 10
TRAININGS = 4


def synchronise(device: torch.device) -> None:
    """Wait for a GPU's queue."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def make_step(
    width: int, device: torch.device, layout: torch.memory_format, autocast: bool, mode: str | None
) -> tuple[Callable[[], None], float]:
    """Return a training step on ready images, and the seconds that its first call took."""
    network: nn.Module = build(
        make_blueprint({"network": "resnet9", "width": width}, (3, 32, 32), 10), torch.Generator().manual_seed(0)
    )
    network = network.to(device).to(memory_format=layout)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    forward = torch.compile(network, mode=mode) if mode else network
    images = torch.randn(BATCH, 3, 32, 32, device=device).contiguous(memory_format=layout)
    labels = torch.randint(10, (BATCH,), device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(forward(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    start = time.perf_counter()
    step()
    synchronise(device)
    return step, time.perf_counter() - start


def images_per_second(step: Callable[[], None], device: torch.device) -> float:
    """Return the speed of a step over a few of them."""
    step()
    synchronise(device)
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    synchronise(device)
    return STEPS * BATCH / (time.perf_counter() - start)


def steps(width: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Return medians and ratios of the ways to take a step."""
    last, plain = torch.channels_last, torch.contiguous_format
    ways: dict[str, tuple[torch.memory_format, bool, str | None]] = {
        "channels last": (last, False, None),
        "contiguous": (plain, False, None),
        "channels last, bfloat16": (last, True, None),
        "channels last, compiled": (last, False, "default"),
    }
    if device.type == "cuda":
        ways["channels last, bfloat16, compiled"] = (last, True, "default")
        ways["channels last, bfloat16, compiled, CUDA graphs"] = (last, True, "reduce-overhead")
    made = {name: make_step(width, device, *way) for name, way in ways.items()}
    speeds = take_turns({name: partial(images_per_second, step, device) for name, (step, _) in made.items()}, repeats)
    return {
        "width": width,
        "images_per_second": {name: round(sorted(v)[len(v) // 2]) for name, v in speeds.items()},
        "ratios": {f"{name} / channels last": ratio(v, speeds["channels last"]) for name, v in speeds.items()},
        "first_step_seconds": {name: round(seconds, 1) for name, (_, seconds) in made.items()},
    }


def together(data: Data, spec: DataSpec, width: int, slot: Slot, train_steps: int) -> float:
    """Return the images a second that trainings in these slots take in all, the workers' start not counted."""
    recipe = {"batch_size": BATCH, "learning_rate": 0.2}
    candidate = {"architecture": {"network": "resnet9", "width": width}, "recipe": recipe}
    count = max(TRAININGS, slot.workers)
    jobs = [TrainingJob(candidate, {"train_steps": train_steps}, seed=i).numbered(i) for i in range(2 * count)]
    with trial_executor(spec, slot, data.fingerprint) as executor:
        for _ in executor.results(jobs[: slot.workers]):
            pass  # every worker is up and warm
        start = time.perf_counter()
        for _ in executor.results(jobs[count:]):
            pass
        return count * train_steps * BATCH / (time.perf_counter() - start)


def sharing(data: Data, spec: DataSpec, width: int, device: str, repeats: int, train_steps: int) -> dict[str, Any]:
    """Return medians and ratios of one worker against several."""
    cores = available_cores()
    counts = [n for n in (1, 2, 4, 8) if n <= cores and (device == "cuda" or n <= max(2, cores // 2))]
    slots = {n: Slot(device, cores // n, n) for n in counts}
    speeds = take_turns(
        {
            f"{n} × {slot.threads} threads": partial(together, data, spec, width, slot, train_steps)
            for n, slot in slots.items()
        },
        repeats,
    )
    one = speeds[f"1 × {cores} threads"]
    return {
        "width": width,
        "images_per_second": {name: round(sorted(v)[len(v) // 2]) for name, v in speeds.items()},
        "ratios": {f"{name} / 1 × {cores} threads": ratio(v, one) for name, v in speeds.items()},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 20])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--train-steps", type=int, default=100)
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    spec = DataSpec(options.data, train_images=5000, val_images=1000)
    data = load_data(spec)
    found = {
        "machine": machine(),
        "batch": BATCH,
        "step": [steps(width, device, options.repeats) for width in options.widths],
        "sharing": [
            sharing(data, spec, width, device.type, options.repeats, options.train_steps) for width in options.widths
        ],
    }
    write(found, options.to)


if __name__ == "__main__":
    main()
