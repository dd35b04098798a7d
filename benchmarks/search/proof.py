"""A search against the recipes that it starts from, by real trainings on a data set that nothing was fitted to.

    python -m benchmarks.search.proof --data tiny-food.zip --image-size 32 --hold-out 150 --train-images 2500 --val-images 1000 \\
        --rounds 3 --batch 6 --seeds 0 1 2 --to benchmarks/results/proof-food.json

Each search spends rounds × batch budgets, `--workers` at a time, under the bound; its network is the one that it leaves in its run. Each member
of the portfolio, made for the bound as the search makes it, is trained alone in the same slots with the same seeds. All are scored on the test
images once. The best recipe is the member with the highest mean accuracy on the validation images. Where the search's last training is on the
training and validation images together, the recipes and each search's winner are trained so twice more, side by side, and the search is
compared with the recipe on all images; `--all-images` does that in any case. The arm `peers` gives optimisers of others the same budgets, bound
and recipes to start from; each learns after every training, and its last budget trains its best candidate on all images, as that of the search.
`--hold-out` moves so many training images of each class into the test split first. The machine must be left alone meanwhile.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from statistics import fmean
from typing import Any

import torch

from benchmarks.measure import machine, write
from benchmarks.search.optimisers import ARMS
from benchmarks.search.real_trainings import RealTrainings, Train, delivered, serve
from jointnas.api import run_search
from jointnas.campaign.portfolio import starting_candidates
from jointnas.campaign.retrain import spread
from jointnas.campaign.spec import ALL_IMAGES, BEST_NETWORK, SearchSpec
from jointnas.campaign.timing import BudgetSteps
from jointnas.campaign.winner_file import load
from jointnas.data.dataset import Data, load_data
from jointnas.data.spec import DataSpec
from jointnas.execution.slots import share_slots
from jointnas.measurement.meter import Meter
from jointnas.space.constraint import parse_all
from jointnas.space.knob_space import Candidate
from jointnas.space.space import Space
from jointnas.training.job import TrainingJob, TrainingResult, trial_executor

FIRST_SEED = 2_000_000_000  # of the recipes' trainings: of no search
AGAIN, REPEAT_STRIDE = 2, 10_000  # trainings on all images of each recipe and each winner, and between their seeds


def with_larger_test(source: Path, images: int, folder: Path) -> Path:
    """Return a copy of a zip of images in which so many training images of each class, by the hash of their name, are test images."""
    target = folder / source.name
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        classes: dict[PurePosixPath, list[str]] = defaultdict(list)
        for name in old.namelist():
            if not name.endswith("/"):
                classes[PurePosixPath(name).parent].append(name)
        for place, names in classes.items():
            ordered = sorted(names, key=lambda name: hashlib.sha256(PurePosixPath(name).name.encode()).hexdigest())
            moved = set(ordered[:images]) if place.parent.name == "train" else set()
            for name in names:
                path = PurePosixPath(name)
                if name in moved:
                    path = place.parent.parent / "test" / place.name / f"held-{path.name}"
                new.writestr(str(path), old.read(name))
    return target


def searched(spec: DataSpec, options: argparse.Namespace, seed: int, out: Path) -> dict[str, Any]:
    """Return what a search ended with, and the test accuracy of its network."""
    began = time.monotonic()
    campaign = run_search(
        data=DataSpec(spec.source, spec.train_images, spec.val_images, spec.image_size, seed),
        constraints=[options.bound],
        train_time=options.seconds,
        rounds=options.rounds,
        batch=options.batch,
        workers=options.workers,
        seed=seed,
        device="cpu",
        final=options.final,
        prior=options.prior,
        out=str(out),
    )
    seconds = time.monotonic() - began
    winner = campaign.best
    own = DataSpec(spec.source, spec.train_images, spec.val_images, spec.image_size, seed)
    data, on_all_images = load_data(own), {}
    if options.all_images:
        again = trained(own, options, {"winner": winner.candidate}, seed, AGAIN, with_val=True)["winner"]
        on_all_images = {"test_accuracy_all_images": [result.test_accuracy for result in again]}
    return {
        "seed": seed,
        **on_all_images,
        "test_accuracy": test_accuracy(out, data.test()),
        "predicted": winner.mean,
        "std": winner.std,
        "val_accuracy": winner.accuracy,
        "candidate": winner.candidate,
        "costs": winner.costs,
        "trials": [row["observation"]["accuracy"] for row in campaign.trials],
        "seconds": round(seconds, 1),
    }


def test_accuracy(run: Path, split: Any) -> float:
    """Return the accuracy of a run's network on a split."""
    model, right = load(run), 0
    with torch.inference_mode():
        for start in range(0, len(split), 500):
            images = split.images[start : start + 500].permute(0, 3, 1, 2)
            right += int((model(images).argmax(1) == split.labels[start : start + 500]).sum())
    return right / len(split)


