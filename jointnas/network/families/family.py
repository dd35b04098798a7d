"""The `Family` type: a function from an input shape, a class count and knobs to a blueprint, in one piece or in parts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jointnas.errors import BlueprintError, suggest
from jointnas.network.blueprint import Blueprint
from jointnas.network.operations.operation import Shape
from jointnas.units import is_finite

LARGEST = 65_536  # value of any knob: the most channels of an operation, and no depth that fills the memory

Make = Callable[..., Blueprint]
"""`make(input_shape, classes, *, knob=default, …)`: returns a blueprint or raises `BlueprintError`."""


@dataclass(frozen=True)
class Part:
    """A section of a network: the function that makes its blueprint, and the family's knobs that are its arguments.

    A part depends on the parts before it through its input shape alone. A space can therefore compute the costs of a hundred
    thousand networks from their few distinct parts.
    """

    make: Make
    knobs: Mapping[str, str]  # argument: knob

    def blueprint(self, input_shape: Shape, classes: int, values: Mapping[str, Any]) -> Blueprint:
        """Return this part's blueprint for the family's knob values."""
        return self.make(input_shape, classes, **{argument: values[knob] for argument, knob in self.knobs.items()})


@dataclass(frozen=True)
class Family:
    """A network family: its knobs with their defaults, and its parts, each of which reads the part before it."""

    knobs: Mapping[str, Any]
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, make: Make | Family) -> Family:
        """Return the family of one function, whose keyword-only parameters are its knobs and their defaults."""
        if isinstance(make, Family):
            return make
        parameters = inspect.signature(make).parameters.values()
        knobs = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
        return cls(knobs, (Part(make, {name: name for name in knobs}),))

    def values(self, name: str, knobs: Mapping[str, Any]) -> dict[str, Any]:
        """Return a value for every knob, by default the family's. Raises `BlueprintError` for an unknown knob or a wrong value."""
        for knob in knobs:
            if knob not in self.knobs:
                raise BlueprintError(f"the network {name!r} has no knob {knob!r}: {suggest(knob, self.knobs)}")
        return self.part_values(self.knobs, knobs)

    def part_values(self, names: Iterable[str], knobs: Mapping[str, Any]) -> dict[str, Any]:
        """Return a value for each of these knobs, as `values` does."""
        return {name: _of_kind(name, knobs.get(name, self.knobs[name]), self.knobs[name]) for name in names}

    def blueprint(self, input_shape: Shape, classes: int, values: Mapping[str, Any]) -> Blueprint:
        """Return the blueprint of a value for every knob."""
        shape, made = input_shape, []
        for part in self.parts:
            made.append(part.blueprint(shape, classes, values))
            shape = made[-1].output_shape
        return Blueprint.in_a_row(made)


def _of_kind(knob: str, value: Any, default: Any) -> Any:
    """Return a value converted to the type of the knob's default: 24.0 becomes 24 where the default is an integer."""
    if isinstance(default, bool | str):
        if isinstance(value, type(default)):
            return value
        kind = "true or false" if isinstance(default, bool) else "a word"
    else:
        number = is_finite(value)
        if number and abs(value) > LARGEST:
            raise BlueprintError(f"{knob} must be at most {LARGEST}, got {value!r}: lower it")
        if number and isinstance(default, float):
            return float(value)
        if number and value == int(value):
            return int(value)
        kind = "a number" if isinstance(default, float) else "a whole number"
    raise BlueprintError(f"{knob} must be {kind}, got {value!r}")
