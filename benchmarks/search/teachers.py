"""Models of the pooled rows of all tables that are too slow, or too large, to ship: the pretrained network learns from their predictions.

Trees make other mistakes than a network does, and near good recipes they are better than it. `transfer.py` compares what learned from all
of them with each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor

from benchmarks.search.pooled import Group
from jointnas.predictor.inputs import NetworkInputs
from jointnas.predictor.prior import Budget
from jointnas.space.knobs import Codes
from jointnas.space.space import Space

LONG, LONG_WEIGHT = 30.0, 4.0  # seconds of a long budget, as searches have, and the weight of its rows: most have 8 s
FARTHEST = 3.0  # target, in standard deviations
LEVEL_PASSES, LEVEL_TREES = 3, 24
LEVEL_ROWS = 4.0  # made-up rows that pull the level of a small group towards 0
FOREST_TREES = 150
BOOSTED = 3  # models, each with its own random choices of inputs
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
    weights = np.concatenate([np.full(len(part.codes), _weight(group, weight_power)) for group, part in parts])
    return PooledRows(inputs, architecture, rest, _targets(groups).clip(-FARTHEST, FARTHEST), weights)


def _targets(groups: Sequence[Group]) -> Array:
    return np.concatenate([group.targets(part) for group in groups for part in group.parts])


def _weight(group: Group, power: float) -> float:
    return float(group.size**-power) * (LONG_WEIGHT if group.seconds >= LONG else 1.0)


def levelled(groups: Sequence[Group]) -> list[Group]:
    """Return the groups with centres that other images explain, so that what a model learns is the order of candidates within a group.

    Groups of long budgets have few random candidates or none, and their centre is a guess: at 60 s good recipes are 1.1 deviations above
    it on one data set and 2.7 on another. A model would explain that by whatever else differs between the groups. The level of some images
    under a budget is about the mean of its targets less what a forest of the other images' rows predicts for them, nearer to 0 for few
    rows. It moves the centres.
    """
    rows, names = pooled(groups), [(group.images, group.fingerprint, group.seconds) for group in groups]
    units = sorted(set(names))
    unit_of = np.repeat([units.index(name) for name in names], [group.size for group in groups])
    x, targets, images = rows.x, _targets(groups), np.array([images for images, *_ in units])[unit_of]
    sizes, levels = np.bincount(unit_of), np.zeros(len(units))
    for number in range(LEVEL_PASSES):
        predicted = np.empty(len(x))
        for own in np.unique(images):
            others = images != own
            forest = _trees(LEVEL_TREES, number)
            forest.fit(x[others], (targets - levels[unit_of]).clip(-FARTHEST, FARTHEST)[others], rows.weights[others])
            predicted[~others] = forest.predict(x[~others])
        errors = (targets - predicted).clip(-FARTHEST, FARTHEST)  # trainings that failed are farther
        found = np.bincount(unit_of, errors) / (sizes + LEVEL_ROWS)
        levels = (levels + found - np.average(found, weights=sizes)) / 2  # halfway: levels explain each other
    level = dict(zip(units, levels, strict=True))
    return [replace(g, centre=g.centre + level[name] * g.spread) for g, name in zip(groups, names, strict=True)]


def rows(inputs: NetworkInputs, space: Space, codes: Codes, budget: Budget) -> Array:
    """Return the (n, d) inputs of (n, knobs) codes under a budget."""
    return np.concatenate(inputs(space, codes, budget), axis=1).astype(np.float64)


def forest(groups: Sequence[Group]) -> Teacher:
    """Return a forest of extremely randomised trees (Geurts, Ernst & Wehenkel, 2006)."""
    of = pooled(groups)
    model = _trees(FOREST_TREES, 0).fit(of.x, of.targets, of.weights)
    return lambda space, codes, budget: np.asarray(model.predict(rows(of.inputs, space, codes, budget)))


def _trees(count: int, seed: int) -> ExtraTreesRegressor:
    return ExtraTreesRegressor(count, min_samples_leaf=2, max_features=0.6, random_state=seed)


def boosting(groups: Sequence[Group]) -> Teacher:
    """Return gradient-boosted trees."""
    of = pooled(groups)
    models = [
        HistGradientBoostingRegressor(
            max_iter=300,
            learning_rate=0.05,
            max_leaf_nodes=15,
            min_samples_leaf=10,
            l2_regularization=1.0,
            max_features=0.3,
            random_state=seed,
        ).fit(of.x, of.targets, of.weights)
        for seed in range(BOOSTED)
    ]

    def score(space: Space, codes: Codes, budget: Budget) -> Array:
        x = rows(of.inputs, space, codes, budget)
        return np.asarray(np.mean([model.predict(x) for model in models], axis=0))

    return score
