"""Gaussian-process regression over groups of features: each group has a linear function and a length scale of its own.

The covariance of two candidates is the sum of that of their trends, of each group's linear function, and a Matérn 5/2 of all features,
each divided by its group's length scale. One more variance is for what is specific to one candidate: its trainings change its own
prediction more than that of its neighbours. Variances and length scales are the mode of their posterior (MAP); the prior on a length scale
grows with the number of groups, as Hvarfner, Hellsten & Nardi (ICML 2024) propose for inputs, so that a few dozen examples are explained
by few groups, and smoothly. Functions are sampled from the posterior as in Wilson et al. (JMLR 2021): random Fourier features, corrected
at the examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

from jointnas.cores import for_slices

LENGTH_MEAN = 0.0  # of a logarithmic length scale; half the logarithm of the number of groups is added
LENGTH_DEVIATION = 1.0
SLOPE = (-2.0, 1.5)  # mean and deviation of the logarithmic variance of a group's linear function
KNOB_SLOPE = -5.0  # that mean where each knob is a group: effects of a few ordered values are seldom straight
AMPLITUDE = (-1.0, 1.5)  # of the Matérn function's
EFFECT = (-1.5, 1.0)  # of a candidate's own effect
NOISE = (-3.0, 1.0)  # of one training about its candidate's mean, beside the known noise
TRANSFER_DEVIATION = 0.5  # of each hyperparameter about that of another process
TRANSFER_SCALE = 1.0  # the deviation of a common logarithmic factor of all its variances but the noise
SEARCH_RADIUS = 5.0  # prior deviations about the prior mean, within which the mode is searched
JITTER = 1e-8
KEY_DECIMALS = 8  # of standardised features that are equal
ITERATIONS = 100
CHUNK_ROWS = 256  # rows whose distances are computed at once, so that they stay in the processor's cache
FOURIER_FEATURES = 1024
Array = NDArray[np.float64]
AnyArray = NDArray[np.floating[Any]]  # of single or double precision
Groups = NDArray[np.int64]
"""The (d,) group number of each feature, from 0 on."""


@dataclass(frozen=True)
class Examples:
    """Training data: (n, d) standardised features, (n, q) trends whose weights have variance 1, (n,) targets.

    trainings: how many trainings each target is the mean of. Rows with equal features are of one candidate. relevance: (d,) factors of
    the variances of the features' linear functions, within their groups. known_noise: (n,) variances of one training to which the noise
    hyperparameter is added.
    """

    x: Array
    trend: Array
    y: Array
    trainings: Array | float = 1.0
    relevance: Array | float = 1.0
    known_noise: Array | float = 0.0

    @cached_property
    def same(self) -> NDArray[np.bool_]:
        """Which (n, n) pairs are of one candidate."""
        candidate = np.unique(_keys(self.x), axis=0, return_inverse=True)[1].ravel()
        return np.asarray(candidate[:, None] == candidate)


@dataclass(frozen=True)
class Hyperparameters:
    """Logarithms: (g,) variances of the groups' linear functions, (g,) length scales, variances of Matérn, effects and noise."""

    slopes: Array
    lengths: Array
    amplitude: float
    effect: float
    noise: float

    def to_vector(self) -> Array:
        """Return them as one (2 g + 3,) vector."""
        return np.array([*self.slopes, *self.lengths, self.amplitude, self.effect, self.noise])

    @classmethod
    def prior_mean(cls, g: int, slope: float = SLOPE[0]) -> Hyperparameters:
        """Return the prior means for g groups; slope: of their linear functions."""
        lengths = np.full(g, LENGTH_MEAN + 0.5 * np.log(max(1, g)))
        return cls(np.full(g, slope), lengths, AMPLITUDE[0], EFFECT[0], NOISE[0])

    @classmethod
    def from_vector(cls, vector: Array) -> Hyperparameters:
        """Return the hyperparameters of a vector that `to_vector` returned."""
        slopes, lengths = np.split(vector[:-3], 2)
        return cls(slopes, lengths, *vector[-3:].tolist())

    def scales(self, groups: Groups) -> tuple[Array, Array]:
        """Return the factors of the features for the linear and for the Matérn covariance: (d,) each."""
        share = 1 / np.bincount(groups)[groups]
        return np.sqrt(share * np.exp(self.slopes)[groups]), np.sqrt(share) * np.exp(-self.lengths)[groups]


