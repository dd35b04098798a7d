"""The rows of all tables of real trainings as one set of examples: inputs of one meaning, and targets that are standardised by group.

A group is one table under one budget. The target of a candidate is the mean log odds of its accuracies, less the mean of the group's
random candidates and divided by their deviation. A table without random candidates takes these from a table of the same images, and a
group with too few of them takes the deviation from the largest group of its table, or both from its table's next shorter budget.
Failed trainings count as the lowest accuracy of their group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from benchmarks.tables.plan import RANDOM
from benchmarks.tables.table import Row, Table
from jointnas.predictor.prior import Budget
from jointnas.predictor.targets import EDGE
from jointnas.space.knobs import Codes
from jointnas.space.space import Space

FEWEST, FEWEST_FOR_MEAN = 8, 4  # random candidates of a group, for their deviation and for their mean
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """The n candidates of one group that are of one space, with codes of it."""

    space: Space
    codes: Codes  # (n, knobs)
    budget: Budget  # with their steps, means over their trainings
    quiet: Array  # (n,) steps that were forecast from timed steps; NaN where none were timed
    drawn_at_random: NDArray[np.bool_]  # (n,)
    accuracies: Array  # (n,) means
    trainings: Array  # (n,)

    @property
    def steps(self) -> Array:
        """The (n,) means of the steps of its candidates' trainings."""
        assert self.budget.log_steps is not None
        return np.exp(self.budget.log_steps)


@dataclass(frozen=True)
class Group:
    """The candidates of one table under one budget."""

    table: str
    fingerprint: str  # of the table's images
    images: str  # identifies them at every size: tables of the same photos have the same
    seconds: float
    classes: int
    parts: tuple[Part, ...]
    centre: float  # of the log odds of the candidates drawn at random
    spread: float
    noise: float  # deviation of the log odds between trainings of one candidate; NaN without repeats
    val_images: int | None  # that accuracies are measured on

    @property
    def name(self) -> str:
        """The table and the budget."""
        return f"{self.table} {self.seconds:g} s"

    @property
    def size(self) -> int:
        """How many candidates it has."""
        return sum(len(part.codes) for part in self.parts)

    def targets(self, part: Part) -> Array:
        """Return the (n,) standardised log odds of a part's candidates."""
        return (log_odds(part.accuracies) - self.centre) / self.spread


def log_odds(accuracies: Array) -> Array:
    """Return the log odds of accuracies, clipped a little inside (0, 1)."""
    return np.asarray(logit(accuracies.clip(EDGE, 1 - EDGE)))


def read_groups(folder: Path) -> list[Group]:
    """Return all groups of the tables in a folder that have a centre and a spread."""
    tables = [Table.read(path) for path in sorted(folder.glob("*.csv"))]
    found = [(table, seconds, rows) for table in tables for seconds, rows in _by_budget(table)]
    scales: dict[tuple[str, float], tuple[int, float, float]] = {}  # candidates, centre, spread
    for table, seconds, rows in found:
        random = _mean_log_odds([row for row in rows if row.drawn == RANDOM], _lowest(rows))
        if len(random) >= FEWEST:
            scale = len(random), float(random.mean()), float(random.std())
            scales[table.path.stem, seconds] = scale
            images = table.card["fingerprint"], seconds
            scales[images] = max(scale, scales.get(images, scale))
    for table, seconds, rows in found:
        random = _mean_log_odds([row for row in rows if row.drawn == RANDOM], _lowest(rows))
        larger = [scale for (name, _), scale in scales.items() if name == table.path.stem]
        if FEWEST_FOR_MEAN <= len(random) < FEWEST and larger:
            scales[table.path.stem, seconds] = len(random), float(random.mean()), max(larger)[2]
    groups = []
    for table, seconds, rows in found:
        shorter = [(own, scale) for (name, own), scale in scales.items() if name == table.path.stem and own < seconds]
        known = scales.get((table.path.stem, seconds)) or scales.get((table.card["fingerprint"], seconds))
        known = known or (max(shorter)[1] if shorter else None)
        if known is not None:
            groups.append(_group(table, seconds, rows, *known[1:]))
    return groups


def _by_budget(table: Table) -> Iterator[tuple[float, list[Row]]]:
    """Yield each budget under which a training succeeded, with the rows that have a result."""
    for seconds in sorted({row.budget_seconds for row in table.rows if row.accuracy is not None}):
        yield seconds, [row for row in table.rows if row.budget_seconds == seconds and row.observation]


def _lowest(rows: Sequence[Row]) -> float:
    return min(row.accuracy for row in rows if row.accuracy is not None)


def _mean_log_odds(rows: Sequence[Row], lowest: float) -> Array:
    return log_odds(np.array([np.mean(_filled(own, lowest)) for own in _by_candidate(rows)]))


def _by_candidate(rows: Sequence[Row]) -> list[list[Row]]:
    found: dict[tuple[str, float, str], list[Row]] = {}
    for row in rows:
        found.setdefault(row.group, []).append(row)
    return list(found.values())


def _filled(rows: Sequence[Row], lowest: float) -> Array:
    """Return the accuracies of trainings, the lowest for failures."""
    return np.array([lowest if row.accuracy is None else row.accuracy for row in rows])


def _group(table: Table, seconds: float, rows: Sequence[Row], centre: float, spread: float) -> Group:
    lowest = _lowest(rows)
    repeats = [log_odds(_filled(own, lowest)) for own in _by_candidate(rows) if len(own) > 1]
    noise = float(np.sqrt(np.mean([own.var(ddof=1) for own in repeats]))) if repeats else float("nan")
    names = sorted({row.space for row in rows})
    parts = tuple(_part(table, seconds, name, [r for r in rows if r.space == name], lowest) for name in names)
    card = table.card
    images, classes = card.get("same_images", card["fingerprint"]), card["classes"]
    name, val_images = table.path.stem, card.get("val_images")
    return Group(name, card["fingerprint"], images, seconds, classes, parts, centre, spread, noise, val_images)


def _part(table: Table, seconds: float, name: str, rows: Sequence[Row], lowest: float) -> Part:
    space, candidates = table.space_named(name), _by_candidate(rows)
    known = np.array([_mean([r.observation.steps for r in own if r.observation]) for own in candidates])
    quiet = seconds / np.array([_mean([row.quiet_step_seconds for row in own]) for own in candidates])
    known = np.where(np.isnan(known), quiet, known)
    usual = float(np.median(known[~np.isnan(known)])) if not np.isnan(known).all() else 1.0
    log_steps = np.log(np.where(np.isnan(known), usual, known))
    return Part(
        space,
        space.to_codes([own[0].candidate for own in candidates]),
        Budget(log_steps, 0.0, table.images),
        quiet,
        np.array([own[0].drawn == RANDOM for own in candidates]),
        np.array([np.mean(_filled(own, lowest)) for own in candidates]),
        np.array([len(own) for own in candidates], dtype=np.float64),
    )


def _mean(values: Sequence[float | None]) -> float:
    """Return the mean of the values that are known; NaN without any."""
    known = [value for value in values if value]
    return float(np.mean(known)) if known else float("nan")
