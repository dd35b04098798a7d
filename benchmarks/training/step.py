"""A training step of the recipe `resnet9-1m`: CELU and Muon as they are here, beside PyTorch's CELU and Muon one weight at a time.

    python -m benchmarks.training.step --data cifar10-images.zip --to benchmarks/results/step.json

celu     forward and backward pass of (128, 32, 28, 28) values in bfloat16: `jointnas.network.layers.CELU` and `torch.nn.CELU`
muon     an update of the network's weights: `jointnas.training.optimizers.Muon` and the published iteration on each matrix
step     whole training steps: ours, with either of the two replaced, and with both

The arms take turns within one process, `--repeats` rounds, with one thread and with all; a ratio is taken within a round, and
the median over the rounds is given with its range. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim

from benchmarks.measure import machine, ratio, take_turns, write
from jointnas.campaign.candidate_file import find_candidate
from jointnas.data.dataset import Data, load_data
from jointnas.data.spec import DataSpec
from jointnas.network.families import make_blueprint
from jointnas.network.layers import CELU
from jointnas.training.clock import StepClock
from jointnas.training.optimizers import NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS, Muon, set_learning_rate
from jointnas.training.recipe import Recipe
from jointnas.training.trainer import Trainer

RECIPE = "resnet9-1m"
VALUES = (128, 32, 28, 28)
WARM_UP_STEPS = 5
OURS, OTHER_CELU, OTHER_MUON, OTHERS = "ours", "nn.CELU", "one by one", "nn.CELU, one by one"


class OneByOne(Muon):
    """Muon with each weight's update on its own and the iteration on the matrix itself, as published."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step."""
        for group in self.param_groups:
            rate = group["lr"] * (1.0 if group["orthogonal"] else self.sgd_ratio)
            for p in group["params"]:
                velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
                velocity.mul_(self.momentum).add_(p.grad)
                update = p.grad.add(velocity, alpha=self.momentum)
                p.mul_(1 - rate * group["weight_decay"])
                if group["orthogonal"]:
                    rows = update.reshape(len(update), -1)
                    scale = max(1.0, rows.shape[0] / rows.shape[1]) ** 0.5
                    update = iterated(rows).reshape(update.shape).mul_(scale)
                p.add_(update, alpha=-rate)


def iterated(matrix: Tensor, steps: int = NEWTON_SCHULZ_STEPS) -> Tensor:
    """Return the matrix after so many Newton–Schulz steps."""
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def make_trainer(data: Data, celu: bool, muon: bool) -> Trainer:
    """Return a training of the recipe, with our CELU and our Muon or the others."""
    candidate = find_candidate(RECIPE).candidate
    network = make_blueprint(candidate["architecture"], data.input_shape, len(data.classes))
    trainer = Trainer(network, Recipe.from_knobs(candidate["recipe"]), data, StepClock(10**9), 0, torch.device("cpu"))
    if not celu:
        for module in list(trainer.network.modules()):
            for name, child in module.named_children():
                if isinstance(child, CELU):
                    setattr(module, name, nn.CELU(child.alpha))
    if not muon:
        ours = trainer.optimizer
        assert isinstance(ours, Muon)
        trainer.optimizer = OneByOne(ours.param_groups, ours.momentum, ours.sgd_ratio)
    return trainer


def milliseconds(call: Callable[[], object], seconds: float) -> float:
    """Return the median time of a call, of as many as fit."""
    times: list[float] = []
    while sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def steps_per_minute(call: Callable[[], object], seconds: float) -> float:
    """Return how many calls fit in a minute."""
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        call()
        count += 1
    return 60 * count / (time.perf_counter() - start)


def celu_arms(seconds: float) -> dict[str, Callable[[], float]]:
    """Return both activations' forward and backward passes."""
    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(VALUES, generator=generator).bfloat16() for _ in range(2))
    x, gradient = (t.contiguous(memory_format=torch.channels_last) for t in (x, gradient))
    x.requires_grad_()

    def both(activation: nn.Module) -> None:
        torch.autograd.grad(activation(x), x, gradient)

    return {
        name: partial(milliseconds, partial(both, activation), seconds)
        for name, activation in ((OURS, CELU(0.3)), (OTHER_CELU, nn.CELU(0.3)), ("nn.GELU", nn.GELU()))
    }


def muon_arms(data: Data, seconds: float) -> dict[str, Callable[[], float]]:
    """Return both optimizers' updates of the recipe's network, at gradients drawn once and a rate of zero."""
    arms: dict[str, Callable[[], float]] = {}
    for name, own in ((OURS, True), (OTHER_MUON, False)):
        optimizer: optim.Optimizer = make_trainer(data, True, own).optimizer
        generator = torch.Generator().manual_seed(0)
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator))
        set_learning_rate(optimizer, 0.0)
        arms[name] = partial(milliseconds, optimizer.step, seconds)
    return arms


def step_arms(data: Data, seconds: float) -> dict[str, Callable[[], float]]:
    """Return whole training steps, warmed up."""
    arms: dict[str, Callable[[], float]] = {}
    kinds = {OURS: (True, True), OTHER_CELU: (False, True), OTHER_MUON: (True, False), OTHERS: (False, False)}
    for name, (celu, muon) in kinds.items():
        trainer = make_trainer(data, celu, muon)
        step = partial(trainer.step, iter(trainer.batches))
        for _ in range(WARM_UP_STEPS):
            step()
        arms[name] = partial(steps_per_minute, step, seconds)
    return arms


def summary(arms: dict[str, Callable[[], float]], unit: str, repeats: int) -> dict[str, Any]:
    """Return each arm's median, and the other arms in ours."""
    found = take_turns(arms, repeats)
    return {
        unit: {arm: round(statistics.median(values), 2) for arm, values in found.items()},
        "ratios": {f"{arm} / {OURS}": ratio(values, found[OURS]) for arm, values in found.items() if arm != OURS},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of training steps an arm and round")
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    data = load_data(DataSpec(options.data, train_images=5000, val_images=1000))
    found: dict[str, Any] = {"machine": machine(), "recipe": RECIPE, "values": VALUES, "rows": []}
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        found["rows"].append(
            {
                "threads": threads,
                "celu": summary(celu_arms(options.seconds / 4), "milliseconds", options.repeats),
                "muon": summary(muon_arms(data, options.seconds / 4), "milliseconds", options.repeats),
                "step": summary(step_arms(data, options.seconds), "steps_per_minute", options.repeats),
            }
        )
    write(found, options.to)


if __name__ == "__main__":
    main()
