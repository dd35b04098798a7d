"""The HAET 2021 protocol on CIFAR-10: how accurate a recipe is when its training's clock has run out.

    python -m benchmarks.training.ten_minutes resnet9-10m --train-time 10m --data cifar10-images.zip --to results.json
    python -m benchmarks.training.ten_minutes resnet9-1m --train-time 60s --workers 2 --without-each --also gradient=mltp --data … --to …
    python -m benchmarks.training.ten_minutes resnet9-1m --train-images 4000 --also cutmix=0,policy=mine.toml --data … --to …

Every seed draws its own 5,000 training and 1,000 validation images by class, from a range of seeds that no search of this
project uses, and trains once; the test images are scored once a training, after its clock. `--without-each` also trains the
recipe with each of its parts taken out, one at a time, `--also` with other knobs of the recipe or the network put in. Recipes
are built-in names or candidate files. Results are written after each seed; the same command goes on where it stood. Run it on
a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import machine
from jointnas.campaign.candidate_file import find_candidate
from jointnas.campaign.policy_file import with_policy_text
from jointnas.cli.common import parse_assignments
from jointnas.data.dataset import Data, load_data
from jointnas.data.spec import DataSpec
from jointnas.execution import share_slots
from jointnas.network.cost import blueprint_cost, scoring_cost
from jointnas.network.families import make_blueprint
from jointnas.training.job import TrainingJob, trial_executor
from jointnas.training.recipe import Recipe, knob_fields
from jointnas.units import parse_duration

FIRST_SEED = 5000
TRAIN_IMAGES, VAL_IMAGES = 5000, 1000

OFF: dict[str, dict[str, Any]] = {
    "architecture": {"whitening": False, "activation": "relu", "resolution": 1.0},
    "recipe": {
        "optimizer": "sgd",
        "bias_learning_rate": 1.0,
        "gradient": "plain",
        "gradient_centralisation": False,
        "ema": 0.0,
        "lookahead": 0,
        "schedule": "linear",
        "warmup": 0.0,
        "start_resolution": 1.0,
        "label_smoothing": 0.0,
        "weight_decay": 0.0,
        "dropout": 0.0,
        "stochastic_depth": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "crop": 0.0,
        "flip": False,
        "cutout": 0.0,
        "policy": "none",
        "initialisation": "he",
        "ghost_batch": 0,
        "norm_images": 0,
        "test_flip": False,
    },
}
"""What each part of a recipe is replaced by when it is taken out."""

BESIDE = {"optimizer": {"learning_rate": 0.5, "momentum": 0.9}}
"""Knobs that change with a part: SGD in the place of another optimizer gets the rate that was best for it in the search."""

Candidate = dict[str, dict[str, Any]]


def variants(name: str, candidate: Candidate, without_each: bool, also: Sequence[str]) -> dict[str, Candidate]:
    """Return the candidate by its name and, where asked, each one that lacks one part of it or has another."""
    found = {name: candidate}
    for text in also:
        given = with_policy_text(parse_assignments(text.split(",")), Path())
        changed = {
            "recipe": {**candidate["recipe"], **{k: v for k, v in given.items() if k in knob_fields()}},
            "architecture": {**candidate["architecture"], **{k: v for k, v in given.items() if k not in knob_fields()}},
        }
        found[f"{name} with {text.replace('=', ' = ').replace(',', ', ')}"] = changed
    defaults = {knob: spec.default for knob, spec in knob_fields().items()}
    whole = Recipe.from_knobs(candidate["recipe"]).effective(32, 32)
    for group, parts in OFF.items() if without_each else ():
        for knob, off in parts.items():
            if group == "architecture" and knob not in candidate[group]:
                continue
            changed = {**candidate, group: {**candidate[group], knob: off, **BESIDE.get(knob, {})}}
            now = candidate[group].get(knob, defaults.get(knob))
            acts = group == "architecture" or Recipe.from_knobs(changed["recipe"]).effective(32, 32) != whole
            if now != off and acts:
                found[f"{name} without {knob} = {now}"] = changed
    return found


def train_all(candidates: dict[str, Candidate], seed: int, options: argparse.Namespace, done: dict[str, Any]) -> Data:
    """Train each candidate once on the images that `seed` draws, put what each gave into `done`, and return the images."""
    spec = DataSpec(options.data, options.train_images, options.val_images, options.image_size, seed)
    data = load_data(spec)
    clock = {"train_seconds": parse_duration(options.train_time)}
    left = [name for name in candidates if str(seed) not in done.setdefault(name, {})]
    jobs = [TrainingJob(candidates[name], clock, seed, test=True).numbered(i) for i, name in enumerate(left)]
    slot = share_slots(options.workers, options.device)
    if not jobs:
        return data
    with trial_executor(spec, slot, data.fingerprint) as executor:
        for event in executor.results(jobs):
            name = left[event.number]
            if event.kind == "done":
                observation = event.result["observation"]
                kept = ("accuracy", "steps", "images_per_second", "seconds")
                done[name][str(seed)] = {
                    "test_accuracy": event.result["test_accuracy"],
                    **{key: observation[key] for key in kept},
                }
                print(f"{name}  seed {seed}  test {event.result['test_accuracy']:.4f}", flush=True)
            elif event.kind == "failed":
                done[name][str(seed)] = {"failure": event.reason}
                print(f"{name}  seed {seed}  failed: {event.reason}", flush=True)
    return data


def summary(name: str, candidate: Candidate, trainings: dict[str, Any], data: Data) -> dict[str, Any]:
    """Return one row: mean and sample standard deviation over the seeds."""
    good = [t for t in trainings.values() if "test_accuracy" in t]
    row: dict[str, Any] = {"recipe": name, "seeds": len(good), "failed": len(trainings) - len(good)}
    for key in ("test_accuracy", "accuracy"):
        values = [t[key] for t in good]
        row[key] = {
            "mean": round(statistics.fmean(values), 4) if values else None,
            "std": round(statistics.stdev(values), 4) if len(values) > 1 else None,
        }
    row["steps"] = round(statistics.fmean(t["steps"] for t in good)) if good else None
    row["images_per_second"] = round(statistics.fmean(t["images_per_second"] for t in good)) if good else None
    row["latest_end_seconds"] = round(max(t["seconds"] for t in good), 3) if good else None
    views = Recipe.from_knobs(candidate["recipe"]).views
    network = make_blueprint(candidate["architecture"], data.input_shape, len(data.classes))
    row["macs"] = scoring_cost(blueprint_cost(network), views)["macs"]
    return row


def main() -> None:
    """Train, write after each seed, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--train-images", type=int, default=TRAIN_IMAGES)
    parser.add_argument("--val-images", type=int, default=VAL_IMAGES)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--train-time", default="10m")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--without-each", action="store_true")
    parser.add_argument("--also", action="append", default=[], help="knob=value[,knob=value …] of a further training")
    parser.add_argument("--workers", type=int, default=1, help="trainings side by side; the cores are shared out")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    candidates: dict[str, Candidate] = {}
    for name in options.recipes:
        candidates |= variants(
            Path(name).stem, dict(find_candidate(name).candidate), options.without_each, options.also
        )
    slot = share_slots(options.workers, options.device).to_json()
    images = {name: getattr(options, name) for name in ("train_images", "val_images", "image_size")}
    found: dict[str, Any] = {"machine": machine(), "slot": slot, "data": Path(options.data).name, **images}
    found |= {"train_time": options.train_time, "trainings": {}}
    if options.to.exists():
        before = json.loads(options.to.read_text())
        other = [name for name in ("data", "train_time", *images) if before.get(name, found[name]) != found[name]]
        if other:
            parser.error(f"{options.to} holds trainings of another {', '.join(other)}: name another file")
        found["trainings"] = before["trainings"]
    options.to.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
        data = train_all(candidates, seed, options, found["trainings"])
        found["rows"] = [summary(name, c, found["trainings"][name], data) for name, c in candidates.items()]
        options.to.write_text(json.dumps(found, indent=1) + "\n")
    print("\nrecipe\tseeds\ttest accuracy\tvalidation\tsteps\timages/s")
    for row in found["rows"]:
        test, val = (f"{row[k]['mean']} ± {row[k]['std']}" for k in ("test_accuracy", "accuracy"))
        print(f"{row['recipe']}\t{row['seeds']}\t{test}\t{val}\t{row['steps']}\t{row['images_per_second']}")


if __name__ == "__main__":
    main()
