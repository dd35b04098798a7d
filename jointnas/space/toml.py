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
from jointnas.units import is_finite

FORMAT = 1
GROUPS = ("architecture", "recipe")
LARGEST_GRID = 100_000
_KNOB_KEYS = ("low", "high", "log", "step", "off", "values", "large", "choices", "when")


class Definition(NamedTuple):
    """The content of a space file."""

    name: str
    description: str
    architecture: tuple[Knob, ...]
    recipe: tuple[Knob, ...]


def read_definition(text: str, name: str) -> Definition:
    """Return the definition in TOML `text`; `name` is used where the file has none. Raises `SpaceError`."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpaceError(f"the space {name!r} is not valid TOML: {error}") from error
    allowed = ("format", "name", "description", *GROUPS)
    for key in data:
        if key not in allowed:
            raise SpaceError(f"a space has no table {key!r}: {suggest(key, allowed)}")
    if data.get("format") != FORMAT:
        raise SpaceError(f"the space {name!r} has format = {data.get('format')!r}: begin it with format = {FORMAT}")
    groups = []
    for group in GROUPS:
        table = data.get(group, {})
        if not isinstance(table, Mapping):
            raise SpaceError(f"{group} must be a table of knobs, got {table!r}: write [{group}]")
        groups.append(tuple(parse_knob(knob, spec) for knob, spec in table.items()))
    return Definition(str(data.get("name", name)), str(data.get("description", "")), groups[0], groups[1])


def write_definition(definition: Definition) -> str:
    """Return the TOML of a definition; `read_definition` returns an equal one."""
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
    if keys == {"values", "large"}:
        values, large = (_several(name, key, spec[key]) for key in ("values", "large"))
        if not all(is_finite(value) for value in (*values, *large)) or set(values) & set(large):
            raise SpaceError(
                f"values and large of the knob {name} are different numbers, got {values} and {large}: correct them"
            )
        return Ordered(name, when, values, large=tuple(map(float, large)))
    if keys == {"choices"}:
        return Choice(name, when, _several(name, "choices", spec["choices"]))
    if {"low", "high"} <= keys <= {"low", "high", "log", "step", "off"}:
        return _parse_number(name, when, spec)
    raise SpaceError(
        f"the knob {name} must be {{low, high}}, {{values}}, {{choices}}, {{value}} or a bare value, got {dict(spec)!r}: "
        "write it in one of these forms"
    )


def _parse_number(name: str, when: Condition, spec: Mapping[str, Any]) -> Knob:
    low, high, log = spec["low"], spec["high"], spec.get("log", False)
    numbers = {"low": low, "high": high, **{key: spec[key] for key in ("step", "off") if key in spec}}
    for key, number in numbers.items():
        if not is_finite(number):
            raise SpaceError(f"{key} of the knob {name} must be a finite number, got {number!r}")
    if not isinstance(log, bool):
        raise SpaceError(f"log of the knob {name} must be true or false, got {log!r}")
    if low > high:
        raise SpaceError(f"the knob {name} has low = {low!r} above high = {high!r}: swap them")
    if log and low <= 0:
        raise SpaceError(f"the logarithmic knob {name} needs low above 0, got {low!r}: raise low or remove log")
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
        raise SpaceError(f"step of the knob {name} must be above 0, got {step!r}")
    steps = (float(high) - float(low)) / float(step)
    if not is_finite(steps) or steps >= LARGEST_GRID:
        count = math.floor(steps + 1e-9) + 1 if is_finite(steps) else "too many"
        raise SpaceError(
            f"the knob {name} has {count} values, but at most {LARGEST_GRID} are allowed: use a larger step"
        )
    count = math.floor(steps + 1e-9) + 1
    exact = whole and isinstance(step, int)
    values = tuple(low + i * step if exact else _tidy(low + i * step, step) for i in range(count))
    return Ordered(name, when, values, (low, high, step, log))


def _parse_switchable(name: str, when: Condition, spec: Mapping[str, Any], continuous: bool) -> Knob:
    low, high, off = float(spec["low"]), float(spec["high"]), float(spec["off"])
    if not continuous:
        raise SpaceError(
            f"the knob {name} is no range of real numbers and cannot have off, got {dict(spec)!r}: list its values, with off among them"
        )
    if low <= off <= high:
        raise SpaceError(f"off of the knob {name} must lie outside [{low:g}, {high:g}], got {off:g}")
    return Switchable(name, when, low, high, spec.get("log", False), off)


def _tidy(number: float, step: float) -> float:
    """Return a grid's number without rounding errors: 0.3 for 0.1 + 0.1 + 0.1."""
    return 0.0 if abs(number) < 1e-9 * step else float(f"{number:.12g}")


