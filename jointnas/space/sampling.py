"""Pools of candidates that meet the constraints, and what a space can reach when none does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from jointnas.errors import ConstraintError
from jointnas.space.constraint import Constraint, format_metric, violations
from jointnas.space.knobs import Codes
from jointnas.space.space import Space

LARGEST_CHUNK = 16_384
DRAWS = 16_384  # points drawn before the constraints are taken to be rarely met
RAREST = 1 / 20  # share of the draws that must meet the constraints for drawing on to be the cheapest way
SCOUTS = 512  # points that are looked at first, and from which descents towards an unmet bound start
WALKERS = 512  # points that are repaired at once
WALK_STEPS = 128  # changes that each of them tries at most
IDLE_CHANGES = 20  # in a row that bring none of them closer
IDLE_ROUNDS = 3


def feasible(space: Space, constraints: Sequence[Constraint], codes: Codes) -> NDArray[np.bool_]:
    """Return (n,) truth values: which of (n, knobs) codes meet every constraint."""
    return np.asarray(excess(space, constraints, codes) == 0)


def excess(space: Space, constraints: Sequence[Constraint], codes: Codes) -> NDArray[np.float64]:
    """Return the (n,) sums of violations, 0 where every constraint holds."""
    if not constraints:
        return np.zeros(len(codes))
    total: NDArray[np.float64] = violations(constraints, space.costs(codes)).sum(axis=1)
    return total


def draw_pool(space: Space, n: int, constraints: Sequence[Constraint] = (), seed: int = 0) -> Codes:
    """Return codes of at most n different candidates that meet every constraint.

    Constraint-satisfying QMC sampling (FBNetV3, algorithm 1, line 1): a Sobol sequence, of which the feasible points are
    kept. Where they are rare, points of the sequence are repaired instead, and what was found is spread by mutation; fewer
    than n come back only when that finds no more.
    Raises `ConstraintError` with the nearest value the space reaches when nothing meets the constraints.
    """
    scouts: Codes = next(space.stream(seed, chunk=SCOUTS))
    if not space.is_abstract and not feasible(space, constraints, scouts).any():
        _check_reachable(space, constraints, scouts)  # at once: a network's costs lead a descent where they may lead
    seen: set[str] = set()
    found: list[Codes] = []
    drawn = 0
    for codes in space.stream(seed, chunk=min(LARGEST_CHUNK, max(1024, n))):
        drawn += len(codes)
        met = codes[feasible(space, constraints, codes)]
        found.append(_new(space, met[: n - len(seen)], seen))
        exhausted = len(met) > 0 and len(found[-1]) == 0
        if len(seen) >= n or exhausted or (drawn >= DRAWS and len(seen) < RAREST * drawn):
            break
    if len(seen) < n:
        rng = np.random.default_rng([seed, 1])
        met = np.concatenate(
            [_descended(space, constraints, scouts), repaired(space, constraints, codes[:WALKERS], rng)]
        )
        found.append(_new(space, met, seen))
        if not seen:
            _check_reachable(space, constraints, scouts)
            raise ConstraintError(
                f"each of {', '.join(map(str, constraints))} can be met in the space {space.name!r}, but no candidate was found "
                "that meets all: loosen one"
            )
        _spread(space, constraints, n, found, seen, rng)
    return np.concatenate(found)[:n]


def repaired(space: Space, constraints: Sequence[Constraint], codes: Codes, rng: np.random.Generator) -> Codes:
    """Return those of (n, knobs) codes that small changes, each kept where it violates the constraints less, bring to meet them all."""
    current, before = codes.copy(), excess(space, constraints, codes)
    idle = 0
    for _ in range(WALK_STEPS):
        open_rows = np.flatnonzero(before > 0)
        if not len(open_rows) or idle > IDLE_CHANGES:
            break
        moved = space.mutate_codes(current[open_rows], rng)
        after = excess(space, constraints, moved)
        better = after < before[open_rows]
        idle = 0 if better.any() else idle + 1
        current[open_rows[better]], before[open_rows[better]] = moved[better], after[better]
    met: Codes = current[before == 0]
    return met


def _spread(
    space: Space,
    constraints: Sequence[Constraint],
    n: int,
    found: list[Codes],
    seen: set[str],
    rng: np.random.Generator,
) -> None:
    """Add feasible mutations of what was found until there are n or no more come."""
    idle = 0
    while len(seen) < n and idle < IDLE_ROUNDS:
        known = np.concatenate(found)
        parents = known[rng.integers(0, len(known), min(LARGEST_CHUNK, max(256, n // 4)))]
        children = space.mutate_codes(parents, rng)
        found.append(_new(space, children[feasible(space, constraints, children)], seen))
        idle = 0 if len(found[-1]) else idle + 1


def _new(space: Space, codes: Codes, seen: set[str]) -> Codes:
    """Return the codes whose identity is not in `seen`, and add them to it."""
    keep = []
    for i, identity in enumerate(space.identities(codes)):
        if identity not in seen:
            seen.add(identity)
            keep.append(i)
    return codes[keep]


def _descended(space: Space, constraints: Sequence[Constraint], start: Codes) -> Codes:
    """Return the one candidate that steepest descent on the sum of violations leads to, or none where it misses."""
    best, beyond = _descent(space, start, lambda codes: excess(space, constraints, codes))
    return best[None, :] if beyond == 0 else start[:0]


def _check_reachable(space: Space, constraints: Sequence[Constraint], start: Codes) -> None:
    """Raise `ConstraintError` with the nearest value for a constraint that nothing in the space meets."""
    for constraint in constraints:
        value = extreme(space, constraint.metric, start, largest=not constraint.is_upper)
        if constraint.violation(np.array([value]))[0] > 0:
            side = "smallest" if constraint.is_upper else "largest"
            exact = "" if float(value) < 1e3 else f" ({value:,.0f})"
            raise ConstraintError(
                f"nothing in the space {space.name!r} meets {constraint}, the {side} {constraint.metric} it reaches is "
                f"{format_metric(constraint.metric, value)}{exact}: change the bound or the space"
            )


def extreme(space: Space, metric: str, start: Codes, largest: bool = False) -> float:
    """Return the smallest value of an exact cost, or the largest, that descents from (n, knobs) codes reach.

    Each network in `start` has a descent of its own: a step from one network to another meets its knobs in the middle of
    their ranges, where the better extreme does not show.
    """
    sign = -1.0 if largest else 1.0

    def signed(codes: Codes) -> NDArray[np.float64]:
        values = sign * space.costs(codes)[metric]
        return np.where(np.isnan(values), np.inf, values)

    return sign * min(_descent(space, codes, signed)[1] for codes in _by_network(space, start))


def _by_network(space: Space, codes: Codes) -> list[Codes]:
    """Return the (n, knobs) codes of each network; all of them where the space is abstract."""
    if space.is_abstract:
        return [codes]
    network = codes[:, next(i for i, knob in enumerate(space.knobs) if knob.name == "network")]
    return [codes[network == code] for code in np.unique(network)]


def _descent(space: Space, start: Codes, target: Callable[[Codes], NDArray[np.float64]]) -> tuple[Codes, float]:
    """Return the (knobs,) code from which no change of one knob, to any of its values, lowers the target; and its target.

    start: (n, knobs) codes, the best of which comes first. target: (n,) numbers for (n, knobs) codes, none of them NaN.
    Where every knob pulls a cost one way whatever the others are, as with all costs of a network, that is the extreme.
    """
    codes = start
    best: Codes = codes[0]
    least = np.inf
    while len(codes):
        values = target(codes)
        i = int(values.argmin())
        if not values[i] < least:
            break
        best, least = codes[i], float(values[i])
        codes = space.line_codes(best)
    return best, least
