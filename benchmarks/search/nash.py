"""NASH on one data set: the table of the paper (Elsken, Metzen & Hutter 2017) at a scale that a few cores can do.

    python -m benchmarks.search.nash --data cifar10-images.zip --to benchmarks/results/nash.json

Arms, each with every seed: the climb; `one neighbour` (random networks); `no SGDR` (a constant learning rate); `no morphisms` (children from
fresh weights); `retrained` (the network that the climb found, from fresh weights, for all the budgets of its lineage together); `snapshots`
(the same, as an ensemble of three snapshots); `across runs` (the climb's network and those of two more climbs on the same images, as an
ensemble); `search`, this project's own search in the seconds that the climb took: twelve trainings, of a minute at most. All but the
ensembles keep the bound; all share the slots, train the last network on the training and validation images together, and score the test
images once. The machine must be left alone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, write
from benchmarks.search.proof import test_accuracy
from jointnas.api import run_search
from jointnas.campaign.combine import combine
from jointnas.campaign.result import Campaign
from jointnas.campaign.retrain import spread
from jointnas.data.dataset import load_data
from jointnas.data.spec import DataSpec
from jointnas.execution.slots import share_slots
from jointnas.training.job import TrainingJob, TrainingResult, trial_executor
from jointnas.training.members import SEEDS, SNAPSHOTS

RATE = 0.05
CLIMBS: dict[str, dict[str, Any]] = {
    "climb": {},
    "one neighbour": {"batch": 1},
    "no SGDR": {"last_learning_rate": RATE},
    "no morphisms": {"inherit": False},
}
RETRAINED = {"retrained": 1, "snapshots": 3}  # the networks of each
ACROSS_RUNS, RUNS_TOGETHER = "across runs", 3
ARMS = (*CLIMBS, *RETRAINED, ACROSS_RUNS, "search")
LINEAGE = (20 + 100) / 17  # budgets of a lineage beside its steps
FIRST_SEED = 2_000_000_000
MORE_SEEDS = 100  # between the seeds of two climbs on the same images
FEWEST_TRAININGS = 12  # of a search


def climbed(spec: DataSpec, options: argparse.Namespace, arm: str, seed: int, out: Path) -> dict[str, Any]:
    """Return what a climb ended with."""
    settings = {"rounds": options.rounds, "batch": options.batch, "morphisms": options.morphisms, **CLIMBS[arm]}
    began = time.monotonic()
    campaign = run_search(
        kind="nash",
        data=spec,
        train_time=None if options.steps else options.seconds,
        train_steps=options.steps,
        constraints=[options.bound],
        workers=options.workers,
        seed=seed,
        out=str(out),
        **settings,
    )
    return outcome(campaign, spec, time.monotonic() - began)


def outcome(campaign: Campaign, spec: DataSpec, seconds: float) -> dict[str, Any]:
    """Return the test accuracy of a campaign's network, and what it costs."""
    return {
        "test_accuracy": test_accuracy(campaign.path, load_data(spec).test()),
        "val_accuracy": campaign.best.accuracy,
        "macs": campaign.best.costs["macs"],
        "params": campaign.best.costs["params"],
        "candidate": campaign.best.candidate,
        "steps": [row["observation"]["accuracy"] for row in campaign.trials],
        "seconds": round(seconds, 1),
    }


def retrained(
    spec: DataSpec, options: argparse.Namespace, found: dict[str, Any], seed: int, members: int
) -> dict[str, Any]:
    """Return what the network of a climb reaches from fresh weights, on all images, in the budgets of its lineage together.

    members: how many snapshots of the training, 1 for its last network.
    """
    budgets = LINEAGE + options.rounds
    each = {"train_steps": options.steps} if options.steps else {"train_seconds": options.seconds}
    clock = {name: round(budgets * value) for name, value in each.items()}
    job = TrainingJob(
        found["candidate"],
        clock,
        FIRST_SEED + seed,
        test=True,
        with_val=True,
        members=members,
        ensemble=SNAPSHOTS if members > 1 else SEEDS,
    ).numbered(0)
    with trial_executor(spec, share_slots(options.workers, "cpu"), load_data(spec).fingerprint) as executor:
        (result,) = (TrainingResult.of(e) for e in executor.results([job]) if e.kind in ("done", "failed"))
    costs = {name: members * found[name] for name in ("macs", "params")}
    return {"test_accuracy": result.test_accuracy, **costs, **clock}


