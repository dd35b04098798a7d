"""Which network families are worth a place in one space: their candidates under the same bounds, budget and recipe.

    python -m benchmarks.costs.families --data cifar10-images.zip --train-time 30s --workers 2 --to benchmarks/results/families.json

For each bound on MACs, each family's space gives the first candidates of its pool between a half of the bound and the bound. All
are trained once by the same recipe, on the same 5,000 images, and scored on the same 1,000 validation images: best, median, and
the steps that the median candidate got.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, write
from jointnas.data.dataset import load_data
from jointnas.data.spec import DataSpec
from jointnas.execution import share_slots
from jointnas.space.constraint import Constraint
from jointnas.space.sampling import draw_pool
from jointnas.space.space import Space
from jointnas.training.job import TrainingJob, trial_executor
from jointnas.units import format_count, parse_count, parse_duration

RECIPE = {
    "optimizer": "adamw",
    "learning_rate": 0.3,
    "weight_decay": 0.01,
    "bias_learning_rate": 4.0,
    "batch_size": 128,
    "ema": 0.98,
    "warmup": 0.2,
    "crop": 0.125,
    "flip": True,
    "label_smoothing": 0.1,
}
SPLIT = 6000  # the seed that draws the images: of no search and no test


def candidates(family: str, bound: float, count: int, shape: tuple[int, ...], classes: int) -> list[dict[str, Any]]:
    """Return the first candidates of a family's pool between a half of the bound and the bound, with the common recipe."""
    space = Space.load(family, shape, classes)
    limits = [Constraint("macs", "<=", bound), Constraint("macs", ">=", bound / 2)]
    found = space.to_candidates(draw_pool(space, count, limits, seed=0))
    return [{"architecture": candidate["architecture"], "recipe": RECIPE} for candidate in found]


def main() -> None:
    """Train all and print a row for each family and bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=["resnet9", "fbnet", "resnet", "mobilenet", "chain", "senet"])
    parser.add_argument("--bounds", nargs="+", default=["1.5M", "6M", "24M"])
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--train-time", default="30s")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    spec = DataSpec(options.data, train_images=5000, val_images=1000, seed=SPLIT)
    data = load_data(spec)
    arms = [(family, bound) for bound in options.bounds for family in options.families]
    asked = {
        arm: candidates(arm[0], parse_count(arm[1]), options.candidates, data.input_shape, len(data.classes))
        for arm in arms
    }
    where = [(arm, candidate) for arm in arms for candidate in asked[arm]]
    clock = {"train_seconds": parse_duration(options.train_time)}
    jobs = [TrainingJob(c, clock, seed=i).numbered(i) for i, (_, c) in enumerate(where)]
    slot = share_slots(options.workers, options.device)
    trained: dict[tuple[str, str], list[dict[str, Any]]] = {arm: [] for arm in arms}
    with trial_executor(spec, slot, data.fingerprint) as executor:
        for event in executor.results(jobs):
            if event.kind == "done":
                trained[where[event.number][0]].append(event.result["observation"])
    rows = []
    for family, bound in arms:
        good = trained[family, bound]
        accuracies = [observation["accuracy"] for observation in good]
        rows.append(
            {
                "family": family,
                "macs_below": format_count(parse_count(bound)),
                "trained": len(good),
                "best": max(accuracies, default=None),
                "median": statistics.median(accuracies) if accuracies else None,
                "steps": statistics.median(observation["steps"] for observation in good) if good else None,
            }
        )
    write({"machine": machine(), "slot": slot.to_json(), "train_time": options.train_time, "rows": rows}, options.to)


if __name__ == "__main__":
    main()
