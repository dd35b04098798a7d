"""Estimates of measured metrics for batches of candidates: linear models fitted to measurements on this device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import nnls

from jointnas.errors import PredictorError
from jointnas.measurement.features import Array, blueprint_features, step_features
from jointnas.network.blueprint import Blueprint
from jointnas.space.constraint import TRAINING_METRICS
from jointnas.training.recipe import Recipe, knob_fields
from jointnas.training.recipe_columns import Columns, column, views

if TYPE_CHECKING:
    from jointnas.measurement.meter import Meter, Workload

FOLDS = 5
FEWEST_ROWS = 2
ITERATIONS = 10_000  # far more than a few dozen weights take
BLOCK_WEIGHT = 0.1  # relative to a network: alone, a block reads its input from the cache and is faster


@dataclass(frozen=True)
class Estimator:
    """A linear model without negative weights, so that more work never has a lower estimate.

    error: the median relative error in cross-validation.
    """

    weights: Array  # (f,)
    intercept: float
    error: float

    @classmethod
    def fit(cls, features: Array, values: Array, seed: int, whole: int | None = None) -> Estimator:
        """Return the model of least squared relative errors, for (n, f) features and (n,) positive values.

        Failed measurements, whose value is NaN, are left out. whole: how many rows from the first are networks, by default all;
        the others are blocks measured alone, which have less weight and are never held out. Raises `PredictorError` for fewer
        than two networks, or values that are not positive.
        """
        measured = ~np.isnan(values)
        networks = int(measured[:whole].sum())
        features, values = features[measured], values[measured]
        if networks < FEWEST_ROWS or not np.all(values > 0):
            raise PredictorError(
                f"an estimate needs at least {FEWEST_ROWS} positive measurements, got {values[:networks].tolist()}: "
                "measure other candidates"
            )
        counts = np.where(np.arange(len(values)) < networks, 1.0, BLOCK_WEIGHT)
        errors = []
        for fold in np.array_split(np.random.default_rng(seed).permutation(networks), min(FOLDS, networks)):
            rest = np.delete(np.arange(len(values)), fold)
            model = _fit(features[rest], values[rest], counts[rest])
            errors.append(np.abs(_predicted(model, features[fold]) / values[fold] - 1))
        *weights, intercept = _fit(features, values, counts).tolist()
        return cls(np.array(weights), intercept, float(np.median(np.concatenate(errors))))

    def predict(self, features: Array) -> Array:
        """Return (n,) estimates for (n, f) features."""
        return _predicted(np.append(self.weights, self.intercept), features)


def _fit(features: Array, values: Array, counts: Array) -> Array:
    """Return (f + 1,) weights, the intercept last: non-negative least squares of relative errors times their (n,) counts."""
    rows = np.column_stack([features, np.ones(len(values))]) * (counts / values)[:, None]
    scale = rows.max(axis=0)
    scale[scale == 0] = 1
    weights: Array = nnls(rows / scale, counts, maxiter=ITERATIONS)[0] / scale
    return weights


def _predicted(model: Array, features: Array) -> Array:
    return np.asarray(features @ model[:-1] + model[-1])


@dataclass(frozen=True)
class Estimate:
    """One metric's model for the networks and recipes of a space, on one device."""

    metric: str
    model: Estimator

    @property
    def error(self) -> float:
        """The median relative error on networks that were held out."""
        return self.model.error

    @classmethod
    def calibrate(
        cls, meter: Meter, metric: str, candidates: Sequence[Mapping[str, Any]], blocks: int, seed: int
    ) -> Estimate:
        """Measure candidates and, for inference, some of their blocks alone; return the model fitted to them.

        blocks: how many, drawn by seed. Raises `PredictorError` when fewer than two candidates could be measured.
        """
        whole = [meter.workload(candidate) for candidate in candidates]
        alone: list[Workload] = []
        if metric not in TRAINING_METRICS:
            alone = [(block, Recipe()) for block in blocks_alone([blueprint for blueprint, _ in whole], blocks, seed)]
        rows = meter.measure_workloads([*whole, *alone], [metric])
        values = np.array([row[metric] for row in rows])
        measured = int(np.sum(~np.isnan(values[: len(whole)])))
        if measured < FEWEST_ROWS and meter.failures:
            raise PredictorError(
                f"a forecast of {metric} needs at least {FEWEST_ROWS} measured candidates, got {measured} of {len(whole)} "
                f"because measuring failed ({meter.failures[0]}): tighten the other bounds or free the device"
            )
        networks = np.array([blueprint_features(blueprint) for blueprint, _ in (*whole, *alone)])
        recipes = columns([recipe for _, recipe in (*whole, *alone)])
        return cls(
            metric,
            Estimator.fit(_inputs(metric, networks, recipes), _linear(metric, values, recipes), seed, len(whole)),
        )

    def predict(self, networks: Array, recipes: Columns) -> Array:
        """Return (n,) estimates of the metric, from (n, `FEATURES`) networks and the (n,) columns of their recipes."""
        return _linear(self.metric, self.model.predict(_inputs(self.metric, networks, recipes)), recipes)


def _inputs(metric: str, networks: Array, recipes: Columns) -> Array:
    if metric in TRAINING_METRICS:
        return step_features(metric, networks, recipes)
    return networks * views(recipes, len(networks))[:, None]


def _linear(metric: str, values: Array, recipes: Columns) -> Array:
    """Convert between a metric and what the model is linear in: the seconds of a step for images per second."""
    if metric != "images_per_second":
        return values
    return np.asarray(column(recipes, "batch_size", len(values)) / values, dtype=np.float64)


def columns(recipes: Sequence[Recipe]) -> Columns:
    """Return every knob's (n,) values."""
    return {name: np.array([getattr(recipe, name) for recipe in recipes], dtype=object) for name in knob_fields()}


def blocks_alone(networks: Sequence[Blueprint], count: int, seed: int) -> list[Blueprint]:
    """Return `count` different blocks of these networks, or all of them if there are fewer, each as a network of its own."""
    blocks: dict[Blueprint, None] = {}
    for network in networks:
        shapes = network.shapes()
        for block, inputs in zip(network.blocks, network.wiring, strict=True):
            read = {shapes[i] for i in inputs}
            if len(read) == 1 and len(min(read)) == 3:  # a network reads one image
                blocks[Blueprint(read.pop(), (block,), ((0,) * len(inputs),))] = None
    distinct = list(blocks)
    chosen = np.random.default_rng(seed).permutation(len(distinct))[:count]
    return [distinct[i] for i in chosen]