def across_runs(
    spec: DataSpec, options: argparse.Namespace, found: dict[str, Any], seed: int, out: Path
) -> dict[str, Any]:
    """Return what the networks of several climbs on the same images reach together, the first of them the seed's own climb."""
    runs, seconds = [out.with_name(f"climb-{seed}")], found["seconds"]
    for number in range(1, RUNS_TOGETHER):
        runs.append(out.with_name(f"{out.name}-{number}"))
        seconds += climbed(spec, options, "climb", MORE_SEEDS * number + seed, runs[-1])["seconds"]
    combined = combine([str(run) for run in runs], out)
    results = combined.winner.results
    alone = [member["test_accuracy"] for member in results["members"]]
    return {**combined.winner.costs, "test_accuracy": results["test_accuracy"], "alone": alone, "seconds": seconds}


def searched(spec: DataSpec, options: argparse.Namespace, seconds: float, seed: int, out: Path) -> dict[str, Any]:
    """Return what this project's own search ends with in these seconds."""
    each = min(60.0, seconds * options.workers / FEWEST_TRAININGS)
    began = time.monotonic()
    campaign = run_search(
        data=spec,
        train_time=each,
        total_time=seconds,
        constraints=[options.bound],
        workers=options.workers,
        rounds=2,
        seed=seed,
        out=str(out),
    )
    return {**outcome(campaign, spec, time.monotonic() - began), "train_seconds": each}


def main() -> None:
    """Climb, retrain and search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--train-images", type=int, default=5000)
    parser.add_argument("--val-images", type=int, default=1000)
    parser.add_argument("--bound", default="macs<20M")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a child")
    parser.add_argument("--steps", type=int, help="of a child, in place of seconds: as the paper, which counts epochs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--morphisms", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--runs", type=Path, help="where to keep the runs")
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    if "climb" not in options.arms and {*RETRAINED, ACROSS_RUNS, "search"} & set(options.arms):
        parser.error("the other arms start from the climb: name it among --arms, and first")
    answer: dict[str, Any] = {
        "machine": machine(),
        **{n: v for n, v in vars(options).items() if n not in ("runs", "to")},
    }
    answer["data"] = options.data.name
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in options.arms}
    with tempfile.TemporaryDirectory() as folder:
        runs = options.runs or Path(folder)
        for seed in options.seeds:
            spec = DataSpec(str(options.data), options.train_images, options.val_images, options.image_size, seed)
            for arm in options.arms:
                out = runs / f"{arm.replace(' ', '-')}-{seed}"
                if arm in CLIMBS:
                    one = climbed(spec, options, arm, seed, out)
                elif arm in RETRAINED:
                    one = retrained(spec, options, found["climb"][-1], seed, RETRAINED[arm])
                elif arm == ACROSS_RUNS:
                    one = across_runs(spec, options, found["climb"][-1], seed, out)
                else:
                    one = searched(spec, options, found["climb"][-1]["seconds"], seed, out)
                found[arm].append(one)
                print(
                    seed,
                    arm,
                    {name: one.get(name) for name in ("test_accuracy", "macs", "params", "seconds")},
                    flush=True,
                )
                answer["arms"] = {
                    arm: {"test": spread([o["test_accuracy"] for o in own]), "runs": own}
                    for arm, own in found.items()
                    if own
                }
                if options.to:
                    write(answer, options.to)


if __name__ == "__main__":
    main()
