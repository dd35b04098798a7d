"""Makes a table of real trainings on one data set, resumable: each candidate trained for as many steps as its budget holds.

    python -m benchmarks.tables.make --data tiny-food.zip --image-size 32 --train-images 3500 --val-images 1500 \\
        --table benchmarks/tables/tiny-food.csv --candidates 400 --workers 2

`plan.py` decides which candidates, `table.py` says what a row holds. First the steps of all new candidates are timed, on networks that
are thrown away, in seconds of the processor and on one thread: leave the machine alone until the trainings begin. Then each candidate is
trained for the steps that its budget holds, as under a wall clock on a quiet machine: a slow network gets fewer, and fails where not one
fits. In this part steps alone count: what else runs does not matter, and the learning curve is read on all validation images.

It may be stopped at any time: each row is kept as its training ends, and the same command goes on. With more `--candidates` than the
table has, the others are appended, `--drawn` at random, near good recipes, or where a predictor of the rows so far expects good ones;
`--spaces`, `--budgets` and `--bounds` then give their shares. A table keeps to the images that it began with, which stand in its card.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.measure import machine
from benchmarks.tables.crossings import CROSSINGS
from benchmarks.tables.plan import (
    BOUNDS,
    BUDGETS,
    NEAR,
    PREDICTED,
    RANDOM,
    RECIPE,
    SPACES,
    extended,
    with_recipes,
)
from benchmarks.tables.table import SPLIT, TABLE, Row, Table
from jointnas.campaign.candidate_file import built_in_recipes
from jointnas.data.dataset import load_data
from jointnas.data.spec import DataSpec
from jointnas.data.symmetry import mirror_symmetry
from jointnas.errors import BlueprintError, BudgetError, SpaceError
from jointnas.execution import Event, Job, LocalExecutor, Slot
from jointnas.execution.worker import Handler, Progress
from jointnas.measurement.training import make_trainer
from jointnas.network import families
from jointnas.space.knob_space import Candidate
from jointnas.space.space import Space
from jointnas.training.clock import StepClock
from jointnas.training.job import PrepareTrials
from jointnas.training.observation import Observation
from jointnas.training.recipe import Recipe

PHASES = 3  # of a training whose images grow
TIMED_SECONDS = 0.4  # in which steps of a phase are timed, one at least
HANG_SECONDS = 900.0  # without a word: a step of the largest networks takes a minute


def begun(options: argparse.Namespace, design: Mapping[str, Mapping[str, float]]) -> Table:
    """Return a table without rows; design: shares of spaces, budgets and bounds, where they are not the usual ones."""
    space_shares = design.get("spaces", SPACES)
    spec = DataSpec(options.data, options.train_images, options.val_images, options.image_size, SPLIT)
    data = load_data(spec)
    spaces = {}
    for name in space_shares:
        with suppress(SpaceError, BlueprintError):  # where its networks do not exist for such images
            spaces[name] = Space.load(name, data.input_shape, len(data.classes)).to_toml()
    card = {
        "spaces": spaces,
        "space_shares": {name: share for name, share in space_shares.items() if name in spaces},
        "budgets": design.get("budgets", BUDGETS),
        "bounds": list(design.get("bounds", BOUNDS)),
        "input_shape": list(data.input_shape),
        "classes": len(data.classes),
        "fingerprint": data.fingerprint,
        **({"same_images": Table.read(options.same_images).card["fingerprint"]} if options.same_images else {}),
        "image_size": options.image_size,
        "train_images": options.train_images,
        "mirror_symmetry": round(mirror_symmetry(data), 3),
        "val_images": options.val_images,
        "curve_images": options.val_images,
        "seed": options.seed,
        "machine": machine(),
    }
    return Table(options.table, card, [])


def prepare_timing(shape: tuple[int, ...], classes: int) -> Handler:
    """Return what times a candidate's steps."""

    def handle(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
        return {"step_seconds": step_seconds(payload["candidate"], shape, classes, payload["budget_seconds"])}

    return handle


def step_seconds(candidate: Candidate, shape: tuple[int, ...], classes: int, budget: float) -> float:
    """Return the processor's mean seconds of a training step, on random images of this shape.

    Raises `BudgetError` where the budget's seconds hold not one step.
    """
    network = families.make_blueprint(candidate["architecture"], shape, classes)
    recipe = Recipe.from_knobs(candidate["recipe"])
    phases = PHASES if recipe.start_resolution < 1 else 1
    clock = StepClock(2 * phases)  # it stands in the middle of a phase while that is timed
    trainer = make_trainer(network, recipe, classes, clock, torch.device("cpu"))
    batches = iter(trainer.batches)
    every = recipe.sam_every if recipe.gradient == "sam" else 1
    within = max(1, trainer.batches.n // recipe.batch_size // every) * every  # augmented at once

    def take(steps: int) -> float:
        began = time.process_time()
        for _ in range(steps):
            trainer.step(batches)
        return time.process_time() - began

    means = []
    for _ in range(phases):
        clock.stepped()
        take(1)
        took, steps = 0.0, 0
        while steps == 0 or (took < TIMED_SECONDS and steps < within):
            took, steps = took + take(every), steps + every
        means.append(took / steps)
        clock.stepped()
        if sum(means) > phases * budget:  # whatever the other phases take
            raise BudgetError(f"a training step takes longer than the budget of {budget:g} s: raise the budget")
    return fmean(means)


def timed(table: Table, workers: int) -> Table:
    """Time the steps of candidates that were not timed, and return the table with them."""
    card, rows = table.card, list(table.rows)
    groups: dict[tuple[str, float, str], list[int]] = {}
    for i, row in enumerate(rows):
        if row.observation is None and row.quiet_step_seconds is None:
            groups.setdefault(row.group, []).append(i)
    members = list(groups.values())
    jobs = [
        Job(number, {"candidate": rows[group[0]].candidate, "budget_seconds": rows[group[0]].budget_seconds})
        for number, group in enumerate(members)
    ]
    ready = partial(prepare_timing, tuple(card["input_shape"]), card["classes"])
    with LocalExecutor(ready, Slot("cpu", 1, workers), HANG_SECONDS) as executor:
        for event in executor.results(jobs):
            if event.kind not in ("done", "failed"):
                continue
            for i in members[event.number]:
                if event.kind == "failed":
                    rows[i] = replace(rows[i], observation=Observation.failed(event.reason))
                else:
                    rows[i] = replace(rows[i], quiet_step_seconds=event.result["step_seconds"])
            table.with_rows(rows).write()
    return table.with_rows(rows)


def train(table: Table, source: str, workers: int) -> Table:
    """Train the rows without a result, each kept as it ends, and return the table with the results."""
    card, rows = table.card, list(table.rows)
    jobs = [Job(i, payload(row, card["curve_images"])) for i, row in enumerate(rows) if row.observation is None]
    spec = table.data_spec(source).to_json()
    ready = PrepareTrials(DataSpec(**spec), "cpu", card["fingerprint"])
    here = machine()
    precision = "bfloat16" if here["bfloat16"] else "float32"
    done = len(rows) - len(jobs)
    with LocalExecutor(ready, Slot("cpu", 1, workers), HANG_SECONDS) as executor:
        for event in executor.results(jobs):
            if event.kind not in ("done", "failed"):
                continue
            row = replace(with_result(rows[event.number], event), cpu=here["cpu"], precision=precision)
            rows[event.number] = row
            table.with_rows(rows).write()
            done += 1
            cells = row.to_cells()
            design = " ".join(cells[name] for name in ("space", "bound", "budget_seconds"))
            print(f"{done} of {len(rows)}: {design} s: {cells['accuracy'] or cells['failure']}", flush=True)
    return table.with_rows(rows)


def payload(row: Row, curve_images: int) -> dict[str, Any]:
    """Return the job of a timed row."""
    assert row.quiet_step_seconds is not None
    return {
        "candidate": row.candidate,
        "seed": row.seed,
        "clock": {"train_steps": int(row.budget_seconds / row.quiet_step_seconds)},
        "curve_images": curve_images,
    }


def with_result(row: Row, event: Event) -> Row:
    """Return the row with what came of its training; its speed is that of the budget, not of the wall clock."""
    if event.kind == "failed":
        return replace(row, observation=Observation.failed(event.reason))
    observation = Observation.from_json(event.result["observation"])
    images = (observation.steps or 0) * Recipe.from_knobs(row.candidate["recipe"]).batch_size
    observation = replace(observation, seconds=row.budget_seconds, images_per_second=images / row.budget_seconds)
    return replace(row, observation=observation)


def shares(texts: list[str]) -> dict[str, float]:
    """Return the shares that `value=share` texts give, 1 where there is none."""
    parts = [re.fullmatch(r"(.+?)(?:(?<![<>])=([\d.]+))?", text) for text in texts]
    return {part[1]: float(part[2] or 1) for part in parts if part}


def main() -> None:
    """Begin a table where there is none, append the candidates that it lacks, time them, and train what has no result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--image-size", type=int)
    parser.add_argument(
        "--same-images", type=Path, metavar="TABLE", help="of a new table: one of the same images at another size"
    )
    parser.add_argument("--train-images", type=int, default=5000)
    parser.add_argument("--val-images", type=int, default=2000)
    parser.add_argument("--candidates", type=int, default=400, help="how many the table has at its end")
    parser.add_argument("--drawn", choices=(RANDOM, NEAR, *CROSSINGS, PREDICTED, RECIPE), default=RANDOM)
    parser.add_argument("--recipes", nargs="+", metavar="NAME", help="with --drawn recipe; default: all built-in ones")
    parser.add_argument("--prior", help="what predicted candidates start from; default: the pretrained network")
    parser.add_argument("--budgets", nargs="+", metavar="SECONDS[=SHARE]", help=f"default: {BUDGETS}")
    parser.add_argument("--spaces", nargs="+", metavar="SPACE[=SHARE]", help=f"default: {SPACES}")
    parser.add_argument(
        "--bounds", nargs="+", metavar="BOUND[=SHARE]", help=f"from tight to loose, or none; default: {BOUNDS}"
    )
    parser.add_argument("--time-only", action="store_true", help="time the new candidates, train none yet")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    given = {"spaces": options.spaces, "budgets": options.budgets, "bounds": options.bounds}
    design = {name: shares(texts) for name, texts in given.items() if texts}
    table = Table.read(options.table) if options.table.exists() else begun(options, design)
    missing = options.candidates - len(table.by_candidate())
    if options.drawn == RECIPE:
        for budget in design.get("budgets", table.card["budgets"]):
            bounds = list(design.get("bounds", table.card["bounds"]))
            table = with_recipes(table, float(budget), bounds, options.recipes or built_in_recipes())
        table.write()
    elif missing > 0:
        table = extended(table, missing, options.drawn, options.prior, design)
        table.write()
    table = timed(table, options.workers)
    if not options.time_only:
        train(table, options.data, options.workers)


if __name__ == "__main__":
    main()
