"""Efficiency under uncertainty: metrics are drawn again from their repeats, and the frontier with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from jointnas.cores import available_cores, one_blas_thread
from jointnas.efficiency.envelopment import Analysis, thetas
from jointnas.efficiency.models import Model

FEW = 5  # repeats: of fewer a log-normal distribution is drawn, others are drawn as they are
SMALLEST_SHARE = 1e-3  # of its mean, that a drawn repeat counts as at least
PARALLEL = 20_000  # linear programs from which processes are started
Array = NDArray[np.float64]


@dataclass(frozen=True)
class StochasticEfficiency:
    """The efficiencies of n models in r resamples: (r, n) θ, and the (r, n, metrics) values that they are of, costs first."""

    thetas: Array
    values: Array

    @cached_property
    def mean(self) -> Array:
        """The (n,) mean θ."""
        return np.asarray(self.thetas.mean(axis=0))

    def quantiles(self, shares: Sequence[float] = (0.05, 0.5, 0.95)) -> Array:
        """Return the (q, n) quantiles of θ."""
        return np.asarray(np.quantile(self.thetas, shares, axis=0))

    @cached_property
    def efficient(self) -> Array:
        """The (n,) probabilities of being on the frontier."""
        return np.asarray((self.thetas == 1).mean(axis=0))

    @cached_property
    def ranks(self) -> Array:
        """The (n, n) probabilities of each rank (columns, the first is the best) of each model (rows); equal ones share their ranks."""
        r, n = self.thetas.shape
        counts = np.zeros((n, n))
        for row in self.thetas:
            for value in np.unique(row):
                tied = np.flatnonzero(row == value)
                first = int((row > value).sum())
                counts[np.ix_(tied, np.arange(first, first + len(tied)))] += 1 / len(tied)
        return np.asarray(counts / r)

    @cached_property
    def better(self) -> Array:
        """The (n, n) probabilities that a model (row) is more efficient than another (column); ties count half."""
        above = (self.thetas[:, :, None] > self.thetas[:, None, :]).mean(axis=0)
        tied = (self.thetas[:, :, None] == self.thetas[:, None, :]).mean(axis=0)
        return np.asarray(above + tied / 2)


def resample(
    models: Sequence[Model],
    costs: Sequence[str],
    gains: Sequence[str],
    analysis: Analysis = Analysis(),  # noqa: B008  (frozen)
    resamples: int = 1000,
    seed: int = 0,
) -> StochasticEfficiency:
    """Return the efficiencies of models whose metrics are drawn from their repeats.

    Metrics that were measured together are drawn together: one repeat of a model gives all of them. Of fewer than `FEW` repeats, and of a
    mean with its deviation, a log-normal distribution is drawn instead, with the correlation of the repeats; a single repeat has the relative
    deviation that other models have of the metric.
    Many models are computed in several processes: call it below `if __name__ == "__main__":` in a script.
    """
    drawn, m = draws(models, (*costs, *gains), resamples, seed), len(costs)
    parts = np.array_split(drawn, min(available_cores(), len(drawn))) if drawn[..., 0].size >= PARALLEL else [drawn]
    if len(parts) == 1:
        return StochasticEfficiency(_thetas(drawn, m, analysis), drawn)
    with ProcessPoolExecutor(len(parts), mp_context=get_context("spawn")) as pool:
        found = np.concatenate(list(pool.map(_thetas, parts, repeat(m), repeat(analysis))))
    return StochasticEfficiency(found, drawn)


def draws(models: Sequence[Model], names: Sequence[str], count: int, seed: int) -> Array:
    """Return (count, n, metrics) values that the metrics of n models might have had, as `resample` draws them."""
    rng = np.random.default_rng(seed)
    pooled = {name: relative_deviation(models, name) for name in names}
    return np.stack([_draw(model, names, pooled, count, rng) for model in models], axis=1)


def _thetas(drawn: Array, m: int, analysis: Analysis) -> Array:
    """Return the (r, n) efficiencies of (r, n, metrics) values, the first m of which are costs."""
    with one_blas_thread():
        return np.stack([thetas(values[:, :m], values[:, m:], analysis) for values in drawn])


def relative_deviation(models: Sequence[Model], name: str) -> float:
    """Return the root mean square of a metric's deviations over its means, of the models that have repeats of it; 0 where none has."""
    metrics = [model.metrics[name] for model in models]
    known = [metric.std / metric.mean for metric in metrics if not metric.is_single]
    return float(np.sqrt(np.mean(np.square(known)))) if known else 0.0


def _draw(
    model: Model, names: Sequence[str], pooled: Mapping[str, float], count: int, rng: np.random.Generator
) -> Array:
    """Return (count, metrics) values of one model."""
    columns = []
    rows: dict[tuple[int, ...], NDArray[np.int64]] = {}  # which repeats are drawn, by the rows that they are from
    weights: dict[tuple[int, ...], Array] = {}  # or the (count, k) weights of few repeats
    for name in names:
        metric = model.metrics[name]
        values, k = np.array(metric.values), len(metric.values)
        if k >= FEW:
            own = values[rows.setdefault(metric.rows, rng.integers(0, k, count))]
            columns.append(np.maximum(own, SMALLEST_SHARE * metric.mean))
            continue
        if k > 1:  # normal weights of the repeats' deviations: metrics that share them keep their covariance
            deviation = metric.std / metric.mean
            shared = weights.setdefault(metric.rows, rng.standard_normal((count, k)))
            change = shared @ (values / metric.mean - 1) / np.sqrt(k - 1)
        else:
            deviation = pooled[name] if metric.is_single else metric.std / metric.mean
            change = deviation * rng.standard_normal(count)
        columns.append(metric.mean * np.exp(change - deviation**2 / 2))
    return np.stack(columns, axis=1)
