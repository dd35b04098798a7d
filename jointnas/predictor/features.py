"""The features of a candidate, in groups of one meaning each.

In a space with networks: the architecture and its exact costs; the recipe's knobs; and products that are known to matter in training:
learning rates act by their logarithms and differently for each optimizer, weight decay acts through rate and steps, regularisation helps
with many images and large networks. A few trainings are too few to learn such products among forty knobs, but enough to learn the weights
of a few groups of them. In an abstract space each knob is a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jointnas.errors import PredictorError
from jointnas.predictor.gp import Groups
from jointnas.predictor.steps import StepsModel
from jointnas.space.knobs import Codes
from jointnas.space.space import Space
from jointnas.training.recipe import EXPECTED_LEARNING_RATE, knob
from jointnas.training.recipe_columns import Columns, column

REGULARISERS = {"crop": 8.0, "cutout": 2.0, "label_smoothing": 2.0, "dropout": 2.0, "stochastic_depth": 2.0}
"""The factor of each regulariser's knob that makes its usual setting about as strong as an augmentation policy."""

SMALLEST_DECAY = 1e-6  # smaller weight decays have the logarithm of this one
SMALLEST_SPREAD = 1e-9
Array = NDArray[np.float64]


class Featurizer:
    """Computes the features of candidates of a bound space.

    reference: (n, knobs) codes whose mean and deviation standardise the features.
    """

    def __init__(self, space: Space, steps_model: StepsModel, reference: Codes) -> None:
        self.space, self._steps_model = space, steps_model
        self.mean_log_steps = 0.0
        self._quantity_scale = self._feature_scale = Standardizer(np.zeros(1), np.ones(1))
        log_steps = self.log_steps(reference)
        if not space.is_abstract:
            self.mean_log_steps = float(log_steps.mean())
            recipes = space.recipe_columns(reference)
            self._quantity_scale = Standardizer.fit(quantities(recipes, log_steps, space.costs(reference)["params"]))
        raw = list(self._raw_groups(reference, log_steps))
        self._feature_scale = Standardizer.fit(np.concatenate(raw, axis=1))
        self.groups: Groups = np.repeat(np.arange(len(raw)), [part.shape[1] for part in raw])

    @cached_property
    def names(self) -> list[str]:
        """The (d,) names of the features; except those of architecture knobs they mean the same in every space."""
        space, costs = self.space, [f"log {metric}" for metric in self.space.predictor_metrics]
        architecture, recipe = (
            space.feature_names(knobs)
            for knobs in (space.knobs[: space.n_architecture], space.knobs[space.n_architecture :])
        )
        if space.is_abstract:
            return [*architecture, *recipe, *costs] or ["none"]
        effects = len(self.groups) - len(architecture) - len(costs) - len(recipe)
        return [*architecture, *costs, *recipe, *(f"effect {i}" for i in range(effects))]

    @property
    def n_groups(self) -> int:
        """How many groups the features are in."""
        return int(self.groups.max()) + 1

    def __call__(self, codes: Codes, log_steps: Array | None = None) -> Array:
        """Return the (n, d) standardised features of (n, knobs) codes.

        log_steps: the steps of another budget, as `log_steps` returns them there; by default those of this budget.
        """
        relative = self.log_steps(codes) if log_steps is None else log_steps
        return self._feature_scale(
            np.concatenate(list(self._raw_groups(codes, self.mean_log_steps + relative)), axis=1)
        )

    def log_steps(self, codes: Codes) -> Array:
        """Return the (n,) logarithms of the steps that fit into the budget, relative to their mean over the reference."""
        return np.asarray(np.log(self._steps_model.steps(codes)) - self.mean_log_steps)

    def _raw_groups(self, codes: Codes, log_steps: Array) -> Iterator[Array]:
        costs = self.space.costs(codes)
        log_costs = log_costs_of(self.space, costs, len(codes))
        if self.space.is_abstract:
            parts = [part for part in (*self.space.knob_features(codes), log_costs) if part.shape[1]]
            yield from parts or [np.zeros((len(codes), 1))]
            return
        architecture, recipe = self.space.encode_codes(codes)
        yield np.concatenate([architecture, log_costs], axis=1)
        yield recipe
        recipes = self.space.recipe_columns(codes)
        numbers = quantities(recipes, log_steps, costs["params"])
        yield from recipe_effects(recipes, numbers, self._quantity_scale(numbers))


