"""Pools of candidates that meet the constraints, and the extreme costs that a space reaches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from jointnas.errors import ConstraintError
from jointnas.space.constraint import Constraint, format_metric, violations
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Codes
from jointnas.space.space import Space

LARGEST_CHUNK = 16_384
SAMPLES = 16_384  # after which constraints count as rarely met
RAREST = 1 / 20  # share of feasible samples below which repair is cheaper than further sampling
FIRST_SAMPLES = 512  # sampled first; descents towards a bound start from them
REPAIRED = 512  # samples that are repaired at once
REPAIR_STEPS = 128  # mutations tried for each, at most
IDLE_STEPS = 20  # steps in a row without improvement that end a repair
IDLE_ROUNDS = 3  # rounds in a row without a new candidate that end the filling of a pool


def feasible(space: Space, constraints: Sequence[Constraint], codes: Codes) -> NDArray[np.bool_]:
    """Return an (n,) mask of the (n, knobs) codes that meet every constraint."""
    return np.asarray(excess(space, constraints, codes) == 0)


def excess(space: Space, constraints: Sequence[Constraint], codes: Codes) -> NDArray[np.float64]:
    """Return the (n,) sums of violations, 0 where every constraint holds."""
    if not constraints:
        return np.zeros(len(codes))
    total: NDArray[np.float64] = violations(constraints, space.costs(codes)).sum(axis=1)
    return total


def draw_pool(space: Space, n: int, constraints: Sequence[Constraint] = (), seed: int = 0) -> Codes:
    """Return codes of at most n different candidates that meet every constraint; see `draw_members`."""
    return draw_members(space, n, constraints, seed)[0]


def draw_members(
    space: Space, n: int, constraints: Sequence[Constraint] = (), seed: int = 0
) -> tuple[Codes, list[str]]:
    """Return codes of at most n different candidates that meet every constraint, and their identities.

    Constraint-satisfying QMC sampling (FBNetV3, algorithm 1, line 1): the feasible points of a Sobol sequence. Where they are
    rare, infeasible points are repaired, and the pool is filled with mutations of feasible ones; it is smaller than n only when
    these give no new candidates. Raises `ConstraintError` with the nearest value the space reaches when no candidate is feasible.
    """
    samples: Codes = next(space.stream(seed, chunk=FIRST_SAMPLES))
    if not space.is_abstract and not feasible(space, constraints, samples).any():
        _check_reachable(
            space, constraints, samples
        )  # before any search: a descent on the costs of networks is reliable
    seen: dict[str, None] = {}
    pool: list[Codes] = []
    sampled = 0
    for codes in space.stream(seed, chunk=min(LARGEST_CHUNK, max(1024, n))):
        sampled += len(codes)
        met = codes[feasible(space, constraints, codes)]
        pool.append(_new(space, met[: n - len(seen)], seen))
        exhausted = len(met) > 0 and len(pool[-1]) == 0
        if len(seen) >= n or exhausted or (sampled >= SAMPLES and len(seen) < RAREST * sampled):
            break
    if len(seen) < n:
        rng = np.random.default_rng([seed, 1])
        met = np.concatenate(
            [_descended(space, constraints, samples), repaired(space, constraints, codes[:REPAIRED], rng)]
        )
        pool.append(_new(space, met, seen))
        if not seen:
            _check_reachable(space, constraints, samples)
            raise ConstraintError(
                f"each of {', '.join(map(str, constraints))} can be met in the space {space.name!r}, but no sampled candidate meets "
                "all of them: loosen one"
            )
        _fill(space, constraints, n, pool, seen, rng)
    return np.concatenate(pool)[:n], list(seen)[:n]


def repaired(space: Space, constraints: Sequence[Constraint], codes: Codes, rng: np.random.Generator) -> Codes:
    """Return those of (n, knobs) codes that become feasible by mutations, each accepted where it lowers the violation."""
    current, before = codes.copy(), excess(space, constraints, codes)
    idle = 0
    for _ in range(REPAIR_STEPS):
        infeasible = np.flatnonzero(before > 0)
        if not len(infeasible) or idle > IDLE_STEPS:
            break
        moved = space.mutate_codes(current[infeasible], rng)
        after = excess(space, constraints, moved)
        better = after < before[infeasible]
        idle = 0 if better.any() else idle + 1
        current[infeasible[better]], before[infeasible[better]] = moved[better], after[better]
    met: Codes = current[before == 0]
    return met


def _fill(
    space: Space,
    constraints: Sequence[Constraint],
    n: int,
    pool: list[Codes],
    seen: dict[str, None],
    rng: np.random.Generator,
) -> None:
    """Add feasible mutations of the pool until it has n candidates or no new ones come."""
    idle = 0
    while len(seen) < n and idle < IDLE_ROUNDS:
        candidates = np.concatenate(pool)
        parents = candidates[rng.integers(0, len(candidates), min(LARGEST_CHUNK, max(256, n // 4)))]
        children = space.mutate_codes(parents, rng)
        pool.append(_new(space, children[feasible(space, constraints, children)], seen))
        idle = 0 if len(pool[-1]) else idle + 1


def _new(space: Space, codes: Codes, seen: dict[str, None]) -> Codes:
    """Return the codes whose identity is not in `seen`, and add them to it."""
    keep = []
    for i, identity in enumerate(space.identities(codes)):
        if identity not in seen:
            seen[identity] = None
            keep.append(i)
    return codes[keep]


def _descended(space: Space, constraints: Sequence[Constraint], start: Codes) -> Codes:
    """Return the candidate at the end of a descent on the sum of violations, or none where that is infeasible."""
    best, beyond = _descent(space, start, lambda codes: excess(space, constraints, codes))
    return best[None, :] if beyond == 0 else start[:0]


def _check_reachable(space: Space, constraints: Sequence[Constraint], start: Codes) -> None:
    """Raise `ConstraintError` with the nearest value for a constraint that no candidate meets."""
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

    Each network in `start` has a descent of its own: a step to another network would set its knobs to the middle of their
    ranges, which hides the better extreme.
    """
    sign = -1.0 if largest else 1.0

    def signed(codes: Codes) -> NDArray[np.float64]:
        values = sign * space.costs(codes)[metric]
        return np.where(np.isnan(values), np.inf, values)

    return sign * min(_descent(space, codes, signed)[1] for codes in _by_network(space, start))


def smallest_network(space: Space, start: Codes) -> Candidate:
    """Return the candidate with the fewest MACs, of one view of an image, that descents from (n, knobs) codes reach."""

    def macs(codes: Codes) -> NDArray[np.float64]:
        values = space.costs(codes)["macs"] / space.views(codes)
        return np.where(np.isnan(values), np.inf, values)

    code, _ = min((_descent(space, codes, macs) for codes in _by_network(space, start)), key=lambda found: found[1])
    return space.to_candidates(code[None, :])[0]


def _by_network(space: Space, codes: Codes) -> list[Codes]:
    """Return the (n, knobs) codes of each network; all of them where the space is abstract."""
    if space.is_abstract:
        return [codes]
    network = codes[:, next(i for i, knob in enumerate(space.knobs) if knob.name == "network")]
    return [codes[network == code] for code in np.unique(network)]


def _descent(space: Space, start: Codes, target: Callable[[Codes], NDArray[np.float64]]) -> tuple[Codes, float]:
    """Return the (knobs,) code from which no change of one knob, to any of its values, lowers the target; and its target.

    start: (n, knobs) codes, the descent begins at the best. target: (n,) numbers for (n, knobs) codes, none of them NaN.
    Where a cost is monotone in every knob, as all costs of a network are, the result is the global extreme.
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
