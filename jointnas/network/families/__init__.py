"""Network families: functions from architecture knobs, input shape and class count to a blueprint.

The knobs of a family and their defaults are in its `Family`, or are the keyword-only parameters of its function; spaces and
candidate files are checked against them. A family is built in, registered, or declared by an installed package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from jointnas.errors import BlueprintError, suggest
from jointnas.network.blueprint import Blueprint
from jointnas.network.families.chain import CHAIN
from jointnas.network.families.classic import CLASSIC
from jointnas.network.families.family import Family, Make
from jointnas.network.families.fbnet import FBNET
from jointnas.network.families.library import LIBRARY
from jointnas.network.families.mobilenet import MOBILENET
from jointnas.network.families.resnet import RESNET
from jointnas.network.families.resnet9 import RESNET9
from jointnas.network.families.senet import SENET
from jointnas.network.operations.operation import Shape

FAMILIES: dict[str, Family] = {
    "chain": CHAIN,
    "classic": CLASSIC,
    "fbnet": FBNET,
    "library": LIBRARY,
    "mobilenet": MOBILENET,
    "resnet": RESNET,
    "resnet9": RESNET9,
    "senet": SENET,
}


MORPHISMS = "morphisms"  # what an architecture may have beside the knobs of its family
ENTRY_POINTS = "jointnas.families"
"""The group in which an installed package declares network families: `name = "module:family"`."""


def register(name: str, make: Make | Family) -> None:
    """Add a family of your own: in this process, spaces and candidates may then have `network = "name"`."""
    if name in FAMILIES:
        raise BlueprintError(f"a network called {name!r} is registered already: choose another name")
    FAMILIES[name] = Family.of(make)


def find_family(name: object) -> Family:
    """Return the family called `name`: a built-in one, a registered one, or one of an installed package.

    Raises `BlueprintError` that suggests the nearest name, or names the package that cannot be used.
    """
    if name not in FAMILIES:
        entries = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
        if name not in entries:
            raise BlueprintError(f"no network is called {name!r}: {suggest(name, [*FAMILIES, *entries])}")
        register(str(name), _load(entries[str(name)]))
    return FAMILIES[str(name)]


def _load(entry: EntryPoint) -> Family:
    try:
        return Family.of(entry.load())
    except Exception as error:  # whatever an import of another package raises
        package = entry.dist.name if entry.dist else entry.module
        raise BlueprintError(
            f"the installed package {package!r} does not provide its network {entry.name!r} ({entry.value}: "
            f"{type(error).__name__}: {error}): update or uninstall it"
        ) from error


def make_blueprint(architecture: Mapping[str, Any], input_shape: Shape, classes: int) -> Blueprint:
    """Return the blueprint of `{"network": family, knob: value, …}`; absent knobs take the family's defaults.

    `morphisms`, beside the knobs, is a list of morphisms in text form that change the family's network one after the other
    (`network.morphisms`). Raises `BlueprintError` for an unknown network or knob, or a network that does not fit the input, and
    `MorphismError` for a morphism that the network does not allow.
    """
    knobs = dict(architecture)
    if "network" not in knobs:
        raise BlueprintError('an architecture needs a network, got none: add network = "resnet9"')
    name, morphisms = knobs.pop("network"), knobs.pop(MORPHISMS, ())
    made = find_family(name)
    check_input(input_shape, classes)
    blueprint = made.blueprint(tuple(input_shape), classes, made.values(str(name), knobs))
    return _morphed(blueprint, morphisms) if morphisms else blueprint


def _morphed(blueprint: Blueprint, morphisms: Any) -> Blueprint:
    from jointnas.network.morphisms import parse, preview  # they import PyTorch, which most callers do without

    if not isinstance(morphisms, Sequence) or isinstance(morphisms, str):
        raise BlueprintError(f"the morphisms of an architecture are a list of texts, got {morphisms!r}: write a list")
    for text in morphisms:
        blueprint = preview(blueprint, parse(text))
    return blueprint


def check_input(input_shape: Shape, classes: int) -> None:
    """Raise `BlueprintError` unless images of this shape (C, H, W) and this many classes can be classified."""
    if len(input_shape) != 3 or min(input_shape) < 1 or classes < 2:
        raise BlueprintError(
            f"a network needs an input shape (channels, height, width) and at least two classes, got {input_shape} and {classes}"
        )


__all__ = ["FAMILIES", "Family", "check_input", "find_family", "make_blueprint", "register"]
