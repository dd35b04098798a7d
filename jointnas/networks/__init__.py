"""Network families: functions from architecture knobs, input shape and class count to a blueprint.

A family's keyword-only parameters are its knobs and their defaults; spaces and candidate files are checked against them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from jointnas.blueprint import Blueprint, Shape
from jointnas.errors import BlueprintError, suggest
from jointnas.networks.resnet9 import resnet9
from jointnas.networks.senet import senet

Family = Callable[..., Blueprint]
"""`family(input_shape, classes, *, knob=default, …)`: returns a blueprint or raises `BlueprintError`."""


FAMILIES: dict[str, Family] = {"resnet9": resnet9, "senet": senet}


def register(name: str, family: Family) -> None:
    """Add a family of your own under `name`; spaces may then say `network = "name"` in this process."""
    if name in FAMILIES:
        raise BlueprintError(f"a network is registered once, got {name!r} again: choose another name")
    FAMILIES[name] = family


def family(name: object) -> Family:
    """Return the family called `name`. Raises `BlueprintError` that names the nearest known one."""
    if name not in FAMILIES:
        raise BlueprintError(f"no network is called {name!r}: {suggest(name, FAMILIES)}")
    return FAMILIES[str(name)]


def knobs(name: object) -> dict[str, Any]:
    """Return the architecture knobs of a family with their defaults."""
    parameters = inspect.signature(family(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def blueprint(architecture: Mapping[str, Any], input_shape: Shape, classes: int) -> Blueprint:
    """Return the blueprint of `{"network": family, knob: value, …}`; absent knobs take the family's defaults.

    Raises `BlueprintError` for an unknown network or knob, or a network that does not fit the input.
    """
    values = dict(architecture)
    if "network" not in values:
        raise BlueprintError('an architecture names its network, got none: add network = "resnet9"')
    name = values.pop("network")
    make, known = family(name), knobs(name)
    for knob in values:
        if knob not in known:
            raise BlueprintError(f"the network {name!r} has no knob {knob!r}: {suggest(knob, known)}")
    if len(input_shape) != 3 or min(input_shape) < 1 or classes < 2:
        raise BlueprintError(
            f"a network needs an input (channels, height, width) and two classes or more, got {input_shape} and {classes}"
        )
    return make(
        tuple(input_shape), classes, **{knob: _of_kind(knob, value, known[knob]) for knob, value in values.items()}
    )


def _of_kind(knob: str, value: Any, default: Any) -> Any:
    """Return a knob's value in the kind of its default: whole numbers for whole numbers, however they are written."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if isinstance(default, bool | str):
        if isinstance(value, type(default)):
            return value
        kind = "true or false" if isinstance(default, bool) else "a word"
    elif isinstance(default, int):
        if number and value == int(value):
            return int(value)
        kind = "a whole number"
    else:
        if number:
            return float(value)
        kind = "a number"
    raise BlueprintError(f"{knob} is {kind}, got {value!r}: change it")


__all__ = ["FAMILIES", "Family", "blueprint", "family", "knobs", "register"]
