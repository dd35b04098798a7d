"""What a search space holds: how many candidates, each knob in words, and how far each exact cost reaches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from math import prod
from typing import Any

import numpy as np

from jointnas.space.continuous import Continuous, Switchable
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Choice, Fixed, Knob, Ordered, Value, index_of
from jointnas.space.sampling import extreme
from jointnas.space.space import Space
from jointnas.space.toml import GROUPS

WRITTEN_OUT = 1_000_000_000  # larger counts are written with three digits and an exponent


@dataclass(frozen=True)
class Range:
    """How far a cost reaches in a space: its ends, and the median of a sample; counts, or bytes."""

    smallest: float
    median: float
    largest: float


@dataclass(frozen=True)
class Survey:
    """What a space holds.

    candidates: how many combinations the countable knobs have; where a knob is inactive, its values are no combinations.
    continuous: how many knobs are continuous; where there is one, the space is infinite.
    knobs: for each group, each knob's range in words.
    costs: for each metric that is known before training, its range.
    example: the candidate with every knob in the middle of its range, and what it costs.
    """

    candidates: int
    continuous: int
    knobs: dict[str, dict[str, str]]
    costs: dict[str, Range]
    example: Candidate
    example_costs: dict[str, float]

    @property
    def size(self) -> str:
        """The number of candidates in words."""
        number = f"{self.candidates:,}" if self.candidates < WRITTEN_OUT else f"{Decimal(self.candidates):.2e}"
        if not self.continuous:
            return f"{number} candidates"
        return f"infinitely many candidates: {number} without the continuous knobs ({self.continuous})"

    def to_json(self) -> dict[str, Any]:
        """Return the survey as JSON types."""
        return asdict(self)


def summarise(space: Space, seed: int = 0, n: int = 4096) -> Survey:
    """Return what a space holds; the medians are those of n Sobol points. Raises `SpaceError` unless it is bound."""
    sample = next(space.stream(seed, chunk=n))[:n]
    costs = {
        metric: Range(
            _plain(extreme(space, metric, sample)),
            _plain(float(np.nanmedian(values))),
            _plain(extreme(space, metric, sample, largest=True)),
        )
        for metric, values in space.costs(sample).items()
    }
    middle = space.fix({knob.name: knob.value(knob.default) for knob in space.knobs}).sample(1)[0]
    groups = (space.knobs[: space.n_architecture], space.knobs[space.n_architecture :])
    return Survey(
        count(space.knobs),
        sum(isinstance(knob, Continuous) for knob in space.knobs),
        {group: {knob.name: in_words(knob) for knob in knobs} for group, knobs in zip(GROUPS, groups, strict=True)},
        costs,
        middle,
        space.cost(middle),
    )


def _plain(number: float) -> float:
    return int(number) if number.is_integer() else number


# --------------------------------------------------------------------------------------------------------------- size


def count(knobs: Sequence[Knob]) -> int:
    """Return how many candidates these knobs make, a continuous knob standing for one value.

    Knobs that no condition links multiply. Among linked ones, one without a condition is decided first: what its values leave
    active is counted by itself. A condition on a knob that is not among them holds.
    """
    return prod(_linked_count(group) for group in _linked(knobs))


def _linked_count(knobs: Sequence[Knob]) -> int:
    names = {knob.name for knob in knobs}
    first = next(knob for knob in knobs if not any(other in names for other, _ in knob.when))
    if isinstance(first, Continuous):  # nothing can rest on it
        return 1
    rest = [knob for knob in knobs if knob is not first]
    outcomes = Counter(tuple(_left_by(first, value, rest)) for value in first.extremes)
    return sum(times * count([knob for knob in rest if knob.name in left]) for left, times in outcomes.items())


def _left_by(decided: Knob, value: Value, knobs: Sequence[Knob]) -> list[str]:
    """Return the names of the knobs that a value of another leaves possible, those that rest on dropped ones being dropped."""
    names = {decided.name, *(knob.name for knob in knobs)}
    left = [
        knob
        for knob in knobs
        if all(other != decided.name or index_of(value, wanted) is not None for other, wanted in knob.when)
    ]
    while True:
        gone = names - {decided.name, *(knob.name for knob in left)}
        kept = [knob for knob in left if not any(other in gone for other, _ in knob.when)]
        if len(kept) == len(left):
            return [knob.name for knob in left]
        left = kept


def _linked(knobs: Iterable[Knob]) -> list[list[Knob]]:
    """Return the knobs in groups that no condition links to one another."""
    groups: list[list[Knob]] = []
    for knob in knobs:
        others = {other for other, _ in knob.when}
        touched = [group for group in groups if any(k.name in others or knob.name in dict(k.when) for k in group)]
        groups = [group for group in groups if group not in touched]
        groups.append([knob, *(k for group in touched for k in group)])
    return groups


# -------------------------------------------------------------------------------------------------------------- words


def in_words(knob: Knob) -> str:
    """Return a knob's range as a person would say it."""
    conditions = " and ".join(f"{other} is {_listed(wanted)}" for other, wanted in knob.when)
    return _range_in_words(knob) + (f", when {conditions}" if conditions else "")


def _range_in_words(knob: Knob) -> str:
    if isinstance(knob, Fixed):
        return f"always {_word(knob.only)}"
    if isinstance(knob, Continuous):
        off = f", or {_word(knob.off)}" if isinstance(knob, Switchable) else ""
        return f"{_word(knob.low)} to {_word(knob.high)}" + (", logarithmic" if knob.log else "") + off
    if isinstance(knob, Ordered) and knob.grid is not None:
        low, high, step, log = knob.grid
        return f"{_word(low)} to {_word(high)} in steps of {_word(step)}" + (", logarithmic" if log else "")
    return _listed(knob.extremes) + (", in this order" if not isinstance(knob, Choice) else "")


def _listed(values: Sequence[Value]) -> str:
    *most, last = map(_word, values)
    return f"{', '.join(most)} or {last}" if most else last


def _word(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
