"""A table of real trainings: candidates of one joint space, each trained for as many steps as a few seconds hold.

    python benchmarks/table.py --data cifar10-images.zip --workers 2

Candidates drawn from a large pool of the space; every twentieth has two more trainings with other seeds, which tell the noise. Before a
training its steps are timed on a network that is thrown away, in seconds of the processor and on one thread, so that what else runs
does not count; then it gets the steps that `--seconds` hold, as under a wall clock on a quiet machine: a slow network gets fewer.
From there on steps alone count. May be stopped at any time: the same command trains what has no result yet.

The table is a CSV file: the knobs, empty where inactive; the seed; what was found: steps and images a second, accuracy on the
validation images, the learning curve, and the reason where a training failed. Its card, a JSON file, says what it was made with.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from measure import machine

from jointnas.data import DataSpec, load_data
from jointnas.execution import Job, LocalExecutor, Slot
from jointnas.execution.worker import Handler, Progress
from jointnas.measurement.training import make_trainer
from jointnas.network import families
from jointnas.space.constraint import parse_all
from jointnas.space.knob_space import Candidate
from jointnas.space.sampling import draw_pool
from jointnas.space.space import Space
from jointnas.training.clock import StepClock
from jointnas.training.job import prepare_trials
from jointnas.training.observation import CURVE_FRACTIONS, CurvePoint, Observation
from jointnas.training.recipe import Recipe

TABLE = Path(__file__).parent / "tables" / "cifar10.csv"
SPLIT = 7000  # the seed that draws the images: of no search and no test
DRAWN_FROM = 50_000  # candidates: the first of a Sobol sequence alone would tie many knobs to each other
EVERY, REPEATS = 20, 3  # candidates, the first of which is trained so often
PHASES = 3  # of a training whose images grow
TIMED_SECONDS = 0.4  # in which steps of a phase are timed, one at least
CURVE = tuple(f"accuracy_at_{fraction:g}" for fraction in CURVE_FRACTIONS)
FOUND = ("steps", "images_per_second", "accuracy", *CURVE, "failure")


@dataclass
class Table:
    """A table's rows, as text under the names of their columns, and its card."""

    path: Path
    card: dict[str, Any]
    rows: list[dict[str, str]]

    @classmethod
    def read(cls, path: Path = TABLE) -> Table:
        """Return the table in a CSV file with its card beside it."""
        card = json.loads(path.with_suffix(".json").read_text())
        with path.open(newline="") as file:
            return cls(path, card, list(csv.DictReader(file)))

    def write(self) -> None:
        """Replace the files, the CSV file at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.with_suffix(".json").write_text(json.dumps(self.card, indent=1) + "\n")
        beside = self.path.with_suffix(".new")
        with beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(beside, self.path)

    @cached_property
    def space(self) -> Space:
        """The space, bound to the data."""
        return Space.from_toml(self.card["space"], self.card["input_shape"], self.card["classes"])

    def candidate(self, row: Mapping[str, str]) -> Candidate:
        """Return the candidate of a row."""
        known = [(k.name, read_cell(row[k.name])) if row[k.name] else None for k in self.space.knobs]
        first = self.space.n_architecture
        return {"architecture": dict(filter(None, known[:first])), "recipe": dict(filter(None, known[first:]))}

    def by_candidate(self) -> list[list[dict[str, str]]]:
        """Return the rows of each candidate, in the table's order."""
        found: dict[tuple[str, ...], list[dict[str, str]]] = {}
        for row in self.rows:
            found.setdefault(tuple(row[k.name] for k in self.space.knobs), []).append(row)
        return list(found.values())

    def split(self, candidates: int) -> tuple[Table, Table]:
        """Return a table of the first so many candidates, and one of the others."""
        found = self.by_candidate()
        first, others = (list(chain.from_iterable(rows)) for rows in (found[:candidates], found[candidates:]))
        return Table(self.path, self.card, first), Table(self.path, self.card, others)

    def trained(self) -> Iterator[tuple[Candidate, list[dict[str, str]]]]:
        """Yield each candidate whose trainings have all ended, with their rows."""
        for rows in self.by_candidate():
            if all(row["accuracy"] or row["failure"] for row in rows):
                yield self.candidate(rows[0]), rows


def planned(options: argparse.Namespace) -> Table:
    """Return the table whose trainings are to come."""
    data = load_data(data_spec(options.data, vars(options)))
    space = Space.load(options.space, data.input_shape, len(data.classes))
    codes = draw_pool(space, DRAWN_FROM, parse_all(options.constraint, space.metrics), options.seed)
    codes = np.random.default_rng(options.seed).permutation(codes)[: options.candidates]
    rows = []
    for i, candidate in enumerate(map(rounded, space.to_candidates(codes))):
        knobs = {**candidate["architecture"], **candidate["recipe"]}
        cells = {k.name: cell(knobs[k.name]) if k.name in knobs else "" for k in space.knobs}
        for seed in range(10 * i, 10 * i + (1 if i % EVERY else REPEATS)):
            rows.append({**cells, "seed": str(seed), **dict.fromkeys(FOUND, "")})
    card = {
        "space": space.to_toml(),
        "input_shape": list(data.input_shape),
        "classes": len(data.classes),
        "fingerprint": data.fingerprint,
        **{name: getattr(options, name) for name in ("constraint", "seconds", "train_images", "val_images", "seed")},
        "machine": machine(),
    }
    return Table(options.table, card, rows)


