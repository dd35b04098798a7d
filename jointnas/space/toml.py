"""The TOML file of a search space: read, checked, written."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from typing import Any, NamedTuple

import tomli_w

from jointnas.errors import BlueprintError, CandidateError, RecipeError, SpaceError, suggest
from jointnas.network import families
from jointnas.space.continuous import Continuous, Switchable
from jointnas.space.knobs import Choice, Condition, Fixed, Knob, Ordered, Value, index_of
from jointnas.training.recipe import check_value
from jointnas.training.recipe import knob as recipe_knob

FORMAT = 1
GROUPS = ("architecture", "recipe")
LARGEST_GRID = 100_000
_KNOB_KEYS = ("low", "high", "log", "step", "off", "values", "choices", "when")


class Definition(NamedTuple):
    """What a space file says."""

    name: str
    description: str
    architecture: tuple[Knob, ...]
    recipe: tuple[Knob, ...]


def read_definition(text: str, name: str) -> Definition:
    """Return the definition in TOML `text`; `name` stands in where the file gives none. Raises `SpaceError`."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpaceError(f"a space is valid TOML, got an error in {name!r}: {error}") from error
    known = ("format", "name", "description", *GROUPS)
    for key in data:
        if key not in known:
            raise SpaceError(f"a space has no table {key!r}: {suggest(key, known)}")
    if data.get("format") != FORMAT:
        raise SpaceError(
            f"a space says format = {FORMAT}, got {data.get('format')!r} in {name!r}: write that line first"
        )
    groups = []
    for group in GROUPS:
        table = data.get(group, {})
        if not isinstance(table, Mapping):
            raise SpaceError(f"{group} is a table of knobs, got {table!r}: write [{group}]")
        groups.append(tuple(parse_knob(knob, spec) for knob, spec in table.items()))
    return Definition(str(data.get("name", name)), str(data.get("description", "")), groups[0], groups[1])


def write_definition(definition: Definition) -> str:
    """Return TOML that `read_definition` gives an equal definition for."""
    data: dict[str, Any] = {"format": FORMAT, "name": definition.name, "description": definition.description}
    for group, knobs in zip(GROUPS, (definition.architecture, definition.recipe), strict=True):
        data[group] = {}
        for knob in knobs:
            form = knob.to_toml()
            if knob.when:
                form = {**form, "when": {other: list(values) for other, values in knob.when}}
            data[group][knob.name] = form
    return tomli_w.dumps(data)


# ------------------------------------------------------------------------------------------------------------ one knob


def parse_knob(name: str, spec: Any) -> Knob:
    """Return the knob of one line of a space file. Raises `SpaceError` that names the knob."""
    if not isinstance(spec, Mapping):
        spec = {"value": spec}
    when = _parse_when(name, spec.get("when", {}))
    keys = set(spec) - {"when"}
    if keys == {"value"}:
        return Fixed(name, when, _scalar(name, spec["value"]))
    for key in keys:
        if key not in _KNOB_KEYS:
            raise SpaceError(f"the knob {name} has no key {key!r}: {suggest(key, _KNOB_KEYS)}")
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


# -------------------------------------------------------------------------------------------------------------- checks


def check_definition(definition: Definition) -> None:
    """Raise `SpaceError` unless names, conditions and values fit each other, the networks and the recipe."""
    knobs = {knob.name: knob for knob in (*definition.architecture, *definition.recipe)}
    if not knobs:
        raise SpaceError(f"a space has one knob or more, got none in {definition.name!r}: add [architecture]")
    for knob in definition.recipe:
        if knob.name in {k.name for k in definition.architecture}:
            raise SpaceError(f"a knob stands once in a space, got {knob.name!r} in both groups: rename one")
    for knob in knobs.values():
        _check_condition(knob, knobs)
    if "network" not in {k.name for k in definition.architecture}:
        return  # an abstract space: any names, any values
    for knob in definition.recipe:
        for value in knob.extremes:
            try:
                check_value(knob.name, value)
            except RecipeError as error:
                raise SpaceError(str(error)) from error
        if isinstance(knob, Continuous) and recipe_knob(knob.name).type == "int":
            raise SpaceError(f"the recipe knob {knob.name} is a whole number, got a range without a step: say step = 1")
    _check_networks(definition.architecture)


def _check_condition(knob: Knob, knobs: Mapping[str, Knob]) -> None:
    for other, values in knob.when:
        if other not in knobs:
            raise SpaceError(
                f"a condition names a knob of the space, got {other!r} for {knob.name}: {suggest(other, knobs)}"
            )
        parent = knobs[other]
        if isinstance(parent, Continuous):
            raise SpaceError(f"a condition rests on a knob with countable values, got {other!r}: give it a step")
        if isinstance(parent, Fixed):
            continue  # held at a value that may rule this knob out
        for value in values:
            try:
                parent.code(value)
            except CandidateError as error:
                raise SpaceError(f"the condition of {knob.name} can hold, got {other} = {value!r}: {error}") from error


def _check_networks(architecture: tuple[Knob, ...]) -> None:
    network = next(k for k in architecture if k.name == "network")
    if isinstance(network, Continuous) or network.when:
        raise SpaceError("network is a name or a choice of names without a condition, got something else: change it")
    try:
        known = {str(name): families.find_family(name).knobs for name in network.extremes}
    except BlueprintError as error:
        raise SpaceError(str(error)) from error
    for knob in architecture:
        wanted = dict(knob.when).get("network", tuple(known))
        for name in (n for n in known if n in wanted and knob is not network):
            if knob.name not in known[name]:
                raise SpaceError(f"the network {name!r} has no knob {knob.name!r}: {suggest(knob.name, known[name])}")
            if isinstance(knob, Continuous) and isinstance(known[name][knob.name], int):
                raise SpaceError(f"the knob {knob.name} is a whole number, got a range without a step: say step = 1")
