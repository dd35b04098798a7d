"""Estimates of measured metrics for whole batches of candidates, by laws fitted to what was measured on this device."""

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
from jointnas.training.recipe import Columns, Recipe, column, knob_fields, views

if TYPE_CHECKING:
    from jointnas.measurement.meter import Meter, Workload

FOLDS = 5
FEWEST_ROWS = 2
ITERATIONS = 10_000  # far more than a few dozen weights take
BLOCK_WEIGHT = 0.1  # of a block's error beside a network's: alone it finds its input in the cache and is faster


@dataclass(frozen=True)
class Estimator:
    """A linear law without negative weights, so that more work is never estimated to cost less.

    error: the median relative error on rows that were held out, each by a law of the other folds.
    """

    weights: Array  # (f,)
    intercept: float
    error: float

    @classmethod
    def fit(cls, features: Array, values: Array, seed: int, whole: int | None = None) -> Estimator:
        """Return the law of least squared relative errors, for (n, f) features and (n,) positive values.

        Rows with the value NaN, failed measurements, are left out. whole: the first so many rows, by default all, are networks;
        the others are blocks measured alone, which count for less and are never held out. Raises `PredictorError` for fewer
        than two networks, or values that are not positive.
        """
        known = ~np.isnan(values)
        networks = int(known[:whole].sum())
        features, values = features[known], values[known]
        if networks < FEWEST_ROWS or not np.all(values > 0):
            raise PredictorError(
                f"an estimate is fitted to {FEWEST_ROWS} positive figures or more, got {values[:networks].tolist()}: "
                "measure other candidates"
            )
        counts = np.where(np.arange(len(values)) < networks, 1.0, BLOCK_WEIGHT)
        errors = []
        for fold in np.array_split(np.random.default_rng(seed).permutation(networks), min(FOLDS, networks)):
            rest = np.delete(np.arange(len(values)), fold)
            law = _fitted(features[rest], values[rest], counts[rest])
            errors.append(np.abs(_predicted(law, features[fold]) / values[fold] - 1))
        *weights, intercept = _fitted(features, values, counts).tolist()
        return cls(np.array(weights), intercept, float(np.median(np.concatenate(errors))))

    def predict(self, features: Array) -> Array:
        """Return (n,) estimates for (n, f) features."""
        return _predicted(np.append(self.weights, self.intercept), features)


def _fitted(features: Array, values: Array, counts: Array) -> Array:
    """Return (f + 1,) weights, the intercept last: non-negative least squares of relative errors times their (n,) counts."""
    rows = np.column_stack([features, np.ones(len(values))]) * (counts / values)[:, None]
    scale = rows.max(axis=0)
    scale[scale == 0] = 1
    weights: Array = nnls(rows / scale, counts, maxiter=ITERATIONS)[0] / scale
    return weights


def _predicted(law: Array, features: Array) -> Array:
    return np.asarray(features @ law[:-1] + law[-1])


@dataclass(frozen=True)
class Estimate:
    """One metric's law for the networks and recipes of a space, on the device that it was fitted for."""

    metric: str
    law: Estimator

    @property
    def error(self) -> float:
        """The median relative error on networks that were held out."""
        return self.law.error

    @classmethod
    def calibrate(
        cls, meter: Meter, metric: str, candidates: Sequence[Mapping[str, Any]], blocks: int, seed: int
    ) -> Estimate:
        """Return the law fitted to these candidates, measured; and, for inference, to some of their blocks, each alone.

        blocks: how many, drawn by seed. Raises `PredictorError` when fewer than two candidates could be measured.
        """
        whole = [meter.workload(candidate) for candidate in candidates]
        alone: list[Workload] = []
        if metric not in TRAINING_METRICS:
            alone = [(block, Recipe()) for block in blocks_alone([blueprint for blueprint, _ in whole], blocks, seed)]
        found = meter.measure_workloads([*whole, *alone], [metric])
        values = np.array([figures[metric] for figures in found])
        if np.sum(~np.isnan(values[: len(whole)])) < FEWEST_ROWS and meter.failures:
            raise PredictorError(
                f"{metric} is forecast from {FEWEST_ROWS} measured candidates or more, got fewer of {len(whole)}, for "
                f"measuring failed ({meter.failures[0]}): tighten the other bounds, or free the device"
            )
        networks = np.array([blueprint_features(blueprint) for blueprint, _ in (*whole, *alone)])
        recipes = columns([recipe for _, recipe in (*whole, *alone)])
        return cls(
            metric,
            Estimator.fit(_inputs(metric, networks, recipes), _linear(metric, values, recipes), seed, len(whole)),
        )

    def predict(self, networks: Array, recipes: Columns) -> Array:
        """Return (n,) estimates of the metric, from (n, `FEATURES`) networks and the (n,) columns of their recipes."""
        return _linear(self.metric, self.law.predict(_inputs(self.metric, networks, recipes)), recipes)


def _inputs(metric: str, networks: Array, recipes: Columns) -> Array:
    if metric in TRAINING_METRICS:
        return step_features(metric, networks, recipes)
    return networks * views(recipes, len(networks))[:, None]


def _linear(metric: str, values: Array, recipes: Columns) -> Array:
    """Return a metric's values as what a law estimates, and back: the seconds of a step for images a second."""
    if metric != "images_per_second":
        return values
    return np.asarray(column(recipes, "batch_size", len(values)) / values, dtype=np.float64)


def columns(recipes: Sequence[Recipe]) -> Columns:
    """Return every knob's (n,) values."""
    return {name: np.array([getattr(recipe, name) for recipe in recipes], dtype=object) for name in knob_fields()}


def blocks_alone(networks: Sequence[Blueprint], count: int, seed: int) -> list[Blueprint]:
    """Return `count` different blocks of these networks, or all there are, each as a network of its own."""
    found: dict[Blueprint, None] = {}
    for network in networks:
        shapes = network.shapes()
        for block, inputs in zip(network.blocks, network.wiring, strict=True):
            read = {shapes[i] for i in inputs}
            if len(read) == 1 and len(min(read)) == 3:  # a network reads one image
                found[Blueprint(read.pop(), (block,), ((0,) * len(inputs),))] = None
    known = list(found)
    chosen = np.random.default_rng(seed).permutation(len(known))[:count]
    return [known[i] for i in chosen]
