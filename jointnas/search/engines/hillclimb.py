"""Hill climbing: steepest ascent over the space's neighbours, with restarts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jointnas.search.engines.problem import Merit, Problem
from jointnas.space.knobs import Codes

KICKS = 3  # mutations in a row that lead from the best candidate to a new start
PATIENCE = 20  # restarts in a row that meet nothing new

Neighbours = Callable[[Codes], Codes]
"""Returns the (m, knobs) codes beside one candidate's (knobs,) code."""


def climb(problem: Problem, neighbours: Neighbours | None = None) -> None:
    """Climb from each start, the best first, then from mutations of the best found, until the budget is spent.

    A climb evaluates all neighbours of where it stands in one call (`Problem.poll`), moves to the best of them, and ends where
    none is better. neighbours: what lies beside a candidate; by default one step of one knob (`Space.neighbour_codes`).
    """
    beside = neighbours or problem.space.neighbour_codes
    rng = np.random.default_rng(problem.seed)
    codes, found = problem.evaluate(problem.start)
    waiting = [(codes[i], found.merit(i)) for i in found.ranked()]
    if not waiting:
        return
    best, top = waiting[0]
    idle = 0
    while not problem.exhausted and idle < PATIENCE:
        before = problem.spent
        start, merit = waiting.pop(0) if waiting else _kicked(problem, best, rng)
        reached, merit = _ascend(problem, start, merit, beside, rng)
        if merit < top:
            best, top = reached, merit
        idle = 0 if waiting or problem.spent > before else idle + 1


def _kicked(problem: Problem, code: Codes, rng: np.random.Generator) -> tuple[Codes, Merit]:
    """Return a candidate a few mutations away from one, and how good it is."""
    moved = code[None, :]
    for _ in range(KICKS):
        moved = problem.space.mutate_codes(moved, rng)
    codes, found = problem.evaluate(moved)
    return codes[0], found.merit(0)


def _ascend(
    problem: Problem, code: Codes, merit: Merit, beside: Neighbours, rng: np.random.Generator
) -> tuple[Codes, Merit]:
    """Return where steepest ascent from a candidate ends, and how good that is."""
    while not problem.exhausted:
        codes, found = problem.poll(beside(code), merit, rng)
        order = found.ranked()
        if not len(order) or not found.merit(order[0]) < merit:
            break
        code, merit = codes[order[0]], found.merit(order[0])
    return code, merit
