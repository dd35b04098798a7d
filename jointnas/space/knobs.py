"""One knob of a search space: its values, how they are sampled, encoded, changed and written down.

Inside a space a value is a float *code*, so that a whole batch of candidates is one array: the index of the value for
ordered, categorical and fixed knobs, the number itself for continuous ones; NaN where the knob is inactive.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from jointnas.errors import CandidateError, suggest

Value = bool | int | float | str
Codes = NDArray[np.float64]
Condition = tuple[tuple[str, tuple[Value, ...]], ...]

NEIGHBOUR_STEP = 0.1  # of a continuous knob's (logarithmic) range
SMALLEST_STEP = 1e-6  # in the same unit: what is nearer is the same number
MUTATION_SCALE = 0.15  # standard deviation of a small mutation, in the same unit
OFF_SHARE = 1 / 8  # of the draws of a knob that can be off


@dataclass(frozen=True)
class Knob(ABC):
    """The contract: how one knob reads and writes codes. `when` lists the values of other knobs that switch it on."""

    name: str
    when: Condition

    @property
    @abstractmethod
    def columns(self) -> int:
        """How many columns its encoding has, without the activity flag."""

    @abstractmethod
    def value(self, code: float) -> Value:
        """Return the value behind a code."""

    @abstractmethod
    def code(self, value: object) -> float:
        """Return the code of a value. Raises `CandidateError` when the knob cannot take it."""

    @abstractmethod
    def from_unit(self, u: Codes) -> Codes:
        """Return codes for points of [0, 1), equal shares of the interval meaning equal shares of the range."""

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
        """Return changed codes: a small step or a fresh draw, half of the time each; every code differs where it can."""

    @abstractmethod
    def to_toml(self) -> Any:
        """Return what a space file says for this knob, `when` left out."""

    def nearest(self, value: object) -> float:
        """Return the code of the value nearest to any. Raises `CandidateError` where nothing is near."""
        return self.code(value)

    @property
    @abstractmethod
    def extremes(self) -> tuple[Value, ...]:
        """Every value of a countable knob, and the ends of a continuous one."""

    @property
    def default(self) -> float:
        """The code in the middle of the range, which a knob takes when a neighbour switches it on."""
        return float(self.from_unit(np.array([0.5]))[0])


@dataclass(frozen=True)
class Continuous(Knob):
    """A real number between two bounds, uniform in itself or in its logarithm."""

    low: float
    high: float
    log: bool

    @property
    def columns(self) -> int:
        """One."""
        return 1

    @property
    def _ends(self) -> tuple[float, float]:
        return (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)

    @property
    def extremes(self) -> tuple[Value, ...]:
        """Return the bounds."""
        return self.low, self.high

    def value(self, code: float) -> Value:
        """Return the number."""
        return float(code)

    def code(self, value: object) -> float:
        """Return the number, inside its bounds to one part in 10^9."""
        slack = 1e-9 * max(abs(self.low), abs(self.high))
        if not is_number(value) or not (self.low - slack <= value <= self.high + slack):
            raise CandidateError(f"the knob {self.name} {self._rule}, got {value!r}: change it")
        return min(max(float(value), self.low), self.high)

    @property
    def _rule(self) -> str:
        return f"lies in [{self.low:g}, {self.high:g}]"

    def nearest(self, value: object) -> float:
        """Return the number, or the bound that it lies beyond."""
        return self.code(float(self.nearest_codes(np.array([value]))[0]) if is_number(value) else value)

    def nearest_codes(self, numbers: Codes) -> Codes:
        """Return the codes nearest to (n,) numbers, NaN for NaN."""
        return np.clip(numbers, self.low, self.high)

    def _number(self, u: Codes) -> Codes:
        """Return low + u·(high − low), in the logarithm where asked."""
        low, high = self._ends
        x = low + u * (high - low)
        return np.clip(np.exp(x) if self.log else x, self.low, self.high)

    def _position(self, numbers: Codes) -> Codes:
        """Return where (n,) numbers lie between the bounds, in [0, 1]; the inverse of `_number`."""
        low, high = self._ends
        x = np.log(numbers) if self.log else numbers
        return np.asarray((x - low) / (high - low))

    def from_unit(self, u: Codes) -> Codes:
        """Return the numbers at these shares of the range."""
        return self._number(u)

    def to_unit(self, codes: Codes) -> Codes:
        """Return (n,) points of [0, 1] that `from_unit` brings back to the codes."""
        return self._position(codes)

    def encode(self, codes: Codes) -> Codes:
        """Return min–max features."""
        return self._position(codes)[:, None]

    def decode(self, features: Codes) -> Codes:
        """Return the numbers."""
        return self._number(np.clip(features[:, 0], 0, 1))

    def neighbours(self, code: float) -> list[float]:
        """Return the numbers a tenth of the range below and above, clipped to it."""
        u = float(self._position(np.array([code]))[0])
        steps = (max(0.0, u - NEIGHBOUR_STEP), min(1.0, u + NEIGHBOUR_STEP))
        found = self._number(np.array([s for s in steps if abs(s - u) > SMALLEST_STEP]))
        return [float(c) for c in found]

    def mutate(self, codes: Codes, rng: np.random.Generator) -> Codes:
        """Return a Gaussian step reflected at the bounds, or a fresh draw."""
        u = self._position(codes)
        step = np.abs(u + rng.normal(0, MUTATION_SCALE, len(u)))
        step = np.where(step > 1, 2 - step, step).clip(0, 1)
        return self._number(np.where(rng.random(len(u)) < 0.5, step, rng.random(len(u))))

    def to_toml(self) -> Any:
        """Return the bounds."""
        return {"low": self.low, "high": self.high, **({"log": True} if self.log else {})}


@dataclass(frozen=True)
class Switchable(Continuous):
    """A real number between two bounds, or one value outside them that stands for "off", as 0 does in a logarithmic range."""

    off: float

    @property
    def columns(self) -> int:
        """Two: where the number lies, and whether it is on."""
        return 2

    @property
    def extremes(self) -> tuple[Value, ...]:
        """Return "off" and the bounds."""
        return self.off, self.low, self.high

    @property
    def default(self) -> float:
        """The number in the middle of the range."""
        return float(self._number(np.array([0.5]))[0])

    @property
    def _rule(self) -> str:
        return f"{super()._rule} or is {self.off:g}"

    def code(self, value: object) -> float:
        """Return the number, inside its bounds to one part in 10^9, or "off"."""
        return self.off if index_of(value, (self.off,)) is not None else super().code(value)

    def nearest_codes(self, numbers: Codes) -> Codes:
        """Return the codes nearest to (n,) numbers, NaN for NaN."""
        inside = super().nearest_codes(numbers)
        return np.where(np.abs(numbers - self.off) < np.abs(numbers - inside), self.off, inside)

    def from_unit(self, u: Codes) -> Codes:
        """Return "off" for the first `OFF_SHARE` of the interval, and the range for the rest."""
        inside = np.maximum(0, u - OFF_SHARE) / (1 - OFF_SHARE)
        return np.where(u < OFF_SHARE, self.off, self._number(inside))

    def to_unit(self, codes: Codes) -> Codes:
        """Return (n,) points of [0, 1] that `from_unit` brings back to the codes."""
        inside = self._position(self._or_low(codes))
        return np.where(codes == self.off, OFF_SHARE / 2, OFF_SHARE + (1 - OFF_SHARE) * inside)

    def encode(self, codes: Codes) -> Codes:
        """Return min–max features, neutral for "off", and whether the number is on."""
        on = codes != self.off
        return np.column_stack([np.where(on, self._position(self._or_low(codes)), 0.5), on])

    def decode(self, features: Codes) -> Codes:
        """Return the numbers, and "off" where the second column is nearer to 0 than to 1."""
        return np.where(features[:, 1] < 0.5, self.off, super().decode(features))

    def neighbours(self, code: float) -> list[float]:
        """Return the numbers a tenth of the range below and above; "off" lies beside the lower bound."""
        if code == self.off:
            return [self.low]
        at_low = self._position(np.array([code]))[0] <= SMALLEST_STEP
        return [*super().neighbours(code), *([self.off] if at_low else [])]

    def mutate(self, codes: Codes, rng: np.random.Generator) -> Codes:
        """Return "off" in `OFF_SHARE` of the cases, else a changed number; what was off starts from the lower bound."""
        moved = super().mutate(self._or_low(codes), rng)
        return np.where((codes != self.off) & (rng.random(len(codes)) < OFF_SHARE), self.off, moved)

    def to_toml(self) -> Any:
        """Return the bounds and "off"."""
        return {**super().to_toml(), "off": self.off}

    def _or_low(self, codes: Codes) -> Codes:
        return np.where(codes == self.off, self.low, codes)


@dataclass(frozen=True)
class Ordered(Knob):
    """Values in an order: listed ones at equal distances, or the numbers of a grid at their (logarithmic) distances."""

    values: tuple[Value, ...]
    grid: tuple[float, float, float, bool] | None = None  # low, high, step, log

    @property
    def columns(self) -> int:
        """One."""
        return 1

    @cached_property
    def positions(self) -> Codes:
        """Where each value lies in [0, 1]."""
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
        """The inner borders of the values' shares of [0, 1); a value's share is the width of its surroundings."""
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
        if is_number(value) and all(is_number(known) for known in self.values):
            return float(np.abs(np.array(self.values, dtype=np.float64) - value).argmin())
        return self.code(value)

    def from_unit(self, u: Codes) -> Codes:
        """Return the index whose share holds u."""
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
        """Return an index a Gaussian step away (one at least), or a fresh draw of another."""
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
            return {"values": list(self.values)}
        low, high, step, log = self.grid
        return {"low": low, "high": high, "step": step, **({"log": True} if log else {})}


@dataclass(frozen=True)
class Choice(Knob):
    """Categories without an order, one-hot encoded."""

    choices: tuple[Value, ...]

    @property
    def columns(self) -> int:
        """One a category."""
        return len(self.choices)

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
        """Return the index whose equal share holds u."""
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
    """One value that the search never changes; it takes no column."""

    only: Value

    @property
    def columns(self) -> int:
        """None."""
        return 0

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
        """Return the value, in a table like the others, so that knobs keep their order."""
        return {"value": self.only}


def _another(codes: Codes, count: int, rng: np.random.Generator) -> Codes:
    return np.mod(codes + rng.integers(1, count, len(codes)), count)


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether this is a number, which truth values are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def index_of(value: object, values: Sequence[Value]) -> int | None:
    """Return where `value` stands: truth values, words and numbers are never mixed; numbers match to 1e-9."""
    for i, known in enumerate(values):
        if isinstance(value, bool) or isinstance(known, bool) or isinstance(value, str) or isinstance(known, str):
            if type(value) is type(known) and value == known:
                return i
        elif isinstance(value, int | float) and abs(value - known) <= 1e-9 * abs(known):
            return i
    return None
