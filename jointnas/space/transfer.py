"""Candidates of one space brought into another, whole batches at once: what an earlier campaign says of them can then be asked."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import numpy as np

from jointnas.errors import CandidateError
from jointnas.network.families import find_family
from jointnas.space.knobs import Codes, Continuous, Knob, Value
from jointnas.space.space import Space, default_code
from jointnas.training.recipe import default_of


def translate(codes: Codes, source: Space, target: Space) -> Codes:
    """Return the (n, knobs) codes of the target space that stand for (n, knobs) codes of the source.

    A knob that both have keeps its value, or the nearest that the target has; any other stands where its network or a recipe
    has it by default. Where the target does not have a candidate's network, its whole architecture stands at the defaults.
    """
    if source.knobs == target.knobs:
        return codes
    theirs = {knob.name: (knob, codes[:, j]) for j, knob in enumerate(source.knobs)}
    defaults = _defaults(target)
    out = np.array([[default_code(knob, defaults) for knob in target.knobs]]).repeat(len(codes), axis=0)
    same_network = np.ones(len(codes), dtype=bool)
    for i, knob in enumerate(target.knobs):
        if knob.name in theirs:
            brought = _brought(knob, *theirs[knob.name])
            if knob.name == "network":
                same_network = ~np.isnan(brought)
            kept = ~np.isnan(brought) & (same_network | (i >= target.n_architecture))
            out[kept, i] = brought[kept]
    return target.settled(out)


def _brought(knob: Knob, other: Knob, codes: Codes) -> Codes:
    """Return another knob's (n,) codes as this knob's, NaN where they are inactive or nothing is near."""
    if isinstance(knob, Continuous) and isinstance(other, Continuous):
        return knob.nearest_codes(codes)
    out = np.full(len(codes), np.nan)
    for code in np.unique(codes[~np.isnan(codes)]).tolist():
        value = other.value(code)
        with suppress(CandidateError):
            out[codes == code] = knob.code(value) if knob.name == "network" else knob.nearest(value)
    return out


def _defaults(space: Space) -> Mapping[str, Value]:
    """Return the knobs that a recipe has by default, and those of the space's network where it has only one."""
    if space.is_abstract:
        return {}
    architecture, recipe = space.knobs[: space.n_architecture], space.knobs[space.n_architecture :]
    (networks,) = (knob.extremes for knob in architecture if knob.name == "network")
    own = find_family(str(networks[0])).knobs if len(networks) == 1 else {}
    return {**own, **{knob.name: default_of(knob.name) for knob in recipe}}
