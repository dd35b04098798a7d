"""How much a training under the clock loses to its neighbours: other workers of the search, and other programs.

    python -m benchmarks.training.contention --data cifar10-images.zip --to benchmarks/results/contention.json

Each arm trains `resnet9-1m` for some seconds in fresh worker processes and counts steps: so many workers share the cores, so many busy
loops run beside them, OpenMP's threads sleep while they wait (`OMP_WAIT_POLICY=PASSIVE`) or spin (the default), and workers are
pinned to cores of their own or not. Arms take turns, repeat after repeat. The machine must be left alone otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import machine, write
from jointnas.campaign.candidate_file import find_candidate
from jointnas.cores import available_cores
from jointnas.data.dataset import load_data
from jointnas.data.spec import DataSpec
from jointnas.execution.slots import Slot, share_slots
from jointnas.training.job import TrainingJob, TrainingResult, trial_executor

RECIPE = "resnet9-1m"
BUSY = "while True: pass"


class Unpinned(Slot):
    """A slot whose workers the system moves between the cores."""

    def _cores(self, worker: int) -> tuple[int, ...]:
        return ()


@dataclass(frozen=True)
class Arm:
    """One way to train beside neighbours."""

    workers: int
    busy: int
    is_passive: bool
    pinned: bool

    def __str__(self) -> str:
        pinned = "pinned" if self.pinned else "not pinned"
        waiting = "threads sleep" if self.is_passive else "threads spin"
        return f"{self.workers} workers, {self.busy} busy, {waiting}, {pinned}"


def arms() -> list[Arm]:
    """Return the arms: one worker on all cores, and one a core, each without and with a busy neighbour."""
    cores = available_cores()
    several = [Arm(cores, busy, True, pinned) for busy in (0, 1) for pinned in (True, False)]
    return [Arm(1, busy, passive, False) for busy in (0, 1) for passive in (True, False)] + several


def train(arm: Arm, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train in this process's workers; return steps, accuracy and share of the cores of each training."""
    data = DataSpec(str(options.data), options.train_images, options.val_images)
    slot = share_slots(arm.workers, "cpu")
    if not arm.pinned:
        slot = Unpinned(slot.device, slot.threads, slot.workers)
    candidate, clock = find_candidate(RECIPE).candidate, {"train_seconds": options.seconds}
    jobs = [TrainingJob(candidate, clock, seed).numbered(seed) for seed in range(arm.workers)]
    results = []
    with ExitStack() as stack:
        executor = stack.enter_context(trial_executor(data, slot, load_data(data).fingerprint))
        list(executor.results([TrainingJob(candidate, {"train_steps": 2}, 0).numbered(n) for n in range(arm.workers)]))
        for _ in range(arm.busy):
            neighbour = stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY]))
            stack.callback(neighbour.kill)
        for event in executor.results(jobs):
            if event.kind == "done":
                seen = TrainingResult.of(event).observation
                results.append({"steps": seen.steps, "accuracy": seen.accuracy, "cpu_share": seen.cpu_share})
    return results


def main() -> None:
    """Measure all arms. Each starts new processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--train-images", type=int, default=5000)
    parser.add_argument("--val-images", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--arm", type=int, help="measure this arm alone, once")
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    if options.arm is not None:
        print(json.dumps(train(arms()[options.arm], options)))
        return
    trainings: dict[str, list[dict[str, Any]]] = {str(arm): [] for arm in arms()}
    for _ in range(options.repeats):
        for number, arm in enumerate(arms()):
            command = [sys.executable, "-m", "benchmarks.training.contention", *sys.argv[1:], "--arm", str(number)]
            waiting = {"OMP_WAIT_POLICY": "PASSIVE"} if arm.is_passive else {}
            ended = subprocess.run(command, env={**os.environ, **waiting}, capture_output=True, text=True, check=True)
            trainings[str(arm)] += json.loads(ended.stdout)
    rows = {
        name: {key: median(t[key] for t in own) for key in ("steps", "cpu_share", "accuracy")} | {"trainings": own}
        for name, own in trainings.items()
    }
    write({"machine": machine(), "seconds": options.seconds, "recipe": RECIPE, "arms": rows}, options.to)


if __name__ == "__main__":
    main()