def cell(value: Any) -> str:
    """Return a knob's value as text: words as they are, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def read_cell(text: str) -> Any:
    """Return what `cell` wrote."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def data_spec(source: str, card: Mapping[str, Any]) -> DataSpec:
    """Return the images of a table's trainings."""
    return DataSpec(source, train_images=card["train_images"], val_images=card["val_images"], seed=SPLIT)


def rounded(candidate: Candidate) -> Candidate:
    """Return the candidate with numbers of six digits, which its cells hold."""
    return {  # type: ignore[return-value]
        group: {name: float(f"{v:.6g}") if isinstance(v, float) else v for name, v in candidate[group].items()}
        for group in ("architecture", "recipe")
    }


def prepare(seconds: float, shape: tuple[int, ...], classes: int, trials: Callable[[], Handler]) -> Handler:
    """Return what times a candidate's steps and trains it for as many as the seconds hold."""
    train = trials()

    def handle(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
        step = step_seconds(payload["candidate"], shape, classes)
        clock = {"train_steps": max(1, int(seconds / step))}
        return train({**payload, "clock": clock}, progress)

    return handle


def step_seconds(candidate: Candidate, shape: tuple[int, ...], classes: int) -> float:
    """Return the processor's mean seconds of a training step, on random images of this shape."""
    network = families.make_blueprint(candidate["architecture"], shape, classes)
    recipe = Recipe.from_knobs(candidate["recipe"])
    phases = PHASES if recipe.start_resolution < 1 else 1
    clock = StepClock(2 * phases)  # it stands in the middle of a phase while that is timed
    trainer = make_trainer(network, recipe, classes, clock, torch.device("cpu"))
    batches = iter(trainer.batches)
    every = recipe.sam_every if recipe.gradient == "sam" else 1
    within = (
        max(1, trainer.batches.n // recipe.batch_size // every) * every
    )  # images are augmented for so many steps at once

    def take(steps: int) -> float:
        began = time.process_time()
        for _ in range(steps):
            trainer.step(batches)
        return time.process_time() - began

    found = []
    for _ in range(phases):
        clock.stepped()
        take(1)
        took, steps = 0.0, 0
        while steps == 0 or (took < TIMED_SECONDS and steps < within):
            took, steps = took + take(every), steps + every
        found.append(took / steps)
        clock.stepped()
    return fmean(found)


def train(table: Table, source: str, workers: int) -> None:
    """Train the rows without a result, each kept as it ends."""
    card = table.card
    missing = [i for i, row in enumerate(table.rows) if not (row["accuracy"] or row["failure"])]
    jobs = [
        Job(i, {"candidate": table.candidate(row), "seed": int(row["seed"])})
        for i in missing
        for row in [table.rows[i]]
    ]
    trials = partial(prepare_trials, data_spec(source, card).to_json(), "cpu", card["fingerprint"])
    ready = partial(prepare, card["seconds"], tuple(card["input_shape"]), card["classes"], trials)
    done = len(table.rows) - len(jobs)
    with LocalExecutor(ready, Slot("cpu", 1, workers)) as executor:
        for event in executor.results(jobs):
            row = table.rows[event.number]
            if event.kind == "done":
                row.update(cells_of(event.result["observation"], card["seconds"], json.loads(row["batch_size"])))
            elif event.kind == "failed":
                row["failure"] = event.reason
            else:
                continue
            table.write()
            done += 1
            print(f"{done} of {len(table.rows)}: {row['accuracy'] or row['failure']}", flush=True)


def cells_of(found: Mapping[str, Any], seconds: float, batch_size: int) -> dict[str, str]:
    """Return what a training found as cells; a curve's accuracies are the first at or past each fraction."""
    curve = [next((p[3] for p in found["curve"] if p[0] >= fraction), None) for fraction in CURVE_FRACTIONS]
    numbers = (found["accuracy"], *curve)
    texts = ["" if number is None else f"{number:.6g}" for number in numbers]
    speed = f"{found['steps'] * batch_size / seconds:.6g}"
    return dict(zip(FOUND, (str(found["steps"]), speed, *texts, ""), strict=True))


def observation(row: Mapping[str, str], card: Mapping[str, Any]) -> Observation:
    """Return what a row's training told."""
    if not row["accuracy"]:
        return Observation.failed(row["failure"])
    seconds, steps = card["seconds"], int(row["steps"])
    curve = [
        CurvePoint(fraction, fraction * seconds, round(fraction * steps), float(row[name]))
        for fraction, name in zip(CURVE_FRACTIONS, CURVE, strict=True)
        if row[name]
    ]
    return Observation(
        float(row["accuracy"]),
        seconds=seconds,
        steps=steps,
        images_per_second=float(row["images_per_second"]),
        curve=tuple(curve),
    )


def main() -> None:
    """Plan a table where there is none, and train what it lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--space", default="resnet9")
    parser.add_argument("--constraint", nargs="*", default=["macs<40M"])
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--candidates", type=int, default=2000)
    parser.add_argument("--train-images", type=int, default=5000)
    parser.add_argument("--val-images", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    table = Table.read(options.table) if options.table.exists() else planned(options)
    train(table, options.data, options.workers)


if __name__ == "__main__":
    main()
