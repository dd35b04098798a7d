"""Models of the pooled rows of all tables that are too slow, or too large, to ship: the pretrained network learns from their predictions.

A Gaussian process and a forest make other mistakes than a network does: a network that learns the mean of the three ranks unseen images
better than each of them (`transfer.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from benchmarks.search.pooled import Group
from jointnas.predictor.gp import Examples, GaussianProcess, fit_hyperparameters
from jointnas.predictor.inputs import TASK_INPUTS, NetworkInputs
from jointnas.predictor.prior import Budget
from jointnas.space.knobs import Codes
from jointnas.space.space import Space

GP_ROWS, GP_FITTED_ROWS = 2000, 400
LONG, LONG_WEIGHT = 30.0, 4.0  # seconds of a long budget, as searches have, and the weight of its rows: most have 8 s
FARTHEST = 3.0  # target, in standard deviations
Array = NDArray[np.float64]
Float32 = NDArray[np.float32]
Teacher = Callable[[Space, Codes, Budget], Array]
"""The (n,) scores of (n, knobs) codes of a bound space under a budget, in the unit of `pooled.Group.targets`."""


class PooledRows(NamedTuple):
    """The candidates of all groups: (n, a) inputs of architectures, (n, r) others, and (n,) targets and weights."""

    inputs: NetworkInputs
    architecture: Float32
    rest: Float32
    targets: Array
    weights: Array

    @property
    def x(self) -> Array:
        """The (n, a + r) inputs."""
        return np.concatenate([self.architecture, self.rest], axis=1).astype(np.float64)


def pooled(groups: Sequence[Group], weight_power: float = 0.5) -> PooledRows:
    """Return the rows of all groups; a candidate of a group of n has the weight n ** -weight_power, times `LONG_WEIGHT` for long budgets."""
    parts = [(group, part) for group in groups for part in group.parts]
    inputs = NetworkInputs.fit([(part.space, part.codes, part.budget) for _, part in parts])
    encoded = [inputs(part.space, part.codes, part.budget) for _, part in parts]
    architecture, rest = (np.concatenate(arrays) for arrays in zip(*encoded, strict=True))
    targets = np.concatenate([group.targets(part) for group, part in parts]).clip(-FARTHEST, FARTHEST)
    weights = np.concatenate([np.full(len(part.codes), _weight(group, weight_power)) for group, part in parts])
    return PooledRows(inputs, architecture, rest, targets, weights)


def _weight(group: Group, power: float) -> float:
    return float(group.size**-power) * (LONG_WEIGHT if group.seconds >= LONG else 1.0)


def rows(inputs: NetworkInputs, space: Space, codes: Codes, budget: Budget) -> Array:
    """Return the (n, d) inputs of (n, knobs) codes under a budget."""
    return np.concatenate(inputs(space, codes, budget), axis=1).astype(np.float64)


def forest(groups: Sequence[Group]) -> Teacher:
    """Return a forest of extremely randomised trees."""
    of = pooled(groups)
    model = ExtraTreesRegressor(300, min_samples_leaf=2, max_features=0.3, random_state=0)
    model.fit(of.x, of.targets, of.weights)
    return lambda space, codes, budget: np.asarray(model.predict(rows(of.inputs, space, codes, budget)))


def process(groups: Sequence[Group]) -> Teacher:
    """Return a Gaussian process of at most `GP_ROWS` rows, whose inputs are in groups of one meaning each."""
    of = pooled(groups)
    x, n_costs = of.x, len(groups[0].parts[0].space.metrics)
    sizes = (of.architecture.shape[1] + n_costs, *recipe_groups(of.rest.shape[1] - n_costs))
    members = np.repeat(np.arange(len(sizes)), sizes)
    shares = of.weights / of.weights.sum()
    order = np.random.default_rng(0).choice(len(x), min(len(x), GP_ROWS), replace=False, p=shares)

    def examples(chosen: NDArray[np.int64]) -> Examples:
        return Examples(x[chosen], np.ones((len(chosen), 1)), of.targets[chosen])

    hyperparameters = fit_hyperparameters(examples(order[:GP_FITTED_ROWS]), members)
    model = GaussianProcess(examples(order), members, hyperparameters)

    def score(space: Space, codes: Codes, budget: Budget) -> Array:
        return model.mean(rows(of.inputs, space, codes, budget), np.ones((len(codes), 1)))

    return score


def recipe_groups(width: int) -> tuple[int, ...]:
    """Return the sizes of the groups of inputs of recipe and task: knobs, the five of `features.recipe_effects`, the task."""
    effects = (4, 7, 3, 3, 45)
    return (width - sum(effects) - TASK_INPUTS, *effects, TASK_INPUTS)
