"""One line of a space file: from `{ low = 4, high = 64, log = true }` and the like to a knob."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jointnas.errors import SpaceError, suggest
from jointnas.space.knobs import Choice, Condition, Continuous, Fixed, Knob, Ordered, Switchable, Value, index_of

LARGEST_GRID = 100_000
_KEYS = ("low", "high", "log", "step", "off", "values", "choices", "when")


def parse_knob(name: str, spec: Any) -> Knob:
    """Return the knob of one line of a space file. Raises `SpaceError` that names the knob."""
    if not isinstance(spec, Mapping):
        spec = {"value": spec}
    when = _parse_when(name, spec.get("when", {}))
    keys = set(spec) - {"when"}
    if keys == {"value"}:
        return Fixed(name, when, _scalar(name, spec["value"]))
    for key in keys:
        if key not in _KEYS:
            raise SpaceError(f"the knob {name} has no key {key!r}: {suggest(key, _KEYS)}")
    if keys == {"values"}:
        return Ordered(name, when, _several(name, "values", spec["values"]))
    if keys == {"choices"}:
        return Choice(name, when, _several(name, "choices", spec["choices"]))
    if {"low", "high"} <= keys <= {"low", "high", "log", "step", "off"}:
        return _parse_number(name, when, spec)
    raise SpaceError(
        f"a knob is {{low, high}}, {{values}}, {{choices}}, {{value}} or a bare value, got {name} = {dict(spec)!r}: "
        "give it one of these forms"
    )


def _parse_number(name: str, when: Condition, spec: Mapping[str, Any]) -> Knob:
    low, high, log = spec["low"], spec["high"], spec.get("log", False)
    numbers = {"low": low, "high": high, **{key: spec[key] for key in ("step", "off") if key in spec}}
    for key, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise SpaceError(f"{key} of the knob {name} is a finite number, got {number!r}: change it")
    if not isinstance(log, bool):
        raise SpaceError(f"log of the knob {name} is true or false, got {log!r}: change it")
    if low > high:
        raise SpaceError(f"the knob {name} has low ≤ high, got low = {low!r} and high = {high!r}: swap them")
    if log and low <= 0:
        raise SpaceError(f"a logarithmic knob has low > 0, got low = {low!r} for {name}: raise low or drop log")
    whole = isinstance(low, int) and isinstance(high, int)
    continuous = "step" not in spec and not whole and low < high
    if "off" in spec:
        return _parse_switchable(name, when, spec, continuous)
    if low == high:
        return Ordered(name, when, (low,), (low, high, 1, log))
    if continuous:
        return Continuous(name, when, float(low), float(high), log)
    step = spec.get("step", 1)
    if step <= 0:
        raise SpaceError(f"step of the knob {name} is above 0, got {step!r}: raise it")
    count = math.floor((high - low) / step + 1e-9) + 1
    if count > LARGEST_GRID:
        raise SpaceError(f"a stepped knob has at most {LARGEST_GRID} values, got {count} for {name}: widen its step")
    exact = whole and isinstance(step, int)
    values = tuple(low + i * step if exact else _tidy(low + i * step, step) for i in range(count))
    return Ordered(name, when, values, (low, high, step, log))


def _parse_switchable(name: str, when: Condition, spec: Mapping[str, Any], continuous: bool) -> Knob:
    low, high, off = float(spec["low"]), float(spec["high"]), float(spec["off"])
    if not continuous:
        raise SpaceError(
            f"off belongs to a range of real numbers, got {dict(spec)!r} for {name}: list the values instead, with off among them"
        )
    if low <= off <= high:
        raise SpaceError(f"off of the knob {name} lies outside of [{low:g}, {high:g}], got {off:g}: change it")
    return Switchable(name, when, low, high, spec.get("log", False), off)


def _tidy(number: float, step: float) -> float:
    """Return a grid's number without the rounding errors of its making: 0.3 for 0.1 + 0.1 + 0.1."""
    return 0.0 if abs(number) < 1e-9 * step else float(f"{number:.12g}")


def _scalar(name: str, value: Any) -> Value:
    if not isinstance(value, bool | int | float | str) or (isinstance(value, float) and not math.isfinite(value)):
        raise SpaceError(
            f"a value of the knob {name} is a finite number, word or truth value, got {value!r}: change it"
        )
    return value


def _several(name: str, key: str, values: Any) -> tuple[Value, ...]:
    if not isinstance(values, list) or not values:
        raise SpaceError(f"{key} of the knob {name} is a list of one or more, got {values!r}: fill it")
    found = tuple(_scalar(name, v) for v in values)
    for i, value in enumerate(found):
        if index_of(value, found) != i:
            raise SpaceError(f"{key} of the knob {name} are different from each other, got {value!r} twice: drop one")
    return found


def _parse_when(name: str, when: Any) -> Condition:
    if not isinstance(when, Mapping) or any(wanted == [] for wanted in when.values()):
        raise SpaceError(
            f"when of the knob {name} is {{other = value}} or {{other = [values]}}, got {when!r}: change it"
        )
    return tuple(
        (str(other), tuple(_scalar(name, v) for v in (wanted if isinstance(wanted, list) else [wanted])))
        for other, wanted in when.items()
    )