def space_of(data: Data) -> Space:
    """Return the space that is searched for these images."""
    return Space.load("resnet9", data.input_shape, len(data.classes)).restricted(len(data.train))


def portfolio(spec: DataSpec, options: argparse.Namespace) -> dict[str, Candidate]:
    """Return the members of the portfolio by name, made for the bound and the budget as a search makes them."""
    data, slot = load_data(spec), share_slots(options.workers, "cpu")
    space = space_of(data)
    with Meter(slot, data.input_shape, len(data.classes)) as meter:
        steps = BudgetSteps(meter, options.seconds)
        return starting_candidates(space, parse_all([options.bound], space.metrics), options.members, steps)


def recipes(spec: DataSpec, options: argparse.Namespace, members: Mapping[str, Candidate]) -> dict[str, Any]:
    """Return the accuracies of each member of the portfolio, trained alone, by its name."""
    space = space_of(load_data(spec))
    found: dict[str, Any] = {
        name: {"candidate": candidate, "costs": space.cost(candidate), "val": [], "test": []}
        for name, candidate in members.items()
    }
    for seed in options.seeds:
        own = DataSpec(spec.source, spec.train_images, spec.val_images, spec.image_size, seed)
        for name, (result,) in trained(own, options, members, seed).items():
            found[name]["val"].append(result.observation.accuracy)
            found[name]["test"].append(result.test_accuracy)
        if options.all_images:
            for name, results in trained(own, options, members, seed, AGAIN, with_val=True).items():
                reached = [result.test_accuracy for result in results if result.test_accuracy is not None]
                found[name].setdefault("test_all_images", []).append(fmean(reached) if reached else None)
    return found


def trained(
    spec: DataSpec,
    options: argparse.Namespace,
    members: Mapping[str, Candidate],
    seed: int,
    times: int = 1,
    with_val: bool = False,
) -> dict[str, list[TrainingResult]]:
    """Train each member so many times in the search's slots, and score the test images. with_val: on the validation images too."""
    clock, results = {"train_seconds": options.seconds}, defaultdict(list)
    seeds = [FIRST_SEED + seed + REPEAT_STRIDE * i for i in range(times)]
    names = [name for name in members for _ in seeds]
    jobs = [
        TrainingJob(members[name], clock, own_seed, test=True, with_val=with_val).numbered(number)
        for number, (name, own_seed) in enumerate(zip(names, seeds * len(members), strict=True))
    ]
    slot = share_slots(options.workers, "cpu")
    with trial_executor(spec, slot, load_data(spec).fingerprint) as executor:
        for event in executor.results(jobs):
            if event.kind in ("done", "failed"):
                results[names[event.number]].append(TrainingResult.of(event))
    return results


def ends_on_all_images(options: argparse.Namespace) -> bool:
    """Whether the last budget of a search trains its winner on all images."""
    return bool(SearchSpec.last_trainings(options.rounds, options.batch, None, options.final, None)[1])


