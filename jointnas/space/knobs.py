"""Knobs of a search space: the contract, and knobs with countable values. Ranges of real numbers are in `continuous`.

Inside a space a value is a float *code*, so that a whole batch of candidates is one array: the index of the value for
ordered, categorical and fixed knobs, the number itself for continuous ones; NaN where the knob is inactive.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from jointnas.errors import CandidateError, suggest
from jointnas.units import is_finite

Value = bool | int | float | str
Codes = NDArray[np.float64]
Condition = tuple[tuple[str, tuple[Value, ...]], ...]

MUTATION_SCALE = 0.15  # standard deviation of a small mutation, as a share of the range


@dataclass(frozen=True)
class Knob(ABC):
    """The contract of a knob: values, codes, sampling, encoding and mutation. `when` lists values of other knobs that activate it."""

    name: str
    when: Condition

    @property
    @abstractmethod
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns of its encoding, without the activity flag."""

    @property
    def columns(self) -> int:
        """The number of columns of its encoding, without the activity flag."""
        return len(self.column_names)

    @abstractmethod
    def value(self, code: float) -> Value:
        """Return the value of a code."""

    @abstractmethod
    def code(self, value: object) -> float:
        """Return the code of a value. Raises `CandidateError` when the knob does not have it."""

    @abstractmethod
    def from_unit(self, u: Codes) -> Codes:
        """Return codes for (n,) points of [0, 1): uniform points give uniform samples of the knob."""

    @abstractmethod
    def encode(self, codes: Codes) -> Codes:
        """Return (n, columns) features of n active codes."""

    @abstractmethod
    def decode(self, features: Codes) -> Codes:
        """Return the codes nearest to (n, columns) features; the inverse of `encode`."""

    @abstractmethod
    def neighbours(self, code: float) -> list[float]:
        """Return the codes one step away."""

    @abstractmethod
    def mutate(self, codes: Codes, rng: np.random.Generator) -> Codes:
        """Return mutated codes: a small step or a new sample, with equal probability; every code differs where it can."""

    @abstractmethod
    def to_toml(self) -> Any:
        """Return the knob's entry in a space file, without `when`."""

    def nearest(self, value: object) -> float:
        """Return the code of the nearest value. Raises `CandidateError` where no value is similar."""
        return self.code(value)

    @property
    @abstractmethod
    def extremes(self) -> tuple[Value, ...]:
        """Every value of a countable knob, and the ends of a continuous one."""

    @property
    def default(self) -> float:
        """The code in the middle of the range, which a knob takes when another knob activates it."""
        return float(self.from_unit(np.array([0.5]))[0])


@dataclass(frozen=True)
class Ordered(Knob):
    """Ordered values: listed ones at equal distances, or the numbers of a grid at their (logarithmic) distances.

    large: further numbers that a space has once it is bound to large images.
    """

    values: tuple[Value, ...]
    grid: tuple[float, float, float, bool] | None = None  # low, high, step, log
    large: tuple[float, ...] = ()

    @property
    def column_names(self) -> tuple[str, ...]:
        """One: the position in the order."""
        return (self.name,)

    @cached_property
    def positions(self) -> Codes:
        """The position of each value in [0, 1]."""
        if len(self.values) == 1:
            return np.zeros(1)
        x = np.arange(len(self.values), dtype=np.float64)
        if self.grid is not None:
            x = np.array(self.values, dtype=np.float64)
            x = np.log(x) if self.grid[3] else x
        positions: Codes = (x - x[0]) / (x[-1] - x[0])
        return positions

    @cached_property
    def _edges(self) -> Codes:
        """The inner edges of the values' intervals of [0, 1); a value's interval reaches half-way to its neighbours."""
        gaps = np.diff(self.positions)
        widths = (np.concatenate([gaps[:1], gaps]) + np.concatenate([gaps, gaps[-1:]])) / 2
        edges: Codes = np.cumsum(widths)[:-1] / widths.sum()
        return edges

    @property
    def extremes(self) -> tuple[Value, ...]:
        """Return all values."""
        return self.values

    def value(self, code: float) -> Value:
        """Return the value at the index."""
        return self.values[int(code)]

    def code(self, value: object) -> float:
        """Return the index of the value; numbers match to one part in 10^9."""
        index = index_of(value, self.values)
        if index is None:
            if self.grid is not None:
                low, high, step, _ = self.grid
                rule = f"lies in [{low:g}, {high:g}] in steps of {step:g}"
            else:
                rule = f"is one of {', '.join(map(str, self.values))}"
            raise CandidateError(f"the knob {self.name} {rule}, got {value!r}: change it")
        return float(index)

    def nearest(self, value: object) -> float:
        """Return the index of the number nearest to a number, else that of the value itself."""
        if is_number(value) and all(is_number(v) for v in self.values):
            return float(np.abs(np.array(self.values, dtype=np.float64) - value).argmin())
        return self.code(value)

    def from_unit(self, u: Codes) -> Codes:
        """Return the index of the interval that contains u."""
        if len(self.values) == 1:
            return np.zeros(len(u))
        return np.searchsorted(self._edges, u, side="right").astype(np.float64)

    def encode(self, codes: Codes) -> Codes:
        """Return the values' positions in [0, 1]."""
        features: Codes = self.positions[codes.astype(np.int64)][:, None]
        return features

    def decode(self, features: Codes) -> Codes:
        """Return the nearest index."""
        x, p = features[:, 0], self.positions
        right = np.searchsorted(p, x).clip(1, max(1, len(p) - 1)) if len(p) > 1 else np.zeros(len(x), dtype=np.int64)
        left = np.maximum(right - 1, 0)
        return np.where(np.abs(x - p[left]) <= np.abs(p[right] - x), left, right).astype(np.float64)

    def neighbours(self, code: float) -> list[float]:
        """Return the indices before and after."""
        return [float(i) for i in (int(code) - 1, int(code) + 1) if 0 <= i < len(self.values)]

    def mutate(self, codes: Codes, rng: np.random.Generator) -> Codes:
        """Return an index a Gaussian step away (at least one), or a new sample of another."""
        n, count = len(codes), len(self.values)
        if count == 1:
            return codes.copy()
        step = rng.normal(0, max(1.0, MUTATION_SCALE * count), n)
        near = codes + np.sign(step) * np.maximum(1, np.round(np.abs(step)))
        near = near.clip(0, count - 1)
        near = np.where(near == codes, codes - np.sign(step), near)  # at a bound: the other way
        return np.where(rng.random(n) < 0.5, near, _another(codes, count, rng))

    def to_toml(self) -> Any:
        """Return the grid, or the values."""
        if self.grid is None:
            return {"values": list(self.values), **({"large": list(self.large)} if self.large else {})}
        low, high, step, log = self.grid
        return {"low": low, "high": high, "step": step, **({"log": True} if log else {})}


