"""What a run does: one frozen dataclass for each kind, with its defaults, its checks, and its JSON and TOML forms.

A run stores its specification; what users give becomes one in `options`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

from jointnas.campaign.spec.base import LARGEST_SEED, Spec, check_positive
from jointnas.campaign.spec.others import AdoptedSpec, BaselinesSpec, NashSpec
from jointnas.campaign.spec.search import (
    ALL_IMAGES,
    BEST_NETWORK,
    FEWEST_FOR_ALL_IMAGES,
    AutotrainSpec,
    DirectSpec,
    PolicySpec,
    SearchSpec,
    check_exact,
)
from jointnas.data.spec import DataSpec
from jointnas.errors import RunError, suggest

__all__ = [
    "ALL_IMAGES",
    "BEST_NETWORK",
    "FEWEST_FOR_ALL_IMAGES",
    "KINDS",
    "LARGEST_SEED",
    "AdoptedSpec",
    "AutotrainSpec",
    "BaselinesSpec",
    "DirectSpec",
    "NashSpec",
    "PolicySpec",
    "SearchSpec",
    "Spec",
    "check_exact",
    "check_positive",
    "spec_from_json",
]

KINDS: Mapping[str, type[Spec]] = {
    kind.kind: kind
    for kind in (SearchSpec, DirectSpec, PolicySpec, NashSpec, AutotrainSpec, BaselinesSpec, AdoptedSpec)
}


WORDS: Mapping[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
"""Types of settings in words; those that are neither here nor tuples are tables."""


def spec_from_json(values: Mapping[str, Any]) -> Spec:
    """Return the spec that `Spec.to_json` wrote. Raises `RunError` for an unknown kind or field, and for a value of another type."""
    kind = KINDS.get(str(values.get("kind")))
    if kind is None:
        raise RunError(f"no kind of run is called {values.get('kind')!r}: {suggest(values.get('kind'), KINDS)}")
    names = {f.name for f in fields(kind)}
    for name in values:
        if name not in names and name != "kind":
            raise RunError(f"a {kind.kind} run has no setting {name!r}: {suggest(name, sorted(names))}")
    given: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items() if n != "kind"}
    if given.get("data") is not None:
        given["data"] = DataSpec.from_json(given["data"])
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in given]:
        raise RunError(f"the settings of a {kind.kind} run are not complete: add {', '.join(missing)}")
    hints = get_type_hints(kind)
    for name, value in given.items():
        if not _fits(value, hints[name]):
            raise RunError(f"the setting {name} is {_words(hints[name])}, got {values[name]!r}: correct it")
    return kind(**given)


def _fits(value: object, hint: Any) -> bool:
    """Return whether a value has the type of a field. Of a table only the outside is checked."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, own) for own in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(part, arguments[0]) for part in value)
    if is_typeddict(hint):
        return isinstance(value, Mapping)
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


def _words(hint: Any) -> str:
    """Return what a field takes, in words."""
    own = next(
        part for part in (get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)) if part is not NoneType
    )
    if get_origin(own) is tuple:
        return "a list of texts" if get_args(own)[0] is str else "a list of tables"
    return WORDS.get(own, "a table")
