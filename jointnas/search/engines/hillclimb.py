"""Hill climbing: steepest ascent over the space's neighbours, with restarts."""

from __future__ import annotations

import numpy as np

from jointnas.search.engines.problem import Merit, Problem
from jointnas.space.knobs import Codes

KICKS = 3  # mutations from the best candidate to a new start
PATIENCE = 20  # restarts in a row without a new candidate


def climb(problem: Problem) -> None:
    """Climb from each start, the best first, then from mutations of the best candidate, until the budget is spent.

    A climb evaluates all neighbours of a candidate in one call (`Problem.poll`), moves to the best of them, and ends where none is
    better. Neighbours differ by one step of one knob (`Space.neighbour_codes`).
    """
    rng = np.random.default_rng(problem.seed)
    codes, evaluation = problem.evaluate(problem.start)
    starts = [(codes[i], evaluation.merit(i)) for i in evaluation.ranked()]
    if not starts:
        return
    best, best_merit = starts[0]
    idle = 0
    while not problem.exhausted and idle < PATIENCE:
        before = problem.spent
        start, merit = starts.pop(0) if starts else _kicked(problem, best, rng)
        peak, merit = _ascend(problem, start, merit, rng)
        if merit < best_merit:
            best, best_merit = peak, merit
        idle = 0 if starts or problem.spent > before else idle + 1


def _kicked(problem: Problem, code: Codes, rng: np.random.Generator) -> tuple[Codes, Merit]:
    """Return a candidate a few mutations from one, and its merit."""
    moved = code[None, :]
    for _ in range(KICKS):
        moved = problem.space.mutate_codes(moved, rng)
    codes, evaluation = problem.evaluate(moved)
    return codes[0], evaluation.merit(0)


def _ascend(problem: Problem, code: Codes, merit: Merit, rng: np.random.Generator) -> tuple[Codes, Merit]:
    """Return the candidate at which steepest ascent ends, and its merit."""
    while not problem.exhausted:
        codes, evaluation = problem.poll(problem.space.neighbour_codes(code), merit, rng)
        order = evaluation.ranked()
        if not len(order) or not evaluation.merit(order[0]) < merit:
            break
        code, merit = codes[order[0]], evaluation.merit(order[0])
    return code, merit
