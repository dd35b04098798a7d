"""Models of the pooled rows of all tables that are too slow, or too large, to ship: the pretrained network learns from their predictions.

A Gaussian process and a forest make other mistakes than a network does: a network that learns the mean of the three ranks unseen images
better than each of them (`transfer.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from benchmarks.search.pooled import Group
from jointnas.predictor.gp import Examples, GaussianProcess, fit_hyperparameters
from jointnas.predictor.inputs import NetworkInputs
from jointnas.predictor.prior import Budget
from jointnas.space.knobs import Codes
from jointnas.space.space import Space

GP_ROWS, GP_FITTED_ROWS = 2000, 400
FARTHEST = 3.0  # target, in standard deviations
Array = NDArray[np.float64]
Teacher = Callable[[Space, Codes, Budget], Array]
"""The (n,) scores of (n, knobs) codes of a bound space under a budget, in the unit of `pooled.Group.targets`."""


def pooled(groups: Sequence[Group]) -> tuple[NetworkInputs, Array, Array, Array]:
    """Return the inputs, (n, d) rows, (n,) targets and (n,) weights of all groups."""
    parts = [(group, part) for group in groups for part in group.parts]
    inputs = NetworkInputs.fit([(part.space, part.codes, part.budget) for _, part in parts])
    x = np.concatenate([rows(inputs, part.space, part.codes, part.budget) for _, part in parts])
    y = np.concatenate([group.targets(part) for group, part in parts]).clip(-FARTHEST, FARTHEST)
    return inputs, x, y, np.concatenate([np.full(len(part.codes), group.size**-0.5) for group, part in parts])


def rows(inputs: NetworkInputs, space: Space, codes: Codes, budget: Budget) -> Array:
    """Return the (n, d) inputs of (n, knobs) codes under a budget."""
    return np.concatenate(inputs(space, codes, budget), axis=1).astype(np.float64)


def forest(groups: Sequence[Group]) -> Teacher:
    """Return a forest of extremely randomised trees."""
    inputs, x, y, weights = pooled(groups)
    model = ExtraTreesRegressor(300, min_samples_leaf=2, max_features=0.3, random_state=0).fit(x, y, weights)
    return lambda space, codes, budget: np.asarray(model.predict(rows(inputs, space, codes, budget)))


def process(groups: Sequence[Group]) -> Teacher:
    """Return a Gaussian process of at most `GP_ROWS` rows, whose inputs are in groups of one meaning each."""
    inputs, x, y, weights = pooled(groups)
    first = groups[0].parts[0]
    architecture, rest = inputs(first.space, first.codes[:1], Budget(np.zeros(1), 0.0, first.budget.train_images))
    n_costs = len(first.space.metrics)
    sizes = (architecture.shape[1] + n_costs, *recipe_groups(rest.shape[1] - n_costs))
    members = np.repeat(np.arange(len(sizes)), sizes)
    order = np.random.default_rng(0).choice(len(x), min(len(x), GP_ROWS), replace=False, p=weights / weights.sum())

    def examples(chosen: NDArray[np.int64]) -> Examples:
        return Examples(x[chosen], np.ones((len(chosen), 1)), y[chosen])

    hyperparameters = fit_hyperparameters(examples(order[:GP_FITTED_ROWS]), members)
    model = GaussianProcess(examples(order), members, hyperparameters)

    def score(space: Space, codes: Codes, budget: Budget) -> Array:
        return model.mean(rows(inputs, space, codes, budget), np.ones((len(codes), 1)))

    return score


def recipe_groups(width: int) -> tuple[int, ...]:
    """Return the sizes of the groups of inputs of recipe and task: knobs, the five of `features.recipe_effects`, the task."""
    effects, task = (4, 7, 3, 3, 45), 6
    return (width - sum(effects) - task, *effects, task)
