"""Stage one of algorithm 1: which candidates to train next, of a pool and of what lies near the best."""

from __future__ import annotations

from collections.abc import Sequence, Set

import numpy as np
from numpy.typing import NDArray

from jointnas.predictor.gp_predictor import Predictor
from jointnas.search.objective import Query
from jointnas.space.knobs import Codes
from jointnas.space.space import Space

GENERATIONS, PARENTS, CHILDREN, CROSSOVER = 4, 32, 512, 0.5  # around the best, before a batch is chosen
FILLING_POOL = 4096  # pool members a space-filling batch is chosen from
Array = NDArray[np.float64]


def choose(predictor: Predictor, query: Query, codes: Codes, medians: Array, n: int, seed: Sequence[int]) -> Codes:
    """Return n of the codes by predicted score: the first by its median, each further one by another function drawn from the posterior.

    Thompson sampling, so that a batch spreads over what the trainings so far leave possible. medians: (m,) of the m codes.
    """
    chosen: list[int] = []
    for accuracies in (medians, *predictor.draw_codes(codes, n - 1, seed)):
        order = np.argsort(-query.worth(codes, accuracies), kind="stable")
        chosen.append(next(int(j) for j in order if j not in chosen))
    return codes[chosen]


def children_of_the_best(
    predictor: Predictor, query: Query, parents: Codes, medians: Array, met: Set[str], rng: np.random.Generator
) -> tuple[Codes, Array]:
    """Return feasible codes near those of (n, knobs) parents that are believed best, and near the best of those again.

    With each comes the median of its predicted accuracy, as `medians` has them of the parents. met: identities of what is not
    made again.
    """
    known = set(met)
    made, found = [parents[:0]], [medians[:0]]
    worth = query.worth(parents, medians)
    for _ in range(GENERATIONS):
        best = np.argsort(-worth, kind="stable")[:PARENTS]
        made.append(_children(query, parents[best], known, rng))
        found.append(predictor.median_codes(made[-1]))
        parents = np.concatenate([parents[best], made[-1]])
        worth = np.concatenate([worth[best], query.worth(made[-1], found[-1])])
    return np.concatenate(made), np.concatenate(found)


def _children(query: Query, parents: Codes, met: set[str], rng: np.random.Generator) -> Codes:
    """Return feasible children of (n, knobs) parents by crossover and mutation that were not met before, and note them."""
    own, mates = (parents[rng.integers(0, len(parents), CHILDREN)] for _ in range(2))
    crossed = rng.random((CHILDREN, 1)) < CROSSOVER
    mixed = np.where(crossed, query.space.cross_codes(own, mates, rng), own)
    children = query.space.mutate_codes(mixed, rng)
    children = children[query.believed(children)]
    rows, identities = query.space.distinct(children)
    fresh = [row for row, identity in zip(rows, identities, strict=True) if identity not in met]
    met.update(identities)
    return children[fresh]


def fill(space: Space, codes: Codes, n: int) -> Codes:
    """Return n of the first `FILLING_POOL` codes, which lie far from each other."""
    features = np.concatenate(space.encode_codes(codes[:FILLING_POOL]), axis=1)
    return codes[space_filling(features, n)]


def space_filling(features: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """Return n rows of (m, d) features that lie far from each other: the most central, then always the farthest."""
    chosen = [int(((features - features.mean(axis=0)) ** 2).sum(axis=1).argmin())]
    nearest = np.full(len(features), np.inf)
    for _ in range(n - 1):
        nearest = np.minimum(nearest, ((features - features[chosen[-1]]) ** 2).sum(axis=1))
        nearest[chosen] = -1.0
        chosen.append(int(nearest.argmax()))
    return np.array(chosen)
