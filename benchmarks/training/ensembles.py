"""Ensembles against one network, at equal MACs and equal seconds in all.

    python -m benchmarks.training.ensembles --data cifar10-images.zip --to benchmarks/results/ensembles-cifar10.json

Each arm is a built-in recipe on the widest networks that share the bound, as a search makes them for its bound and budget: one network, and two
or three members of seeds or snapshots. Every seed draws other images and weights. Members that do not pay on the validation images are left
out, and the test images are scored once. The machine must be left alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.measure import machine, write
from jointnas.campaign.candidate_file import candidate_costs
from jointnas.campaign.portfolio import adapted, portfolio
from jointnas.campaign.retrain import spread
from jointnas.campaign.shares import bounds_of_member
from jointnas.campaign.timing import BudgetSteps
from jointnas.data.dataset import load_data
from jointnas.data.spec import DataSpec
from jointnas.execution.slots import share_slots
from jointnas.measurement.meter import Meter
from jointnas.space.constraint import parse_all
from jointnas.space.knob_space import Candidate
from jointnas.space.space import Space
from jointnas.training.job import TrainingJob, TrainingResult, trial_executor
from jointnas.training.members import SEEDS, SNAPSHOTS, part_of

ARMS = {
    "one network": (1, SEEDS),
    "2 seeds": (2, SEEDS),
    "3 seeds": (3, SEEDS),
    "2 snapshots": (2, SNAPSHOTS),
    "3 snapshots": (3, SNAPSHOTS),
}
FIRST_SEED = 2_000_000_000


def candidates(options: argparse.Namespace, spec: DataSpec) -> dict[str, Candidate]:
    """Return the recipe of each arm, on the widest network that a member may have."""
    data, slot = load_data(spec), share_slots(options.workers, "cpu")
    space = Space.load("resnet9", data.input_shape, len(data.classes)).restricted(len(data.train))
    (member,) = (own for own in portfolio() if own.name == options.recipe)
    found = {}
    with Meter(slot, data.input_shape, len(data.classes)) as meter:
        for arm in options.arms:
            members, kind = ARMS[arm]
            exact = parse_all(bounds_of_member([options.bound], members), space.metrics)
            clock = {"train_seconds": options.seconds}
            seconds = clock if kind == SNAPSHOTS else part_of(clock, members)
            own = adapted(member, space, exact, BudgetSteps(meter, seconds["train_seconds"]))
            assert own is not None
            found[arm] = own.candidate
    return found


def main() -> None:
    """Train and score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--train-images", type=int, default=5000)
    parser.add_argument("--val-images", type=int, default=1000)
    parser.add_argument("--recipe", default="resnet9-1m")
    parser.add_argument("--bound", default="macs<20M")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    images = (str(options.data), options.train_images, options.val_images, options.image_size)
    chosen = candidates(options, DataSpec(*images, 0))
    results: dict[str, list[TrainingResult]] = {arm: [] for arm in options.arms}
    for seed in options.seeds:
        spec = DataSpec(*images, seed)
        jobs = [
            TrainingJob(
                chosen[arm],
                {"train_seconds": options.seconds},
                FIRST_SEED + seed,
                test=True,
                members=ARMS[arm][0],
                ensemble=ARMS[arm][1],
            ).numbered(i)
            for i, arm in enumerate(options.arms)
        ]
        with trial_executor(spec, share_slots(options.workers, "cpu"), load_data(spec).fingerprint) as executor:
            for event in executor.results(jobs):
                if event.kind in ("done", "failed"):
                    results[options.arms[event.number]].append(TrainingResult.of(event))
    data = load_data(DataSpec(*images, 0))
    answer: dict[str, Any] = {"machine": machine(), **{k: v for k, v in vars(options).items() if k != "to"}}
    answer["data"] = options.data.name
    answer["arms"] = {
        arm: {
            "test": spread([r.test_accuracy for r in own if r.test_accuracy is not None]),
            "val": [r.observation.accuracy for r in own],
            "members": [r.members for r in own],
            "macs of a member": candidate_costs(chosen[arm], data.input_shape, len(data.classes))["macs"],
            "steps of a member": fmean(r.observation.steps or 0 for r in own),
            "candidate": chosen[arm],
        }
        for arm, own in results.items()
    }
    write(answer, options.to)


if __name__ == "__main__":
    main()