@dataclass(frozen=True)
class Choice(Knob):
    """Unordered categories, one-hot encoded."""

    choices: tuple[Value, ...]

    @property
    def column_names(self) -> tuple[str, ...]:
        """One for each category."""
        return tuple(f"{self.name}={choice}" for choice in self.choices)

    @property
    def extremes(self) -> tuple[Value, ...]:
        """Return all values."""
        return self.choices

    def value(self, code: float) -> Value:
        """Return the category at the index."""
        return self.choices[int(code)]

    def code(self, value: object) -> float:
        """Return the index of the category."""
        index = index_of(value, self.choices)
        if index is None:
            raise CandidateError(f"the knob {self.name} has no choice {value!r}: {suggest(value, self.choices)}")
        return float(index)

    def from_unit(self, u: Codes) -> Codes:
        """Return the index of the interval, one of equal length for each category, that contains u."""
        return np.minimum(np.floor(u * len(self.choices)), len(self.choices) - 1)

    def encode(self, codes: Codes) -> Codes:
        """Return one-hot rows."""
        features: Codes = np.eye(len(self.choices))[codes.astype(np.int64)]
        return features

    def decode(self, features: Codes) -> Codes:
        """Return the largest column."""
        codes: Codes = np.argmax(features, axis=1).astype(np.float64)
        return codes

    def neighbours(self, code: float) -> list[float]:
        """Return every other category."""
        return [float(i) for i in range(len(self.choices)) if i != int(code)]

    def mutate(self, codes: Codes, rng: np.random.Generator) -> Codes:
        """Return another category."""
        return _another(codes, len(self.choices), rng) if len(self.choices) > 1 else codes.copy()

    def to_toml(self) -> Any:
        """Return the categories."""
        return {"choices": list(self.choices)}


@dataclass(frozen=True)
class Fixed(Knob):
    """One value that the search never changes; its encoding has no column."""

    only: Value

    @property
    def column_names(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def extremes(self) -> tuple[Value, ...]:
        """Return the value."""
        return (self.only,)

    def value(self, code: float) -> Value:
        """Return the value."""
        return self.only

    def code(self, value: object) -> float:
        """Return 0 for the value itself."""
        if not self.holds(value):
            raise CandidateError(f"the knob {self.name} is fixed at {self.only!r}, got {value!r}: change it")
        return 0.0

    def nearest(self, value: object) -> float:
        """Return 0, whatever the value."""
        return 0.0

    def holds(self, value: object) -> bool:
        """Return whether this is the value."""
        return index_of(value, (self.only,)) is not None

    def from_unit(self, u: Codes) -> Codes:
        """Return zeros."""
        return np.zeros(len(u))

    def encode(self, codes: Codes) -> Codes:
        """Return no column."""
        return np.zeros((len(codes), 0))

    def decode(self, features: Codes) -> Codes:
        """Return zeros."""
        return np.zeros(len(features))

    def neighbours(self, code: float) -> list[float]:
        """Return none."""
        return []

    def mutate(self, codes: Codes, rng: np.random.Generator) -> Codes:
        """Return the codes as they are."""
        return codes.copy()

    def to_toml(self) -> Any:
        """Return the value in a table, so that the knobs keep their order in the file."""
        return {"value": self.only}


def _another(codes: Codes, count: int, rng: np.random.Generator) -> Codes:
    return np.mod(codes + rng.integers(1, count, len(codes)), count)


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether this is a number; booleans are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def index_of(value: object, values: Sequence[Value]) -> int | None:
    """Return the index of `value`, None if absent. Booleans, strings and numbers never match each other; numbers match to 1e-9."""
    for i, other in enumerate(values):
        if isinstance(value, bool) or isinstance(other, bool) or isinstance(value, str) or isinstance(other, str):
            if type(value) is type(other) and value == other:
                return i
        elif is_finite(value) and abs(value - other) <= 1e-9 * abs(other):
            return i
    return None
