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
SAMPLE_SCALE = 0.5  # share of a sampled function's difference from the posterior mean that a batch follows
Array = NDArray[np.float64]
Prediction = tuple[float, float]
"""Mean and standard deviation of a predicted accuracy."""


class Batch(list[Candidate]):
    """The candidates of one `ask`, with their identities and the predictions at that time (None before the predictor is fitted).

    ids: their numbers in the search's storage, empty without one.
    """

    def __init__(
        self, space: Space, codes: Codes, predictions: Sequence[Prediction | None], ids: Sequence[int] = ()
    ) -> None:
        super().__init__(space.to_candidates(codes))
        self.space, self.codes, self.ids = space, codes, tuple(ids)
        self.identities = space.identities(codes)
        self.predictions = list(predictions)
        self._asked = copy.deepcopy(list(self))

    def belongs_to(self, space: Space) -> bool:
        """Whether the codes are those of the candidates in this space: the list was not changed since."""
        return self.space is space and self == self._asked


def choose(
    predictor: Predictor,
    query: Query,
    codes: Codes,
    medians: Array,
    n: int,
    seed: Sequence[int],
    *,
    greedy: bool = True,
) -> Codes:
    """Return n of (m, knobs) codes by Thompson sampling: each by another function from the posterior.

    medians: (m,) median accuracies of the codes, by which a greedy batch chooses its first one. While other candidates are in training, a
    batch is not greedy: each process would choose a neighbour of the same candidate (Kandasamy et al., AISTATS 2018). Nor is a small one: a
    search that asks for one candidate at a time would never leave the first good ones. Each function is moved towards the mean by `1 -
    SAMPLE_SCALE`: a few dozen trainings do not pay for exploring all that is uncertain in forty knobs.
    """
    chosen: list[int] = []
    first = [medians] if greedy else []
    for accuracies in (*first, *predictor.sample_codes(codes, n - len(first), seed, SAMPLE_SCALE)):
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
