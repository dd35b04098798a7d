"""FBNetV3's adaptive genetic algorithm, on DEAP: stage two of algorithm 1 (Dai et al., CVPR 2021)."""

from __future__ import annotations

import numpy as np
from deap import base, tools
from numpy.typing import NDArray

from jointnas.engines.problem import Evaluation, Problem
from jointnas.knobs import Codes

POPULATION = 100
TOURNAMENT = 3
CROSSOVER = (0.5, 0.95)  # probability at the best individual, and at or below the mean
MUTATION = (0.2, 0.9)
TRIES = 4  # to make a feasible, new child of a parent
EPSILON = 1e-6  # of the best objective: less is no improvement
PATIENCE = 10  # generations without improvement


class _Fitness(base.Fitness):  # type: ignore[misc]
    """Violations first, then the objective; both are minimised."""

    weights = (-1.0, -1.0)


class _Individual:
    """A candidate's codes with its fitness, as DEAP's selections want it."""

    def __init__(self, code: Codes, violation: float, objective: float) -> None:
        self.code = code
        self.fitness = _Fitness((violation, objective))


def evolve(problem: Problem) -> None:
    """Evolve a population from the problem's start until the budget is spent or patience is.

    Each generation makes a child of every member by uniform crossover and per-knob mutation with adaptive probabilities,
    evaluates the children in one call, and keeps the best of parents and children. First objective only.
    """
    rng = np.random.default_rng(problem.seed)
    toolbox = base.Toolbox()
    toolbox.register("select", tools.selBest, k=POPULATION)
    toolbox.register("tournament", _tournament, rng=rng)
    population = toolbox.select(_individuals(*problem.evaluate(problem.start)))
    best, idle = np.inf, 0
    while population and idle < PATIENCE and problem.spent < problem.budget:
        score = population[0].fitness.values[1]
        idle = 0 if best - score > EPSILON else idle + 1
        best = min(best, score)
        children = _children(problem, population, toolbox, rng)
        population = toolbox.select(population + _individuals(*problem.evaluate(children)))


def _individuals(codes: Codes, found: Evaluation) -> list[_Individual]:
    rows = zip(codes, found.violations.sum(axis=1), found.objectives[:, 0], found.failed, strict=True)
    return [_Individual(code, float(v), float(o)) for code, v, o, failed in rows if not failed]


def _tournament(population: list[_Individual], k: int, rng: np.random.Generator) -> list[_Individual]:
    """Return k winners of tournaments; DEAP's own draws from the global generator, which a search must not share."""
    rounds = rng.integers(0, len(population), (k, TOURNAMENT))
    return [max((population[i] for i in entrants), key=lambda one: one.fitness) for entrants in rounds]


def _children(
    problem: Problem, population: list[_Individual], toolbox: base.Toolbox, rng: np.random.Generator
) -> Codes:
    """Return at most one new, feasible child of each member."""
    fitness = -np.array([one.fitness.values[1] for one in population])
    parents = np.array([one.code for one in population])
    made: list[Codes] = []
    waiting = np.arange(len(population))
    for _ in range(TRIES):
        mates = toolbox.tournament(population, k=len(waiting))
        mate_codes = np.array([one.code for one in mates])
        mate_fitness = -np.array([one.fitness.values[1] for one in mates])
        own = parents[waiting]
        crossed = rng.random(len(waiting)) < adaptive(np.maximum(fitness[waiting], mate_fitness), fitness, CROSSOVER)
        children = np.where(crossed[:, None], problem.space.cross_codes(own, mate_codes, rng), own)
        mutated = rng.random(len(waiting)) < adaptive(fitness[waiting], fitness, MUTATION)
        children = np.where(mutated[:, None], problem.space.mutate_codes(children, rng), children)
        good = problem.is_fresh(children)
        made.append(children[good])
        waiting = waiting[~good]
        if not len(waiting):
            break
    return np.concatenate(made)


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