class GaussianProcess:
    """A Gaussian process conditioned on n examples, whose d features are each in one group."""

    def __init__(self, examples: Examples, groups: Groups, hyperparameters: Hyperparameters) -> None:
        self.hyperparameters = hyperparameters
        self._linear, self._smooth = hyperparameters.scales(groups)
        self._linear = self._linear * np.sqrt(examples.relevance)
        self._examples = examples
        self._x, self._train_basis = examples.x * self._smooth, self._basis(examples.x, examples.trend)
        covariance = self._covariance(examples.x, examples.trend)
        covariance[np.diag_indices(len(covariance))] += self._example_noise
        self._factor = np.linalg.cholesky(covariance)
        self._weights = cho_solve((self._factor, True), examples.y)

    @property
    def _amplitude(self) -> float:
        return float(np.exp(self.hyperparameters.amplitude))

    @property
    def _effect(self) -> float:
        return float(np.exp(self.hyperparameters.effect))

    @property
    def noise(self) -> float:
        """The variance of one training about its candidate's mean, beside the known noise of the examples."""
        return float(np.exp(self.hyperparameters.noise)) + JITTER

    @property
    def _example_noise(self) -> Array | float:
        """The (n,) variances of the targets about their candidates' means."""
        return (self.noise + self._examples.known_noise) / self._examples.trainings

    def _basis(self, x: Array, trend: Array) -> Array:
        """Return (m, d + q) features and trends whose weights have variance 1."""
        return np.concatenate([x * self._linear, trend], axis=1)

    def _covariance(self, x: Array, trend: Array) -> Array:
        smooth = self._amplitude * _matern(_squared_distances(x * self._smooth, self._x))
        covariance: Array = smooth + self._basis(x, trend) @ self._train_basis.T
        rows, examples = self._repeated(x)
        covariance[rows, examples] += self._effect
        return covariance

    @cached_property
    def _rows_by_features(self) -> dict[bytes, list[int]]:
        """The rows of the examples by their features."""
        rows: dict[bytes, list[int]] = {}
        for i, features in enumerate(_keys(self._examples.x)):
            rows.setdefault(features.tobytes(), []).append(i)
        return rows

    @cached_property
    def _key_column(self) -> int:
        """The feature in which most examples differ."""
        return int(np.argmax([len(np.unique(values)) for values in _keys(self._examples.x).T]))

    def _repeated(self, x: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the pairs of equal features: rows of (m, d) features, and rows of the examples."""
        if not self._examples.x.size:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        column = self._key_column
        possible = np.flatnonzero(np.isin(_keys(x[:, column]), _keys(self._examples.x[:, column])))
        keys = _keys(x[possible])
        found = [(i, self._rows_by_features.get(key.tobytes(), ())) for i, key in zip(possible, keys, strict=True)]
        pairs = [(i, j) for i, examples in found for j in examples]
        rows, examples = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        return rows, examples

    def deviances(self, targets: Array) -> Array:
        """Return −2 log p, (q,) and up to a constant, of (n, q) targets in place of those of the examples."""
        return np.asarray((solve_triangular(self._factor, targets, lower=True) ** 2).sum(axis=0))

    def mean(self, x: Array, trend: Array) -> Array:
        """Return the (m,) posterior means at (m, d) features with (m, q) trends, in single precision."""
        scaled, own, weights = (a.astype(np.float32) for a in (x * self._smooth, self._x, self._weights))
        smooth = np.empty(len(x), dtype=np.float32)

        def fill(part: slice) -> None:
            smooth[part] = _matern(_squared_distances(scaled[part], own)) @ weights

        for_slices(fill, len(x), CHUNK_ROWS)
        mean = np.asarray(self._amplitude * smooth + self._basis(x, trend) @ (self._train_basis.T @ self._weights))
        rows, examples = self._repeated(x)
        np.add.at(mean, rows, self._effect * self._weights[examples])
        return mean

    def predict(self, x: Array, trend: Array) -> tuple[Array, Array]:
        """Return the (m,) posterior means and standard deviations of the candidates' means, without the noise."""
        mean, variance = np.empty(len(x)), self._amplitude + (self._basis(x, trend) ** 2).sum(axis=1) + self._effect

        def fill(part: slice) -> None:
            covariance = self._covariance(x[part], trend[part])
            mean[part] = covariance @ self._weights
            variance[part] -= (solve_triangular(self._factor, covariance.T, lower=True) ** 2).sum(axis=0)

        for_slices(fill, len(x), CHUNK_ROWS)
        return mean, np.sqrt(np.maximum(variance, 0))

    def sample(self, x: Array, trend: Array, count: int, seed: Sequence[int]) -> Array:
        """Return (count, m) values of functions sampled from the posterior; a seed always samples the same functions.

        The effects of candidates without an example are left out: they say nothing about which is better.
        """
        rng = np.random.default_rng(seed)
        degrees = 5  # of freedom: the spectrum of Matérn 5/2
        frequencies = rng.standard_normal((x.shape[1], FOURIER_FEATURES)) / np.sqrt(
            rng.chisquare(degrees, FOURIER_FEATURES) / degrees
        )
        phases = rng.uniform(0, 2 * np.pi, FOURIER_FEATURES)
        amplitudes = rng.standard_normal((FOURIER_FEATURES, count)) * np.sqrt(2 * self._amplitude / FOURIER_FEATURES)
        slopes = rng.standard_normal((self._train_basis.shape[1], count))
        train = self._examples
        noise = rng.standard_normal((len(self._x), count)) * np.sqrt(np.reshape(self._example_noise, (-1, 1)))
        effects = rng.standard_normal((len(self._x), count)) * np.sqrt(self._effect)
        effects = effects[[self._rows_by_features[features.tobytes()][0] for features in _keys(train.x)]]

        def prior_functions(x: Array, trend: Array) -> Array:
            return np.asarray(
                np.cos((x * self._smooth) @ frequencies + phases) @ amplitudes + self._basis(x, trend) @ slopes
            )

        at_examples = prior_functions(train.x, train.trend) + effects
        weights = cho_solve((self._factor, True), train.y[:, None] - at_examples - noise)
        values = np.empty((count, len(x)))

        def fill(part: slice) -> None:
            values[:, part] = (
                prior_functions(x[part], trend[part]) + self._covariance(x[part], trend[part]) @ weights
            ).T

        for_slices(fill, len(x), CHUNK_ROWS)
        rows, examples = self._repeated(x)
        values[:, rows] += effects[examples].T
        return values


def fit_hyperparameters(
    examples: Examples, groups: Groups, prior_mean: Hyperparameters | None = None, slope: float = SLOPE[0]
) -> Hyperparameters:
    """Return the mode of the hyperparameters' posterior.

    prior_mean: by default `Hyperparameters.prior_mean` with this slope; those of another process narrow the prior to `TRANSFER_DEVIATION`,
    and to `TRANSFER_SCALE` for a common factor: a few trainings tell how large all effects are, but not each.
    """
    g = int(groups.max()) + 1
    means = (prior_mean or Hyperparameters.prior_mean(g, slope)).to_vector()
    own = np.array([*np.full(g, SLOPE[1]), *np.full(g, LENGTH_DEVIATION), AMPLITUDE[1], EFFECT[1], NOISE[1]])
    common = np.zeros_like(own)
    if prior_mean:
        own = np.minimum(own, TRANSFER_DEVIATION)
        common = TRANSFER_SCALE * Hyperparameters(np.ones(g), np.zeros(g), 1.0, 1.0, 0.0).to_vector()
    precision = np.linalg.inv(np.diag(own**2) + np.outer(common, common))

    def loss(vector: Array) -> tuple[float, Array]:
        value, gradient, _ = negative_log_likelihood(examples, groups, Hyperparameters.from_vector(vector))
        pull = precision @ (vector - means)
        return value + 0.5 * float(pull @ (vector - means)), gradient + pull

    radii = SEARCH_RADIUS * np.hypot(own, common)
    bounds = list(zip(means - radii, means + radii, strict=True))
    optimum = minimize(loss, means, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": ITERATIONS})
    return Hyperparameters.from_vector(optimum.x)


def negative_log_likelihood(
    examples: Examples, groups: Groups, hyperparameters: Hyperparameters
) -> tuple[float, Array, Array]:
    """Return −log p(y | x) up to a constant, its gradient by the vector of hyperparameters, and that by the (d,) logarithms of relevance."""
    x, trend, y, trainings = examples.x, examples.trend, examples.y, examples.trainings
    n = len(x)
    by_slope, by_length = hyperparameters.scales(groups)
    linear, scaled = x * by_slope * np.sqrt(examples.relevance), x * by_length
    squares = _squared_distances(scaled, scaled)
    amplitude, noise = np.exp(hyperparameters.amplitude), np.exp(hyperparameters.noise)
    smooth, effect = amplitude * _matern(squares), np.exp(hyperparameters.effect) * examples.same
    shared = smooth + effect + linear @ linear.T + trend @ trend.T
    shared[np.diag_indices(n)] += (noise + examples.known_noise + JITTER) / trainings
    factor = cho_factor(shared, lower=True)
    weights = cho_solve(factor, y)
    value = 0.5 * float(y @ weights) + float(np.log(np.diag(factor[0])).sum())
    outer = 0.5 * (cho_solve(factor, np.eye(n)) - np.outer(weights, weights))
    by_square = outer * amplitude * _matern_slope(squares)  # of the loss by each squared distance
    by_relevance = ((outer @ linear) * linear).sum(axis=0)
    lengths = -4 * (by_square.sum(axis=1) @ scaled**2 - ((by_square @ scaled) * scaled).sum(axis=0))
    by_variances = (outer * smooth).sum(), (outer * effect).sum(), noise * (np.diag(outer) / trainings).sum()
    slopes = np.bincount(groups, by_relevance)
    return value, np.array([*slopes, *np.bincount(groups, lengths), *by_variances]), by_relevance


def _keys(features: Array) -> Array:
    """Return features by which equal candidates are found: sums of many features may differ in their last bits between two arrays."""
    return np.asarray(features.round(KEY_DECIMALS) + 0.0)


def _squared_distances(a: AnyArray, b: AnyArray) -> AnyArray:
    squares = (-2 * a) @ b.T
    squares += (a**2).sum(axis=1)[:, None]
    squares += (b**2).sum(axis=1)
    return np.maximum(squares, 0, out=squares)


def _matern(squares: AnyArray) -> AnyArray:
    """Return Matérn 5/2 of squared distances: (1 + r + r²/3) exp(−r), r = √(5 · square); with few temporary arrays."""
    r = np.sqrt(squares)
    r *= 5**0.5
    covariance = squares * (5 / 3)
    covariance += r
    covariance += 1
    np.negative(r, out=r)
    covariance *= np.exp(r, out=r)
    return covariance


def _matern_slope(squares: AnyArray) -> Array:
    """Return the derivative of Matérn 5/2 by the squared distance."""
    r = np.sqrt(5 * squares)
    return np.asarray(-5 / 6 * (1 + r) * np.exp(-r))
