"""The best network after so many trainings: ours against the optimisers that a user would pick instead.

    pip install optuna==5.0.0 greenlet smac==2.4.1 nevergrad==1.0.12 botorch==0.12.0 neural-pipeline-search==0.17.0
    python -m benchmarks.search.search --seeds 20 --workers 2 --to benchmarks/results/search.json

The objective is a surrogate of the table of real trainings: the mean of boosted trees and of a support vector machine, fitted to its first
`--candidates`. They are not ours, but read the inputs that ours reads (`predictor.features`): from the knobs and costs alone no model came
near. The card says how well it ranks the candidates that it has not seen. A training answers with the surrogate's accuracy
and the noise that repeated trainings show. What counts is the surrogate's own accuracy for the candidate that looked best so far.

Everyone spends the budgets of `--trainings` trainings. Ours asks for batches of `--batch`; all others learn after every training. There is a
loose bound and a tight one, and each optimiser gets it in its own best way (`peers.py`). A candidate beyond the bound is not trained. SMAC
treats trainings as free of noise; otherwise it would train a candidate several times. A training also returns its number of steps, which
only ours reads. An arm whose name ends with ", recipes" trains built-in recipes first, made for the bound as a search makes them.

`--bounds none` leaves out the widest networks instead, until all that are left meet the table's own bound, and then bounds nothing: of
networks beyond it nobody knows what they reach.

`--rows` searches the table's own rows instead, with accuracies as they were trained: only what can rank a list takes part.
`--public NAME` searches a complete public table instead (`public.py`), without a prior; NAS-Bench-201's networks have a bound on their
parameters. `optimum` is the best value within the bound.
`--pretrained FOLDER` is what the arm "jointnas, pretrained" starts from. `--arms` names others than the usual ones: variants of ours that
choose their batches from the pool alone, by medians or by upper confidence.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import machine
from benchmarks.search.optimisers import ARMS, OF_PUBLIC, OF_ROWS, OF_SPACES
from benchmarks.search.task import Array, Objective, Rows, Spent, Surrogate, Task
from benchmarks.tables.table import TABLE, Table

BOUNDS = ("macs<40M", "macs<3M")
MARKS = (8, 16, 32, 64, 128)
WARM, RECIPES = ", recipes", 3  # an arm of this name starts from so many built-in recipes
PEERS = {
    "optuna": "optuna",
    "smac": "smac",
    "nevergrad": "nevergrad",
    "PyNomadBBO": "PyNomad",
    "botorch": "botorch",
    "neural-pipeline-search": "neps",
}  # distributions: modules

OBJECTIVE: Objective


def begin(table: Path, rows: bool, candidates: int, public: str | None) -> None:
    """Read the table that the runs of this process search, or fit its surrogate."""
    global OBJECTIVE
    if public:
        from benchmarks.search.public import Published

        OBJECTIVE = Published(public)
        return
    searched = Table.read(table).commonest()
    OBJECTIVE = Rows(searched) if rows else Surrogate(searched, candidates)


def run(job: tuple[str, str, int], trainings: int, batch: int, pretrained: Path | None) -> dict[str, Any]:
    """Return what one optimiser found with one seed."""
    name, bound, seed = job
    task = Task(OBJECTIVE, bound, trainings, batch, seed)
    task.pretrained = pretrained
    if name.endswith(WARM):
        task.use_recipes(RECIPES)
    began = time.process_time()
    with suppress(Spent):
        ARMS[name.removesuffix(WARM)](task, seed)
    leaders = task.leaders()
    last = leaders[-1]
    return {
        "arm": name,
        "bound": bound,
        "seed": seed,
        "best": [0.0 if i is None else round(task.true[i], 4) for i in leaders],
        "winner": None if last is None else task.candidates[last],
        "wasted": task.held.count(False),
        "seconds": round(time.process_time() - began, 1),
    }


def summary(runs: list[dict[str, Any]], trainings: int) -> dict[str, Any]:
    """Return medians and quartiles by bound and arm, and after how many trainings ours is where each peer ends."""
    found: dict[str, Any] = {}
    for bound in sorted({one["bound"] for one in runs}):
        curves: dict[str, Array] = {}
        found[bound] = rows = {}
        for name in dict.fromkeys(one["arm"] for one in runs):
            own = [one for one in runs if one["arm"] == name and one["bound"] == bound]
            if not own:
                continue
            curves[name] = np.array([one["best"] for one in own])
            quartiles = np.quantile(curves[name], [0.5, 0.25, 0.75], axis=0)
            rows[name] = {
                "seeds": len(own),
                "best": {str(n): [round(float(v), 4) for v in quartiles[:, n - 1]] for n in MARKS if n <= trainings},
                "wasted": float(np.median([one["wasted"] for one in own])),
                "seconds": round(float(np.median([one["seconds"] for one in own])), 1),
            }
        for name, curve in curves.items():
            for mine in ("jointnas", "jointnas, no prior"):
                if mine in curves and name != mine:
                    below = np.flatnonzero(np.median(curves[mine], axis=0) < np.median(curve[:, -1]))
                    reached = int(below[-1]) + 2 if len(below) else 1  # from here on it is never behind
                    rows[name][f"{mine}: trainings to its end"] = reached if reached <= trainings else None
    return found


def main() -> None:
    """Run every optimiser with every seed, kept as each ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--candidates", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trainings", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rows", action="store_true")
    parser.add_argument("--public", metavar="NAME", help="such as 'nasbench201 cifar10'")
    parser.add_argument("--pretrained", type=Path, help="of `benchmarks.search.pretrain --leave-out` this table")
    parser.add_argument("--arms", nargs="+")
    parser.add_argument("--bounds", nargs="+", default=list(BOUNDS))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    kept = json.loads(options.to.read_text()) if options.to.exists() else {"runs": []}
    task = [options.table, options.rows, options.candidates, options.public]
    begin(*task)
    arms = options.arms or (OF_PUBLIC if options.public else OF_ROWS if options.rows else OF_SPACES)
    setting = {"objective": OBJECTIVE.card, "trainings": options.trainings, "batch": options.batch}
    if any(kept.get(name, value) != value for name, value in setting.items()):
        raise SystemExit(
            f"results go on for the table and options that they began with, got others in {options.to}: remove it"
        )
    print(json.dumps(OBJECTIVE.card), flush=True)
    done = {(one["arm"], one["bound"], one["seed"]) for one in kept["runs"]}
    jobs = [(arm, bound, seed) for seed in range(options.seeds) for bound in options.bounds for arm in arms]
    jobs = [job for job in jobs if job not in done]
    work = partial(run, trainings=options.trainings, batch=options.batch, pretrained=options.pretrained)
    with multiprocessing.get_context("spawn").Pool(options.workers, begin, task) as workers:
        for one in workers.imap_unordered(work, jobs):
            kept["runs"].append(one)
            keep(options.to, {**setting, "runs": kept["runs"]})
            print(one["arm"], one["bound"], one["seed"], one["best"][-1], one["seconds"], flush=True)
    results = summary(kept["runs"], options.trainings)
    unseen = OBJECTIVE.unseen if isinstance(OBJECTIVE, Surrogate) else None
    print(json.dumps(results, indent=1))
    versions = {name: version(name) for name in PEERS if find_spec(PEERS[name])}
    about = {"machine": {**machine(), **versions}, **setting, "unseen": unseen, "summary": results}
    if options.public:
        about["optimum"] = {bound: optimum(bound) for bound in options.bounds}
    keep(options.to, {**about, "runs": kept["runs"]})


def optimum(bound: str) -> float:
    """Return the best accuracy within a bound."""
    return max(OBJECTIVE(candidate)[0] for candidate in Task(OBJECTIVE, bound, 0, 0, 0).pool or ())


def keep(to: Path, found: dict[str, Any]) -> None:
    """Replace a results file at once."""
    beside = to.with_suffix(".new")
    beside.write_text(json.dumps(found) + "\n")
    os.replace(beside, to)


if __name__ == "__main__":
    main()
