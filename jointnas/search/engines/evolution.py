"""Genetic algorithms on DEAP: FBNetV3's adaptive one for one objective, NSGA-II for a front of several.

The adaptive one is stage two of algorithm 1 (Dai et al., CVPR 2021), its probabilities those of Srinivas & Patnaik (1994);
NSGA-II is Deb et al. (2002), with the log-time non-dominated sort of Fortin et al. (2013).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from deap import base, tools
from numpy.typing import NDArray

from jointnas.search.engines.problem import FAILURE, Evaluation, Merit, Problem
from jointnas.space.knobs import Codes

TOURNAMENT = 3
CROSSOVER = (0.5, 0.95)  # probability at the best individual, and at or below the mean
MUTATION = (0.2, 0.9)
TRIES = 4  # to make a feasible, new child of a parent
EPSILON = 1e-6  # of the best objective: the smallest improvement
PATIENCE = 10  # generations without improvement


class _Fitness(base.Fitness):  # type: ignore[misc]
    """Violations first, then the objective; both are minimised."""

    weights = (-1.0, -1.0)


class _Individual:
    """A candidate's codes with the attributes that DEAP's selections read."""

    def __init__(self, code: Codes, fitness: base.Fitness, violation: float) -> None:
        self.code, self.fitness, self.violation = code, fitness, violation


def evolve(problem: Problem) -> None:
    """Evolve a population from the problem's start until the budget or the patience is spent.

    Each generation makes a child of every member by uniform crossover and per-knob mutation with adaptive probabilities,
    evaluates the children in one call, and keeps the best `problem.batch` of parents and children. First objective only.
    """
    rng = np.random.default_rng(problem.seed)
    population: list[_Individual] = []
    children = problem.projected(problem.start)
    best, idle = FAILURE, 0
    while idle < PATIENCE:
        population += _adaptive_individuals(*problem.evaluate(children[problem.is_fresh(children)]))
        population = tools.selBest(population, problem.batch)
        if problem.exhausted or not population:
            break
        merits = [Merit(*one.fitness.values) for one in population]
        idle = 0 if _is_better(merits[0], best) else idle + 1
        best = min(best, merits[0])
        children = _children(problem, np.array([one.code for one in population]), _fitness(merits), rng)


def evolve_front(problem: Problem) -> None:
    """Evolve a population towards the front of all objectives by NSGA-II, until the budget is spent or no child is new.

    Generations as in `evolve`, with probabilities by rank. Candidates that violate a bound rank after all others, the least violation
    first.
    """
    rng = np.random.default_rng(problem.seed)
    population: list[_Individual] = []
    children = problem.projected(problem.start)
    for _ in range(problem.budget):
        fresh = children[problem.is_fresh(children)]
        population = _crowded(population + _front_individuals(*problem.evaluate(fresh)), problem.batch)
        if problem.exhausted or not population or not len(fresh):
            break
        children = _children(
            problem, np.array([one.code for one in population]), -np.arange(float(len(population))), rng
        )


def _is_better(merit: Merit, best: Merit) -> bool:
    """Return whether a merit is better by more than rounding."""
    if merit.violation != best.violation:
        return merit.violation < best.violation
    return not np.isfinite(best.objective) or best.objective - merit.objective > EPSILON * abs(best.objective)


def _fitness(merits: Sequence[Merit]) -> NDArray[np.float64]:
    """Return (n,) numbers, larger is better: any candidate that violates a bound is below all others."""
    violations, objectives = np.array(merits).T
    feasible = violations == 0
    floor = -objectives[feasible].max() if feasible.any() else 0.0
    return np.asarray(np.where(feasible, -objectives, floor - violations), dtype=np.float64)


def _adaptive_individuals(codes: Codes, evaluation: Evaluation) -> list[_Individual]:
    merits = [(i, evaluation.merit(i)) for i in evaluation.ranked().tolist()]
    return [_Individual(codes[i], _Fitness(merit), merit.violation) for i, merit in merits]


def _front_individuals(codes: Codes, evaluation: Evaluation) -> list[_Individual]:
    weights = (-1.0,) * evaluation.objectives.shape[1]
    kind = type("_FrontFitness", (base.Fitness,), {"weights": weights})
    return [
        _Individual(codes[i], kind(evaluation.objectives[i].tolist()), evaluation.merit(i).violation)
        for i in evaluation.ranked()
    ]


def _crowded(population: Sequence[_Individual], k: int) -> list[_Individual]:
    """Return the k best by front and crowding distance, best first, then those with the least violations."""
    good = [one for one in population if one.violation == 0]
    chosen: list[_Individual] = []
    for front in tools.sortLogNondominated(good, k) if good else []:
        tools.emo.assignCrowdingDist(front)
        chosen += sorted(front, key=lambda one: -one.fitness.crowding_dist)
    bad = sorted((one for one in population if one.violation > 0), key=lambda one: one.violation)
    return [*chosen, *bad][:k]


def _children(problem: Problem, parents: Codes, fitness: NDArray[np.float64], rng: np.random.Generator) -> Codes:
    """Return new, feasible children of (n, knobs) parents in order, best first: at most a batch, one of each parent in turn.

    fitness: (n,) numbers, larger is better. Mates win tournaments, whose best entrant is the first in order.
    """
    children_by_try: list[Codes] = []
    pending = np.arange(problem.batch) % len(parents)
    for _ in range(TRIES):
        mates = rng.integers(0, len(parents), (len(pending), TOURNAMENT)).min(axis=1)
        own = parents[pending]
        better = np.maximum(fitness[pending], fitness[mates])
        crossed = rng.random(len(pending)) < adaptive(better, fitness, CROSSOVER)
        children = np.where(crossed[:, None], problem.space.cross_codes(own, parents[mates], rng), own)
        mutated = rng.random(len(pending)) < adaptive(fitness[pending], fitness, MUTATION)
        children = np.where(mutated[:, None], problem.space.mutate_codes(children, rng), children)
        children = problem.projected(children)
        good = problem.is_fresh(children)
        children_by_try.append(children[good])
        pending = pending[~good]
        if not len(pending):
            break
    return np.concatenate(children_by_try)


def adaptive(
    values: NDArray[np.float64], population: NDArray[np.float64], bounds: tuple[float, float]
) -> NDArray[np.float64]:
    """Return a probability for each fitness in `values` (larger is better): high up to the mean, low at the best.

    Linear between the population's mean and its best (Srinivas & Patnaik 1994). bounds: (lowest, highest).
    """
    lowest, highest = bounds
    mean, best = population.mean(), population.max()
    share = np.clip((best - values) / max(best - mean, 1e-12), 0, 1)
    return np.asarray(lowest + (highest - lowest) * share, dtype=np.float64)
