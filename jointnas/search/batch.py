"""Stage one of algorithm 1: the next batch of candidates to train, chosen from a pool and from children of the best."""

from __future__ import annotations

import copy
from collections.abc import Sequence, Set

import numpy as np
from numpy.typing import NDArray

from jointnas.predictor.contract import Predictor
from jointnas.search.objective import Query
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Codes
from jointnas.space.space import Space

GENERATIONS, PARENTS, CHILDREN, CROSSOVER = 4, 32, 512, 0.5  # of the evolution around the best
BOLDNESS = 0.5  # of the deviation from the mean of a sampled function that a batch follows
FILLING_POOL = 4096  # pool members from which a space-filling batch is chosen
Array = NDArray[np.float64]
Prediction = tuple[float, float]
"""Mean and standard deviation of a predicted accuracy."""


class Batch(list[Candidate]):
    """The candidates of one `ask`, with their identities and the predictions at that time (None before the predictor is fitted)."""

    def __init__(self, space: Space, codes: Codes, predictions: Sequence[Prediction | None]) -> None:
        super().__init__(space.to_candidates(codes))
        self.space, self.codes = space, codes
        self.identities = space.identities(codes)
        self.predictions = list(predictions)
        self._asked = copy.deepcopy(list(self))

    def belongs_to(self, space: Space) -> bool:
        """Whether the codes are those of the candidates in this space: the list was not changed since."""
        return self.space is space and self == self._asked


def choose(predictor: Predictor, query: Query, codes: Codes, medians: Array, n: int, seed: Sequence[int]) -> Codes:
    """Return n of (m, knobs) codes by Thompson sampling: the first by its median, each other by another function from the posterior.

    medians: (m,) median accuracies of the codes. Each function is moved towards the mean by `1 - BOLDNESS`: a few dozen trainings do not
    pay for exploring all that is uncertain in forty knobs.
    """
    chosen: list[int] = []
    for accuracies in (medians, *predictor.sample_codes(codes, n - 1, seed, BOLDNESS)):
        order = np.argsort(-query.utility(codes, accuracies), kind="stable")
        chosen.append(next(int(j) for j in order if j not in chosen))
    return codes[chosen]


def children_of_the_best(
    predictor: Predictor, query: Query, parents: Codes, medians: Array, excluded: Set[str], rng: np.random.Generator
) -> tuple[Codes, Array]:
    """Return feasible children of the best of (n, knobs) parents, over some generations, and their median accuracies.

    medians: (n,) of the parents. excluded: identities that no child may have.
    """
    seen = set(excluded)
    children, child_medians = [parents[:0]], [medians[:0]]
    utility = query.utility(parents, medians)
    for _ in range(GENERATIONS):
        best = np.argsort(-utility, kind="stable")[:PARENTS]
        children.append(_children(query, parents[best], seen, rng))
        child_medians.append(predictor.median_codes(children[-1]))
        parents = np.concatenate([parents[best], children[-1]])
        utility = np.concatenate([utility[best], query.utility(children[-1], child_medians[-1])])
    return np.concatenate(children), np.concatenate(child_medians)


def _children(query: Query, parents: Codes, seen: set[str], rng: np.random.Generator) -> Codes:
    """Return new feasible children of (n, knobs) parents by crossover and mutation, and add their identities to `seen`."""
    first, second = (parents[rng.integers(0, len(parents), CHILDREN)] for _ in range(2))
    crossed = rng.random((CHILDREN, 1)) < CROSSOVER
    mixed = np.where(crossed, query.space.cross_codes(first, second, rng), first)
    children = query.space.mutate_codes(mixed, rng)
    children = children[query.forecast_feasible(children)]
    rows, identities = query.space.distinct(children)
    new = [row for row, identity in zip(rows, identities, strict=True) if identity not in seen]
    seen.update(identities)
    return children[new]


def fill(space: Space, codes: Codes, n: int) -> Codes:
    """Return n of the first `FILLING_POOL` codes, far from each other."""
    features = np.concatenate(space.encode_codes(codes[:FILLING_POOL]), axis=1)
    return codes[space_filling(features, n)]


def space_filling(features: Array, n: int) -> NDArray[np.int64]:
    """Return n rows of (m, d) features: the most central, then always the row farthest from those chosen."""
    chosen = [int(((features - features.mean(axis=0)) ** 2).sum(axis=1).argmin())]
    nearest = np.full(len(features), np.inf)
    for _ in range(n - 1):
        nearest = np.minimum(nearest, ((features - features[chosen[-1]]) ** 2).sum(axis=1))
        nearest[chosen] = -1.0
        chosen.append(int(nearest.argmax()))
    return np.array(chosen)
