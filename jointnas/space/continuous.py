"""Knobs that are real numbers: of a range, or of a range and one value outside of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from jointnas.errors import CandidateError
from jointnas.space.knobs import MUTATION_SCALE, Codes, Knob, Value, index_of, is_number

NEIGHBOUR_STEP = 0.1  # as a share of the (logarithmic) range
SMALLEST_STEP = 1e-6  # in the same unit: closer numbers count as equal
OFF_SHARE = 1 / 8  # probability that a sampled or mutated knob is off


@dataclass(frozen=True)
class Continuous(Knob):
    """A real number between two bounds, uniform in itself or in its logarithm."""

    low: float
    high: float
    log: bool

    @property
    def column_names(self) -> tuple[str, ...]:
        """One: the position in the range."""
        return (self.name,)

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
        """Return the number, or the nearest bound of one outside the range."""
        return self.code(float(self.nearest_codes(np.array([value]))[0]) if is_number(value) else value)

    def nearest_codes(self, numbers: Codes) -> Codes:
        """Return the codes nearest to (n,) numbers, NaN for NaN."""
        return np.clip(numbers, self.low, self.high)

    def _number(self, u: Codes) -> Codes:
        """Return low + u·(high − low), of the logarithms in a logarithmic range."""
        low, high = self._ends
        x = low + u * (high - low)
        return np.clip(np.exp(x) if self.log else x, self.low, self.high)

    def _position(self, numbers: Codes) -> Codes:
        """Return the positions of (n,) numbers between the bounds, in [0, 1]; the inverse of `_number`."""
        low, high = self._ends
        x = np.log(numbers) if self.log else numbers
        return np.asarray((x - low) / (high - low))

    def from_unit(self, u: Codes) -> Codes:
        """Return the numbers at these positions in the range."""
        return self._number(u)

    def to_unit(self, codes: Codes) -> Codes:
        """Return (n,) points of [0, 1] that `from_unit` maps to the codes."""
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
        return [float(c) for c in self._number(np.array([s for s in steps if abs(s - u) > SMALLEST_STEP]))]

    def mutate(self, codes: Codes, rng: np.random.Generator) -> Codes:
        """Return a number a Gaussian step away, reflected at the bounds, or a new sample."""
        u = self._position(codes)
        step = np.abs(u + rng.normal(0, MUTATION_SCALE, len(u)))
        step = np.where(step > 1, 2 - step, step).clip(0, 1)
        return self._number(np.where(rng.random(len(u)) < 0.5, step, rng.random(len(u))))

    def to_toml(self) -> Any:
        """Return the bounds."""
        return {"low": self.low, "high": self.high, **({"log": True} if self.log else {})}


@dataclass(frozen=True)
class Switchable(Continuous):
    """A real number between two bounds, or one value outside them that means "off", such as 0 beside a logarithmic range."""

    off: float

    @property
    def column_names(self) -> tuple[str, ...]:
        """Two: the position of the number, and whether it is on."""
        return self.name, f"{self.name} is on"

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
        """Return "off" for points below `OFF_SHARE`, and numbers of the range for the others."""
        inside = np.maximum(0, u - OFF_SHARE) / (1 - OFF_SHARE)
        return np.where(u < OFF_SHARE, self.off, self._number(inside))

    def to_unit(self, codes: Codes) -> Codes:
        """Return (n,) points of [0, 1] that `from_unit` maps to the codes."""
        inside = self._position(self._or_low(codes))
        return np.where(codes == self.off, OFF_SHARE / 2, OFF_SHARE + (1 - OFF_SHARE) * inside)

    def encode(self, codes: Codes) -> Codes:
        """Return min–max features, neutral for "off", and whether the number is on."""
        on = codes != self.off
        return np.column_stack([np.where(on, self._position(self._or_low(codes)), 0.5), on])

    def decode(self, features: Codes) -> Codes:
        """Return the numbers, or "off" where the second column is below one half."""
        return np.where(features[:, 1] < 0.5, self.off, super().decode(features))

    def neighbours(self, code: float) -> list[float]:
        """Return the numbers a tenth of the range below and above; "off" lies beside the lower bound."""
        if code == self.off:
            return [self.low]
        at_low = self._position(np.array([code]))[0] <= SMALLEST_STEP
        return [*super().neighbours(code), *([self.off] if at_low else [])]

    def mutate(self, codes: Codes, rng: np.random.Generator) -> Codes:
        """Return "off" with probability `OFF_SHARE`, else a mutated number; a knob that was off starts at the lower bound."""
        moved = super().mutate(self._or_low(codes), rng)
        return np.where((codes != self.off) & (rng.random(len(codes)) < OFF_SHARE), self.off, moved)

    def to_toml(self) -> Any:
        """Return the bounds and "off"."""
        return {**super().to_toml(), "off": self.off}

    def _or_low(self, codes: Codes) -> Codes:
        return np.where(codes == self.off, self.low, codes)
