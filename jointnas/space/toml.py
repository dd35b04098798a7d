"""The TOML file of a search space: read, checked, written."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any, NamedTuple

import tomli_w

from jointnas.errors import BlueprintError, CandidateError, RecipeError, SpaceError, suggest
from jointnas.network import families
from jointnas.space.knob_toml import parse_knob
from jointnas.space.knobs import Continuous, Fixed, Knob
from jointnas.training.recipe import check_value
from jointnas.training.recipe import knob as recipe_knob

FORMAT = 1
GROUPS = ("architecture", "recipe")


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