def log_costs_of(space: Space, costs: Mapping[str, NDArray[Any]], n: int) -> Array:
    """Return the (n, metrics) logarithms of the (n,) costs that predictors read. Raises `PredictorError` for one that is not finite."""
    columns = [np.sign(costs[name]) * np.log1p(np.abs(costs[name])) for name in space.predictor_metrics]
    log_costs: Array = np.stack(columns, axis=1) if columns else np.zeros((n, 0))
    if not np.isfinite(log_costs).all():
        raise PredictorError("the cost function returned a number that is not finite: return finite costs")
    return log_costs


def quantities(recipes: Columns, log_steps: Array, params: NDArray[Any]) -> Array:
    """Return (n, 8): logarithms of steps, images, rate, decay, bias rate, batch size and parameters, and the regularisation."""
    n = len(log_steps)

    def number(name: str) -> Array:
        return column(recipes, name, n).astype(np.float64)

    mixed = ((number("mixup") > 0) | (number("cutmix") > 0)) * number("mix_probability")
    strength = mixed + (column(recipes, "policy", n) != "none")
    strength = strength + sum(weight * number(name) for name, weight in REGULARISERS.items())
    batch, rate = np.log(number("batch_size")), np.log(number("learning_rate"))
    decay = np.log(np.maximum(number("weight_decay"), SMALLEST_DECAY))
    bias = np.log(number("bias_learning_rate"))
    return np.stack([log_steps, log_steps + batch, rate, decay, bias, batch, np.log1p(params), strength], axis=1)


def recipe_effects(recipes: Columns, raw: Array, scaled: Array) -> Iterator[Array]:
    """Yield the groups of the budget, the learning rate, the decay, the regularisation, and the optimizers.

    raw, scaled: (n, 8) `quantities`, as they are and standardised.
    """
    n = len(raw)
    log_steps, _, log_rate, log_decay, log_bias, log_batch, _, _ = raw.T
    steps, images, rate, decay, bias, _, capacity, strength = scaled.T
    optimizer = column(recipes, "optimizer", n)
    has_momentum = knob("momentum").metadata["when"](SimpleNamespace(optimizer=optimizer))
    damping = np.where(has_momentum, -np.log1p(-column(recipes, "momentum", n).astype(np.float64)), 0)
    distance = log_rate + log_steps  # that the weights can move
    yield np.stack([steps, images, steps**2, images**2], axis=1)
    yield np.stack(
        [rate, rate**2, log_rate + damping, distance, log_rate - log_batch, rate + capacity, log_rate + log_bias],
        axis=1,
    )
    yield np.stack([decay, log_rate + log_decay, distance + log_decay], axis=1)
    yield np.stack([strength, strength * images, strength * capacity], axis=1)
    one_hot = [optimizer == name for name in EXPECTED_LEARNING_RATE]
    yield np.stack([own * q for q in (rate, rate**2, decay, steps, bias) for own in one_hot], axis=1)


class Standardizer:
    """Shifts and scales (n, d) values to mean 0 and deviation 1; constant columns become 0."""

    def __init__(self, mean: Array, deviation: Array) -> None:
        self._mean = mean
        self._factor = np.where(deviation > SMALLEST_SPREAD, 1 / np.maximum(deviation, SMALLEST_SPREAD), 0)

    @classmethod
    def fit(cls, values: Array) -> Standardizer:
        """Return the standardizer of (n, d) values."""
        return cls(values.mean(axis=0), values.std(axis=0))

    def __call__(self, values: Array) -> Array:
        """Return the standardised (n, d) values."""
        scaled = values - self._mean
        scaled *= self._factor
        return scaled