def _scalar(name: str, value: Any) -> Value:
    if not (isinstance(value, bool | str) or is_finite(value)):
        raise SpaceError(f"a value of the knob {name} must be a finite number, a string or a boolean, got {value!r}")
    return value


def _several(name: str, key: str, values: Any) -> tuple[Value, ...]:
    if not isinstance(values, list) or not values:
        raise SpaceError(f"{key} of the knob {name} must be a list of one or more values, got {values!r}")
    scalars = tuple(_scalar(name, v) for v in values)
    for i, value in enumerate(scalars):
        if index_of(value, scalars) != i:
            raise SpaceError(f"{key} of the knob {name} contain {value!r} twice: remove one")
    return scalars


def _parse_when(name: str, when: Any) -> Condition:
    if not isinstance(when, Mapping) or any(wanted == [] for wanted in when.values()):
        raise SpaceError(f"when of the knob {name} must be {{other = value}} or {{other = [values]}}, got {when!r}")
    return tuple(
        (str(other), tuple(_scalar(name, v) for v in (wanted if isinstance(wanted, list) else [wanted])))
        for other, wanted in when.items()
    )


# -------------------------------------------------------------------------------------------------------------- checks


def check_definition(definition: Definition) -> None:
    """Raise `SpaceError` unless names, conditions and values fit each other, the networks and the recipe."""
    knobs = {knob.name: knob for knob in (*definition.architecture, *definition.recipe)}
    if not knobs:
        raise SpaceError(f"the space {definition.name!r} has no knobs: add some to [architecture]")
    for knob in definition.recipe:
        if knob.name in {k.name for k in definition.architecture}:
            raise SpaceError(f"the knob {knob.name!r} is in [architecture] and in [recipe]: rename one of them")
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
            raise SpaceError(
                f"the recipe knob {knob.name} takes whole numbers, but its range has no step: add step = 1"
            )
    _check_networks(definition.architecture)


def _check_condition(knob: Knob, knobs: Mapping[str, Knob]) -> None:
    for other, values in knob.when:
        if other not in knobs:
            raise SpaceError(f"the condition of {knob.name} names the unknown knob {other!r}: {suggest(other, knobs)}")
        parent = knobs[other]
        if isinstance(parent, Continuous):
            raise SpaceError(
                f"the condition of {knob.name} depends on {other!r}, a range of real numbers: give {other} a step"
            )
        if isinstance(parent, Fixed):
            continue  # fixed, perhaps at a value that makes this knob inactive
        for value in values:
            try:
                parent.code(value)
            except CandidateError as error:
                raise SpaceError(
                    f"the condition of {knob.name} never holds with {other} = {value!r}: {error}"
                ) from error


def _check_networks(architecture: tuple[Knob, ...]) -> None:
    network = next(k for k in architecture if k.name == "network")
    if isinstance(network, Continuous) or network.when:
        raise SpaceError("network must be a name or a choice of names, without a condition: change it")
    try:
        defaults = {str(name): families.find_family(name).knobs for name in network.extremes}
    except BlueprintError as error:
        raise SpaceError(str(error)) from error
    for knob in architecture:
        wanted = dict(knob.when).get("network", tuple(defaults))
        for name in (n for n in defaults if n in wanted and knob is not network):
            if knob.name not in defaults[name]:
                raise SpaceError(
                    f"the network {name!r} has no knob {knob.name!r}: {suggest(knob.name, defaults[name])}"
                )
            if isinstance(knob, Continuous) and isinstance(defaults[name][knob.name], int):
                raise SpaceError(f"the knob {knob.name} takes whole numbers, but its range has no step: add step = 1")
