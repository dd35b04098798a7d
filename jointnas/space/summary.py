"""The summary of a search space: the number of candidates, each knob in words, and the range of each exact cost."""

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

LARGEST_EXACT = 1_000_000_000  # larger counts are written with three digits and an exponent


@dataclass(frozen=True)
class Range:
    """The range of a cost in a space, and its median in a sample; counts, or bytes."""

    smallest: float
    median: float
    largest: float


@dataclass(frozen=True)
class Summary:
    """The content of a space.

    candidates: the number of combinations of the countable knobs; values of an inactive knob do not count.
    continuous: the number of continuous knobs; a space with one is infinite.
    knobs: for each group, each knob's range in words.
    costs: the range of each exact metric.
    example: the candidate with every knob in the middle of its range, and its costs.
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
        number = f"{self.candidates:,}" if self.candidates < LARGEST_EXACT else f"{Decimal(self.candidates):.2e}"
        if not self.continuous:
            return f"{number} candidates"
        return f"infinitely many candidates: {number} without the continuous knobs ({self.continuous})"

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON types."""
        return asdict(self)


def summarise(space: Space, seed: int = 0, n: int = 4096) -> Summary:
    """Return the summary of a bound space, with medians of n Sobol points. Raises `SpaceError` unless it is bound."""
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
    return Summary(
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
    """Return the number of candidates of these knobs, in which a continuous knob counts as one value.

    The counts of groups that no condition links multiply. In a group, the count sums over the values of a knob without a
    condition, each with the knobs that it leaves possible. A condition on a knob that is not among them holds.
    """
    return prod(_linked_count(group) for group in _linked(knobs))


def _linked_count(knobs: Sequence[Knob]) -> int:
    names = {knob.name for knob in knobs}
    first = next(knob for knob in knobs if not any(other in names for other, _ in knob.when))
    if isinstance(first, Continuous):  # no condition can depend on it
        return 1
    rest = [knob for knob in knobs if knob is not first]
    outcomes = Counter(tuple(_possible_with(first, value, rest)) for value in first.extremes)
    return sum(times * count([knob for knob in rest if knob.name in possible]) for possible, times in outcomes.items())


def _possible_with(first: Knob, value: Value, knobs: Sequence[Knob]) -> list[str]:
    """Return the names of the knobs that can be active with a value of another knob."""
    names = {first.name, *(knob.name for knob in knobs)}
    possible = [
        knob
        for knob in knobs
        if all(other != first.name or index_of(value, wanted) is not None for other, wanted in knob.when)
    ]
    while True:
        impossible = names - {first.name, *(knob.name for knob in possible)}
        kept = [knob for knob in possible if not any(other in impossible for other, _ in knob.when)]
        if len(kept) == len(possible):
            return [knob.name for knob in possible]
        possible = kept


def _linked(knobs: Iterable[Knob]) -> list[list[Knob]]:
    """Return the knobs in groups that no condition links."""
    groups: list[list[Knob]] = []
    for knob in knobs:
        others = {other for other, _ in knob.when}
        linked = [group for group in groups if any(k.name in others or knob.name in dict(k.when) for k in group)]
        groups = [group for group in groups if group not in linked]
        groups.append([knob, *(k for group in linked for k in group)])
    return groups


# -------------------------------------------------------------------------------------------------------------- words


def in_words(knob: Knob) -> str:
    """Return a knob's range in words."""
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
