"""Tables of real trainings: one CSV file a data set in `tables/`, a row a training, with a card beside it, a JSON file.

A row holds the design: the search space of the candidate, the MACs bound that it was drawn under, the budget in seconds of one core, how
it was drawn, its knobs as JSON (`architecture`, `recipe`; inactive ones absent) and the seed. Then the result, empty where the training
failed: steps, training images a second of the budget, seconds of a step in the training itself and as timed before it in quiet, accuracy
and log-loss (nats) on the validation images, at the end and at each rung of the learning curve, CPU and precision. `failure` is the
reason where there is no accuracy. Three lines read it:

    rows = list(csv.DictReader(open("benchmarks/tables/cifar10.csv")))
    recipe = json.loads(rows[0]["recipe"])
    accuracy = float(rows[0]["accuracy"])
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from jointnas.data.spec import DataSpec
from jointnas.predictor.task import TrainingImages
from jointnas.space.constraint import Constraint
from jointnas.space.knob_space import Candidate
from jointnas.space.space import Space
from jointnas.training.observation import CURVE_FRACTIONS, CurvePoint, Observation

TABLES = Path(__file__).parents[1] / "tables"
TABLE = TABLES / "cifar10.csv"
SPLIT = 7000  # the seed that draws the images: of no search and no test
UNBOUNDED = "none"
RUNGS = tuple((fraction, f"accuracy_at_{fraction:g}", f"log_loss_at_{fraction:g}") for fraction in CURVE_FRACTIONS)


@dataclass(frozen=True)
class Row:
    """One training: its design, and its result once it has ended."""

    space: str
    bound: str  # as `macs<20M`, or "none"
    budget_seconds: float
    drawn: str  # "random", "near" a recipe, "crossed …", "predicted", by a "search", or "recipe NAME"
    candidate: Candidate
    seed: int
    observation: Observation | None = None
    quiet_step_seconds: float | None = None
    cpu: str = ""
    precision: str = ""

    @classmethod
    def from_cells(cls, cells: Mapping[str, str]) -> Row:
        """Return what `to_cells` wrote."""
        candidate: Candidate = {
            "architecture": json.loads(cells["architecture"]),
            "recipe": json.loads(cells["recipe"]),
        }
        return cls(
            cells["space"],
            cells["bound"],
            float(cells["budget_seconds"]),
            cells["drawn"],
            candidate,
            int(cells["seed"]),
            _observation(cells),
            _number(cells["quiet_step_seconds"]),
            cells["cpu"],
            cells["precision"],
        )

    def to_cells(self) -> dict[str, str]:
        """Return the row as text under the names of the columns, numbers of results with six digits."""
        o = self.observation or Observation(accuracy=None)
        curve: dict[str, float | None] = {}
        for fraction, accuracy, log_loss in RUNGS:
            point = next((point for point in o.curve if point.fraction >= fraction), None)
            curve |= {accuracy: point and point.accuracy, log_loss: point and point.log_loss}
        return {
            "space": self.space,
            "bound": self.bound,
            "budget_seconds": f"{self.budget_seconds:g}",
            "drawn": self.drawn,
            "architecture": _json(self.candidate["architecture"]),
            "recipe": _json(self.candidate["recipe"]),
            "seed": str(self.seed),
            "steps": "" if o.steps is None else str(o.steps),
            "images_per_second": _text(o.images_per_second),
            "step_seconds": _text(o.step_seconds),
            "quiet_step_seconds": _text(self.quiet_step_seconds),
            "accuracy": _text(o.accuracy),
            "log_loss": _text(o.log_loss),
            **{name: _text(value) for name, value in curve.items()},
            "cpu": self.cpu,
            "precision": self.precision,
            "failure": o.failure or "",
        }

    @property
    def group(self) -> tuple[str, float, str]:
        """What the rows have in common that differ in the seed alone."""
        return self.space, self.budget_seconds, _json(self.candidate)

    @property
    def accuracy(self) -> float | None:
        """The accuracy, None where the training failed or has not ended."""
        return self.observation.accuracy if self.observation else None


@dataclass(frozen=True)
class Table:
    """A table's rows and its card."""

    path: Path
    card: dict[str, Any]
    rows: list[Row]

    @classmethod
    def read(cls, path: Path = TABLE) -> Table:
        """Return the table in a CSV file with its card beside it."""
        card = json.loads(path.with_suffix(".json").read_text())
        with path.open(newline="") as file:
            return cls(path, card, [Row.from_cells(cells) for cells in csv.DictReader(file)])

    def write(self) -> None:
        """Replace the files, the CSV file at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.with_suffix(".json").write_text(json.dumps(self.card, indent=1) + "\n")
        beside = self.path.with_suffix(".new")
        with beside.open("w", newline="") as file:
            cells = [row.to_cells() for row in self.rows]
            writer = csv.DictWriter(file, list(cells[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(cells)
        os.replace(beside, self.path)

    def data_spec(self, source: str) -> DataSpec:
        """Return the images of the table's trainings, wherever their source lies."""
        card = self.card
        return DataSpec(source, card["train_images"], card["val_images"], card["image_size"], SPLIT)

    @property
    def images(self) -> TrainingImages:
        """What a predictor reads of the table's images."""
        return TrainingImages(self.card["train_images"], self.card["mirror_symmetry"])

    def space_named(self, name: str) -> Space:
        """Return one of the search spaces, bound to the data."""
        return Space.from_toml(self.card["spaces"][name], self.card["input_shape"], self.card["classes"])

    # -------------------------------------------------------------------------------------------------- its parts

    def with_rows(self, rows: list[Row]) -> Table:
        """Return a table of these rows."""
        return replace(self, rows=rows)

    def commonest(self) -> Table:
        """Return a table of the search space and budget that most rows have; all of them where there is one of each."""
        (common, _), *_ = Counter((row.space, row.budget_seconds) for row in self.rows).most_common()
        return self.with_rows([row for row in self.rows if (row.space, row.budget_seconds) == common])

    def by_candidate(self) -> list[list[Row]]:
        """Return the rows of each candidate under one budget, in the table's order."""
        groups: dict[tuple[str, float, str], list[Row]] = {}
        for row in self.rows:
            groups.setdefault(row.group, []).append(row)
        return list(groups.values())

    def split(self, candidates: int) -> tuple[Table, Table]:
        """Return a table of the first so many candidates, and one of the others."""
        groups = self.by_candidate()
        first, others = (list(chain.from_iterable(rows)) for rows in (groups[:candidates], groups[candidates:]))
        return self.with_rows(first), self.with_rows(others)

    def trained(self) -> Iterator[tuple[Candidate, list[Row]]]:
        """Yield each candidate whose trainings have all ended, with their rows."""
        for rows in self.by_candidate():
            if all(row.observation for row in rows):
                yield rows[0].candidate, rows

    # ----------------------------------------------------------------------------- of a table of one space and budget

    @cached_property
    def space(self) -> Space:
        """The search space of all rows, bound to the data."""
        (name,) = {row.space for row in self.rows} or set(self.card["spaces"])
        return self.space_named(name)

    @property
    def budget_seconds(self) -> float:
        """The budget of all rows."""
        (seconds,) = {row.budget_seconds for row in self.rows}
        return seconds

    @property
    def constraints(self) -> list[Constraint]:
        """The loosest bound that rows were drawn under, none where some were drawn under none."""
        texts = {row.bound for row in self.rows}
        if UNBOUNDED in texts:
            return []
        return [max((Constraint.parse(text) for text in texts), key=lambda constraint: constraint.bound)]


def _observation(cells: Mapping[str, str]) -> Observation | None:
    if cells["failure"]:
        return Observation.failed(cells["failure"])
    if not cells["accuracy"]:
        return None
    seconds, steps = float(cells["budget_seconds"]), int(cells["steps"])
    curve = tuple(
        CurvePoint(
            fraction, fraction * seconds, round(fraction * steps), float(cells[accuracy]), _number(cells[log_loss])
        )
        for fraction, accuracy, log_loss in RUNGS
        if cells[accuracy]
    )
    return Observation(
        float(cells["accuracy"]),
        log_loss=_number(cells["log_loss"]),
        seconds=seconds,
        steps=steps,
        step_seconds=_number(cells["step_seconds"]),
        images_per_second=_number(cells["images_per_second"]),
        curve=curve,
    )


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _text(number: float | None) -> str:
    return "" if number is None else f"{number:.6g}"


def _number(text: str) -> float | None:
    return float(text) if text else None
