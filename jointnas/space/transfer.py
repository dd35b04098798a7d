"""Candidates of one space in another: single ones, and whole batches, so that the trials of an earlier campaign can be used in the next."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from jointnas.errors import CandidateError
from jointnas.network.families import find_family
from jointnas.space.continuous import Continuous
from jointnas.space.knob_space import Candidate, check_candidate
from jointnas.space.knobs import Codes, Knob
from jointnas.space.space import Space
from jointnas.training.recipe import default_of


def nearest_candidate(space: Space, candidate: Mapping[str, Any]) -> tuple[Candidate, list[str]]:
    """Return the space's candidate nearest to any other, and what changed, such as "start_resolution 0.75 instead of 0.8".

    A knob that the candidate lacks takes its default of the network or the recipe, or the middle of its range where the space
    does not hold the default. Raises `CandidateError` where the space has no similar value: another network, another word.
    """
    check_candidate(candidate)
    given = {**candidate["architecture"], **candidate["recipe"]}
    if not space.is_abstract:
        _network_knob(space).code(given.get("network"))
    codes = _default_codes(space, given.get("network"))
    for i, knob in enumerate(space.knobs):
        if knob.name in given:
            codes[i] = _nearest_code(knob, given[knob.name])
    (nearest,) = space.to_candidates(space.settled(codes[None, :]))
    taken = {**nearest["architecture"], **nearest["recipe"]}
    changes = [
        f"{name} {taken.get(name, 'left out')} instead of {value}"
        for name, value in given.items()
        if taken.get(name) != value
    ]
    return nearest, changes


def translate(codes: Codes, source: Space, target: Space) -> Codes:
    """Return the (n, knobs) codes of the target space nearest to (n, knobs) codes of the source.

    As `nearest_candidate`, but a value without a similar one in the target gives way to the default. A candidate whose network
    the target lacks gets the default architecture.
    """
    if source.knobs == target.knobs:
        return codes
    columns = {knob.name: (knob, codes[:, j]) for j, knob in enumerate(source.knobs)}
    networks = () if target.is_abstract else _network_knob(target).extremes
    out = _default_codes(target, networks[0] if len(networks) == 1 else None)[None, :].repeat(len(codes), axis=0)
    same_network = np.ones(len(codes), dtype=bool)
    if not target.is_abstract and "network" in columns:
        same_network = ~np.isnan(_translate_column(_network_knob(target), *columns["network"]))
    for i, knob in enumerate(target.knobs):
        if knob.name in columns:
            translated = _translate_column(knob, *columns[knob.name])
            kept = ~np.isnan(translated) & (same_network | (i >= target.n_architecture))
            out[kept, i] = translated[kept]
    return target.settled(out)


def _translate_column(knob: Knob, source: Knob, codes: Codes) -> Codes:
    """Return (n,) codes of the source's knob as codes of this one, NaN where they are inactive or no value is similar."""
    if isinstance(knob, Continuous) and isinstance(source, Continuous):
        return knob.nearest_codes(codes)
    out = np.full(len(codes), np.nan)
    for code in np.unique(codes[~np.isnan(codes)]).tolist():
        with suppress(CandidateError):
            out[codes == code] = _nearest_code(knob, source.value(code))
    return out


def _nearest_code(knob: Knob, value: object) -> float:
    """Return the code of the nearest value; a network has no near one. Raises `CandidateError` where no value is similar."""
    return knob.code(value) if knob.name == "network" else knob.nearest(value)


def _network_knob(space: Space) -> Knob:
    return next(knob for knob in space.knobs[: space.n_architecture] if knob.name == "network")


def _default_codes(space: Space, network: object) -> Codes:
    """Return the (knobs,) codes nearest to the defaults of the recipe and of a network; None stands for any network."""
    defaults: dict[str, Any] = {}
    if not space.is_abstract:
        family = {} if network is None else find_family(str(network)).knobs
        defaults = {**family, **{knob.name: default_of(knob.name) for knob in space.knobs[space.n_architecture :]}}
    return np.array([_default_code(knob, defaults) for knob in space.knobs])


def _default_code(knob: Knob, defaults: Mapping[str, Any]) -> float:
    """Return the code nearest to a knob's default, or the middle of its range where no value is similar."""
    with suppress(CandidateError):
        if knob.name in defaults:
            return knob.nearest(defaults[knob.name])
    return knob.default
