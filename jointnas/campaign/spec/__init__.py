"""What a run does: one frozen dataclass for each kind, with its defaults, its checks, and its JSON and TOML forms.

A run stores its specification; what users give becomes one in `options`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

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


def spec_from_json(values: Mapping[str, Any]) -> Spec:
    """Return the spec that `Spec.to_json` wrote. Raises `RunError` for an unknown kind or field."""
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
    try:
        return kind(**given)
    except TypeError as error:  # a field without a default is missing
        raise RunError(f"the settings of a {kind.kind} run are not complete ({error}): add what is missing") from error
