"""Where a training step's time goes: the shares of convolutions, activation, norms, pooling, optimizer, augmentation and the rest.

    python -m benchmarks.training.profile resnet9-1m resnet9-10m --data cifar10-images.zip --to benchmarks/results/profile.json

PyTorch's profiler times every operation of `--steps` whole steps after a warm-up. An operation belongs to the part of the
outermost range that names one: forward and backward passes of a layer by the operation's own name, what Muon or SGD does to
the optimizer, what makes the batch to the augmentation. `--at` sets the fraction of the budget, as the images grow along it.
On a GPU the times are those of its kernels. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.measure import machine, write
from jointnas.campaign.candidate_file import find_candidate
from jointnas.data.dataset import Data, load_data
from jointnas.data.spec import DataSpec
from jointnas.network.families import make_blueprint
from jointnas.training.clock import StepClock
from jointnas.training.recipe import Recipe
from jointnas.training.trainer import Trainer

BUDGET_STEPS = 10**6
WARM_UP_STEPS = 20
AUGMENTATION = "augmentation"
PARTS = {
    "convolutions": ("conv2d", "convolution"),
    "activation": ("celu", "gelu", "relu", "silu", "elu", "mish", "hardswish"),
    "norms": ("batch_norm", "batchnorm"),
    "pooling": ("max_pool", "maxpool", "avg_pool", "avgpool", "amax"),
    "resizing": ("upsample",),
    "linear layers": ("linear", "addmm"),
    "loss": ("cross_entropy", "nllloss", "logsoftmax"),
    "optimizer": ("optimizer.",),
    AUGMENTATION: (AUGMENTATION,),
}
"""A part of a step, and what the names of its operations hold in lower case."""
REST = "the rest"


def part_of(event: FunctionEvent) -> str:
    """Return the part of a step that an operation belongs to: the outermost of its callers that names one decides."""
    found = REST
    caller: FunctionEvent | None = event
    while caller is not None:
        name = caller.name.lower()
        found = next((part for part, words in PARTS.items() if any(word in name for word in words)), found)
        caller = caller.cpu_parent
    return found


def marked(batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches and record the time that each takes."""
    while True:
        with record_function(AUGMENTATION):
            batch = next(batches)
        yield batch


def shares(name: str, data: Data, device: torch.device, fraction: float, steps: int) -> dict[str, Any]:
    """Return steps a minute of a recipe, and each part's share of a step in percent."""
    candidate = find_candidate(name).candidate
    network = make_blueprint(candidate["architecture"], data.input_shape, len(data.classes))
    clock = StepClock(BUDGET_STEPS)
    trainer = Trainer(network, Recipe.from_knobs(candidate["recipe"]), data, clock, 0, device)
    for _ in range(int(fraction * BUDGET_STEPS)):
        clock.stepped()
    batches = marked(iter(trainer.batches))
    for _ in range(WARM_UP_STEPS):
        trainer.step(batches)
    start = time.perf_counter()
    for _ in range(steps):
        trainer.step(batches)
    seconds = time.perf_counter() - start
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            trainer.step(batches)
    times: dict[str, float] = defaultdict(float)
    for event in profiler.events() or ():
        if event.device_type != DeviceType.CPU:  # a kernel's time counts at the operation that started it
            continue
        times[part_of(event)] += event.self_device_time_total if cuda else event.self_cpu_time_total
    total = sum(times.values())
    return {
        "recipe": name,
        "batch_size": trainer.batches.batch_size,
        "steps_per_minute": round(60 * steps / seconds),
        "percent": {part: round(100 * times[part] / total, 1) for part in (*PARTS, REST)},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--at", type=float, default=1.0, help="fraction of the budget")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    data = load_data(DataSpec(options.data, train_images=5000, val_images=1000))
    device = torch.device(options.device)
    rows = [shares(name, data, device, options.at, options.steps) for name in options.recipes]
    write({"machine": machine(), "fraction": options.at, "rows": rows}, options.to)


if __name__ == "__main__":
    main()