def peers(spec: DataSpec, options: argparse.Namespace, starts: Sequence[Candidate]) -> dict[str, list[dict[str, Any]]]:
    """Return what each peer ends with, by seed: from the same recipes, with as many budgets, side by side in the search's slots."""
    final = ends_on_all_images(options)
    clock, slot = {"train_seconds": options.seconds}, share_slots(options.workers, "cpu")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in options.peers}
    for seed in options.seeds:
        own = DataSpec(spec.source, spec.train_images, spec.val_images, spec.image_size, seed)
        data = load_data(own)
        space = space_of(data)

        def search(train: Train, place: int, name: str, space: Space = space, seed: int = seed) -> dict[str, Any]:
            first_seed = FIRST_SEED + 1000 * (len(options.peers) * seed + place + 1)
            trainings = RealTrainings(space, options.bound, clock, first_seed, train)
            budgets = options.rounds * options.batch
            return delivered(ARMS[name], trainings, options.bound, starts, budgets, seed, final)

        clients = [partial(search, place=place, name=name) for place, name in enumerate(options.peers)]
        with trial_executor(own, slot, data.fingerprint) as executor:
            for name, row in zip(options.peers, serve(executor, clients, options.workers), strict=True):
                found[name].append(row)
                print(name, seed, json.dumps(row), flush=True)
    return found


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of images, bound, budget and result."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--hold-out", type=int, default=0)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--train-images", type=int, required=True)
    parser.add_argument("--val-images", type=int, required=True)
    parser.add_argument("--bound", default="macs<20M")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--to", type=Path)
    return parser


def main() -> None:
    """Train and search."""
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=["recipes", "search"], choices=["recipes", "search", "peers"])
    parser.add_argument("--peers", nargs="+", default=["optuna gp", "optuna tpe"], choices=ARMS)
    parser.add_argument(
        "--prior", help="what searches start from (default: the shipped network), such as one of `pretrain --leave-out`"
    )
    parser.add_argument("--final", choices=(BEST_NETWORK, ALL_IMAGES), help="see `jointnas search --final`")
    parser.add_argument("--all-images", action="store_true")
    parser.add_argument("--runs", type=Path, help="where to keep the searches' runs")
    options = parser.parse_args()
    options.all_images |= {"recipes", "search"} <= set(options.arms) and ends_on_all_images(options)
    with tempfile.TemporaryDirectory() as folder:
        source = with_larger_test(options.data, options.hold_out, Path(folder)) if options.hold_out else options.data
        spec = DataSpec(str(source), options.train_images, options.val_images, options.image_size, 0)
        answer: dict[str, Any] = {
            "machine": machine(),
            "data": options.data.name,
            "test_images": load_data(spec).test_images,
        }
        answer |= {
            name: getattr(options, name) for name in ("hold_out", "image_size", "train_images", "val_images", "bound")
        }
        answer |= {name: getattr(options, name) for name in ("seconds", "rounds", "batch", "workers", "seeds", "final")}
        answer["prior"] = options.prior and Path(options.prior).name
        members = portfolio(spec, options) if {"recipes", "peers"} & set(options.arms) else {}
        if "recipes" in options.arms:
            answer["recipes"] = found = recipes(spec, options, members)
            best = max(found, key=lambda name: fmean(accuracy or 0.0 for accuracy in found[name]["val"]))
            answer["best_recipe"] = {"name": best, "test_accuracy": spread(found[best]["test"])}
            if options.all_images:
                answer["best_recipe"]["test_accuracy_all_images"] = spread(found[best]["test_all_images"])
            print(json.dumps(answer["best_recipe"]), flush=True)
            write(answer, options.to)
        if "search" in options.arms:
            runs = options.runs or Path(folder) / "runs"
            answer["searches"] = []
            for seed in options.seeds:
                answer["searches"].append(searched(spec, options, seed, runs / f"seed-{seed}"))
                write(answer, options.to)
            answer["search"] = spread([one["test_accuracy"] for one in answer["searches"]])
        if "peers" in options.arms:
            answer["peers"] = peers(spec, options, list(members.values()))
            answer["peer"] = {n: spread([one["test_accuracy"] for one in own]) for n, own in answer["peers"].items()}
        if {"recipes", "search"} <= set(options.arms):
            on_all = options.all_images and ends_on_all_images(options)
            recipe = answer["best_recipe"]["test_accuracy_all_images" if on_all else "test_accuracy"]["seeds"]
            pairs = zip(answer["search"]["seeds"], recipe, strict=True)
            answer["search_minus_recipe"] = spread([ours - recipe for ours, recipe in pairs])
        write(answer, options.to)


if __name__ == "__main__":
    main()
