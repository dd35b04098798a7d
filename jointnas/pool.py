"""Pools of candidates that meet the constraints, and what a space can reach when none does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jointnas.constraint import Constraint, format_metric, violations
from jointnas.errors import ConstraintError
from jointnas.knobs import Codes
from jointnas.space import Space

DRAWS_PER_CANDIDATE = 32  # Sobol points drawn at most for each candidate wanted
SCOUTS = 512  # points from which a descent towards an unmet bound starts its choice


def feasible(space: Space, constraints: Sequence[Constraint], codes: Codes) -> NDArray[np.bool_]:
    """Return (n,) truth values: which of (n, knobs) codes meet every constraint."""
    if not constraints:
        return np.ones(len(codes), dtype=bool)
    held: NDArray[np.bool_] = violations(constraints, space.costs(codes)).sum(axis=1) == 0
    return held


def pool(space: Space, n: int, constraints: Sequence[Constraint] = (), seed: int = 0) -> Codes:
    """Return codes of at most n different candidates that meet every constraint, in Sobol order.

    Constraint-satisfying QMC sampling (FBNetV3, algorithm 1, line 1). Where the feasible part is too small to be hit
    n times, what was hit is spread by mutation; fewer than n come back only when that finds no more.
    Raises `ConstraintError` with the nearest value the space reaches when nothing meets the constraints.
    """
    seen: set[str] = set()
    found: list[Codes] = []
    drawn = 0
    for codes in space.stream(seed, chunk=min(8192, max(64, n))):
        drawn += len(codes)
        met = codes[feasible(space, constraints, codes)]
        found.append(_new(space, met, seen))
        exhausted = len(met) > 0 and len(found[-1]) == 0
        if len(seen) >= n or exhausted or drawn >= DRAWS_PER_CANDIDATE * max(n, 1024):
            break
    if not seen:
        found.append(_new(space, _descend(space, constraints, seed), seen))
    rng = np.random.default_rng([seed, 1])
    idle = 0
    while len(seen) < n and idle < 3:
        known = np.concatenate(found)
        spread = space.mutate_codes(known[rng.integers(0, len(known), max(256, n // 4))], rng)
        found.append(_new(space, spread[feasible(space, constraints, spread)], seen))
        idle = 0 if len(found[-1]) else idle + 1
    return np.concatenate(found)[:n]


def _new(space: Space, codes: Codes, seen: set[str]) -> Codes:
    """Return the codes whose identity is not in `seen`, and add them to it."""
    keep = []
    for i, identity in enumerate(space.identities(codes)):
        if identity not in seen:
            seen.add(identity)
            keep.append(i)
    return codes[keep]


def _descend(space: Space, constraints: Sequence[Constraint], seed: int) -> Codes:
    """Return one candidate that meets the constraints, found by steepest descent on the sum of violations."""
    start: Codes = next(space.stream(seed, chunk=SCOUTS))
    best = _descent(space, constraints, start)
    if feasible(space, constraints, best[None, :])[0]:
        return best[None, :]
    for constraint in constraints:
        alone = _descent(space, [constraint], start)
        value = float(space.costs(alone[None, :])[constraint.metric][0])
        if constraint.violation(np.array([value]))[0] > 0:
            side = "smallest" if constraint.is_upper else "largest"
            exact = "" if float(value) < 1e3 else f" ({value:,.0f})"
            raise ConstraintError(
                f"nothing in the space {space.name!r} meets {constraint}, the {side} {constraint.metric} it reaches is "
                f"{format_metric(constraint.metric, value)}{exact}: change the bound or the space"
            )
    asked = ", ".join(map(str, constraints))
    raise ConstraintError(
        f"each of {asked} can be met in the space {space.name!r}, but no candidate was found that meets all: loosen one"
    )


def _descent(space: Space, constraints: Sequence[Constraint], start: Codes) -> Codes:
    """Return the (knobs,) code from which no change of one knob, to any of its values, violates the constraints less.

    Where every knob pulls a cost one way whatever the others are, as with all costs of a network, that is the extreme.
    """
    codes = start
    best: Codes = codes[0]
    least = np.inf
    while True:
        total = violations(constraints, space.costs(codes)).sum(axis=1)
        i = int(total.argmin())
        if not total[i] < least:
            return best
        best, least = codes[i], float(total[i])
        if least == 0:
            return best
        codes = space.line_codes(best)
        if not len(codes):
            return best
