"""The optimisers that `search.py` compares: each spends the trainings of one task. Those of others are in `peers.py`.

Beside ours stand its own variants, which say what a batch gains from where it is looked for and from how it is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from scipy.stats import norm
from sklearn.ensemble import RandomForestRegressor

import jointnas
from benchmarks.search.peers import (
    botorch_search,
    mads,
    neps_search,
    nevergrad_search,
    optuna_search,
    random_search,
    regularised_evolution,
    smac_search,
)
from benchmarks.search.task import Array, Task
from jointnas.predictor.contract import Predictor
from jointnas.predictor.pretrained import Pretrained
from jointnas.predictor.task import Task as Known
from jointnas.search.objective import Query
from jointnas.space.knobs import Codes

FIRST = 8  # random rows, before the forest is asked
TIMED = 24  # candidates whose steps are known before the first training
PRIOR = Path(__file__).parents[2] / "predictors" / "resnet9-digits"


def ours(task: Task, seed: int, prior: str | None = "digits") -> None:
    """Stage one of `jointnas search`, with a prior of `PRIORS` or without."""
    start, known = (None, Known()) if prior is None else PRIORS[prior](task)
    search = jointnas.Search(
        task.space, task.constraints, seed, pool=task.pool, prior=start, task=known, start=task.start
    )
    while True:
        batch = search.ask(task.batch)
        search.tell(batch, [task.observe(c) for c in batch])


def digits(task: Task) -> tuple[Predictor, Known]:
    """Return the predictor of trainings on the digits."""
    return Predictor.load(PRIOR), Known()


@cache
def _shuffled() -> Predictor:
    found = Predictor.load(PRIOR)
    order = np.random.default_rng(0).permutation(len(found.candidates))
    return Predictor(found.space).fit(found.candidates, [found.observations[i] for i in order])


def shuffled(task: Task) -> tuple[Predictor, Known]:
    """Return the predictor of the digits fitted to its accuracies in another order: it knows nothing, and believes it does."""
    return _shuffled(), Known()


def tables(task: Task) -> tuple[Pretrained, Known]:
    """Return the network of `--pretrained`, and the steps of some candidates."""
    if task.pretrained is None:
        raise SystemExit(
            "this arm starts from a network that was fitted without the table searched: give it by --pretrained"
        )
    codes = next(task.space.stream(TIMED, chunk=TIMED))
    steps = np.array([task.objective(candidate)[1] for candidate in task.space.to_candidates(codes)], dtype=np.float64)
    return Pretrained.load(task.pretrained), Known(task.images, codes, steps)


PRIORS: dict[str, Callable[[Task], tuple[Predictor | Pretrained, Known]]] = {
    "digits": digits,
    "shuffled": shuffled,
    "tables": tables,
}


def varied(task: Task, seed: int, **parts: Any) -> None:
    """Ours without a prior, with some functions of stage one replaced."""
    with patch.multiple("jointnas.search.search", **parts):
        ours(task, seed, prior=None)


def bold(task: Task, seed: int, scale: float) -> None:
    """Ours with the pretrained prior, whose batches follow another share of a sampled function's deviation from the mean."""
    with patch("jointnas.search.batch.SAMPLE_SCALE", scale):
        ours(task, seed, prior="tables")


def no_children(predictor: Predictor, query: Query, parents: Codes, medians: Array, *rest: Any) -> tuple[Codes, Array]:
    """Look for a batch in the pool alone."""
    return parents[:0], medians[:0]


def most_promising(
    predictor: Predictor, query: Query, codes: Codes, medians: Array, n: int, seed: Sequence[int], *, greedy: bool
) -> Codes:
    """Choose a batch by the medians alone."""
    return codes[np.argsort(-query.utility(codes, medians), kind="stable")[:n]]


def upper_confidence(
    predictor: Predictor, query: Query, codes: Codes, medians: Array, n: int, seed: Sequence[int], *, greedy: bool
) -> Codes:
    """Choose each of a batch by mean + weight · deviation, its weight drawn from an exponential distribution (Hutter et al., 2012)."""
    mean, deviation = predictor.predict_codes(codes)
    chosen: list[int] = []
    for weight in np.random.default_rng(seed).exponential(1.0, n):
        order = np.argsort(-query.utility(codes, mean + weight * deviation), kind="stable")
        chosen.append(next(int(j) for j in order if j not in chosen))
    return codes[chosen]


def forest(task: Task, seed: int) -> None:
    """Expected improvement by a random forest over all rows, which reads the knobs and the logarithms of the costs."""
    pool = task.pool
    assert pool is not None
    codes = task.space.to_codes(pool)
    costs = [np.log(np.maximum(values, 1.0)) for values in task.space.costs(codes).values()]
    x = np.column_stack([*task.space.encode_codes(codes), *costs])
    known = np.random.default_rng(seed).permutation(len(x))[:FIRST].tolist()
    found = [task.train(pool[i]) for i in known]
    while len(known) < len(x):
        model = RandomForestRegressor(200, random_state=seed, n_jobs=1).fit(x[known], found)
        answers = np.array([tree.predict(x) for tree in model.estimators_])
        mean, deviation = answers.mean(axis=0), np.maximum(answers.std(axis=0), 1e-9)
        better = (mean - max(found)) / deviation
        gain = deviation * (better * norm.cdf(better) + norm.pdf(better))
        gain[known] = -1.0
        known.append(int(gain.argmax()))
        found.append(task.train(pool[known[-1]]))


ARMS: dict[str, Callable[[Task, int], None]] = {
    "jointnas": ours,
    "jointnas, no prior": partial(ours, prior=None),
    "jointnas, pretrained": partial(ours, prior="tables"),
    "jointnas, wrong prior": partial(ours, prior="shuffled"),
    "random": random_search,
    "regularised evolution": regularised_evolution,
    "optuna tpe": partial(optuna_search, sampler="tpe"),
    "optuna gp": partial(optuna_search, sampler="gp"),
    "optuna nsga-ii": partial(optuna_search, sampler="nsga2"),
    "smac3": smac_search,
    "nevergrad ngopt": nevergrad_search,
    "nomad": mads,
    "botorch": botorch_search,
    "neps priorband": neps_search,
    "random forest": forest,
    "pretrained, whole functions": partial(bold, scale=1.0),
    "pretrained, quarter functions": partial(bold, scale=0.25),
    "pool, medians": partial(varied, children_of_the_best=no_children, choose=most_promising),
    "pool, draws": partial(varied, children_of_the_best=no_children),
    "children, medians": partial(varied, choose=most_promising),
    "children, upper confidence": partial(varied, choose=upper_confidence),
}
OF_PUBLIC = (
    "jointnas, no prior",
    "random",
    "regularised evolution",
    "random forest",
    "optuna tpe",
    "optuna gp",
    "smac3",
    "botorch",
)
OF_ROWS = ("jointnas", "jointnas, no prior", "random", "random forest")
OF_SPACES = tuple(ARMS)[: list(ARMS).index("random forest")]
