"""A Gaussian process that learns which inputs matter: each group of inputs has a linear part of its own, and a length scale.

The covariance of two candidates is that of their trends, of each group's linear function, and a Matérn 5/2 of all inputs, each
measured in its group's length scale. Variances and length scales are the mode of their posterior; the prior on a length scale grows
with the number of groups, as Hvarfner, Hellsten & Nardi (ICML 2024) have it for inputs, so that a few dozen examples are explained by
few groups, and smoothly. Draws of whole functions follow Wilson et al. (JMLR 2021): random Fourier features, corrected at the examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

from jointnas.cores import available_cores

LENGTH = 0.0  # mean of a logarithmic length scale, to which half the logarithm of the groups' count is added
LENGTH_DEVIATION = 1.0
SLOPE = (-2.0, 1.5)  # mean and deviation of the logarithmic variance of a group's linear function
AMPLITUDE = (-1.0, 1.5)  # of the Matérn function's
NOISE = (-1.0, 1.5)  # of the noise's
KNOWN_DEVIATION = 1.0  # of each about those of another process
FARTHEST = 5.0  # deviations from its mean that a hyperparameter is looked for
JITTER = 1e-8
ITERATIONS = 100
CACHED = 256  # rows whose distances are computed at once, so that they stay in the processor's cache
WAVES = 1024  # random Fourier features of a draw
Array = NDArray[np.float64]
AnyArray = NDArray[np.floating[Any]]  # of single or double precision
Groups = NDArray[np.int64]
"""The (d,) number of each input's group, from 0 on."""


class Examples(NamedTuple):
    """What a process is fitted to: (n, d) standardised inputs, (n, q) trends whose weights have variance 1, (n,) targets."""

    x: Array
    trend: Array
    y: Array


@dataclass(frozen=True)
class Hyperparameters:
    """Logarithms: (g,) variances of the groups' linear functions, (g,) length scales, variances of Matérn and noise."""

    slopes: Array
    lengths: Array
    amplitude: float
    noise: float

    def to_vector(self) -> Array:
        """Return them as one (2 g + 2,) vector."""
        return np.array([*self.slopes, *self.lengths, self.amplitude, self.noise])

    @classmethod
    def expected(cls, g: int) -> Hyperparameters:
        """Return the means of their prior for g groups."""
        lengths = np.full(g, LENGTH + 0.5 * np.log(max(1, g)))
        return cls(np.full(g, SLOPE[0]), lengths, AMPLITUDE[0], NOISE[0])

    @classmethod
    def from_vector(cls, vector: Array) -> Hyperparameters:
        """Return what `to_vector` gave."""
        slopes, lengths = np.split(vector[:-2], 2)
        return cls(slopes, lengths, float(vector[-2]), float(vector[-1]))

    def scales(self, groups: Groups) -> tuple[Array, Array]:
        """Return what (n, d) inputs are multiplied by for the linear function and for the Matérn one: (d,) each."""
        share = 1 / np.bincount(groups)[groups]
        return np.sqrt(share * np.exp(self.slopes)[groups]), np.sqrt(share) * np.exp(-self.lengths)[groups]


class Process:
    """A process conditioned on n examples, of whose d inputs each is in a group."""

    def __init__(self, examples: Examples, groups: Groups, hyperparameters: Hyperparameters) -> None:
        self.hyperparameters = hyperparameters
        self._linear, self._smooth = hyperparameters.scales(groups)
        self._examples = examples
        self._x, self._straight = examples.x * self._smooth, self._slopes(examples.x, examples.trend)
        covariance = self._covariance(examples.x, examples.trend)
        covariance[np.diag_indices(len(covariance))] += self.noise
        self._factor = np.linalg.cholesky(covariance)
        self._weights = cho_solve((self._factor, True), examples.y)

    @property
    def _amplitude(self) -> float:
        return float(np.exp(self.hyperparameters.amplitude))

    @property
    def noise(self) -> float:
        """The variance of a training about what is predicted of it."""
        return float(np.exp(self.hyperparameters.noise)) + JITTER

    def _slopes(self, x: Array, trend: Array) -> Array:
        """Return (m, d + q) inputs and trends whose weights have variance 1."""
        return np.concatenate([x * self._linear, trend], axis=1)

    def _covariance(self, x: Array, trend: Array) -> Array:
        smooth = self._amplitude * _matern(_squared_distances(x * self._smooth, self._x))
        return smooth + self._slopes(x, trend) @ self._straight.T

    def misfits(self, targets: Array) -> Array:
        """Return −2 log of the (q,) likelihoods, up to a constant, of (n, q) targets in place of its own."""
        return np.asarray((solve_triangular(self._factor, targets, lower=True) ** 2).sum(axis=0))

    def mean(self, x: Array, trend: Array) -> Array:
        """Return the (m,) means at (m, d) inputs with (m, q) trends, to six digits or so."""
        scaled, own, weights = (a.astype(np.float32) for a in (x * self._smooth, self._x, self._weights))
        smooth = np.empty(len(x), dtype=np.float32)

        def fill(part: slice) -> None:
            smooth[part] = _matern(_squared_distances(scaled[part], own)) @ weights

        _by_parts(fill, len(x))
        return np.asarray(self._amplitude * smooth + self._slopes(x, trend) @ (self._straight.T @ self._weights))

    def predict(self, x: Array, trend: Array) -> tuple[Array, Array]:
        """Return the (m,) means and standard deviations, the noise left out."""
        mean, variance = np.empty(len(x)), self._amplitude + (self._slopes(x, trend) ** 2).sum(axis=1)

        def fill(part: slice) -> None:
            covariance = self._covariance(x[part], trend[part])
            mean[part] = covariance @ self._weights
            variance[part] -= (solve_triangular(self._factor, covariance.T, lower=True) ** 2).sum(axis=0)

        _by_parts(fill, len(x))
        return mean, np.sqrt(np.maximum(variance, 0))

    def draw(self, x: Array, trend: Array, count: int, seed: Sequence[int]) -> Array:
        """Return (count, m) values of functions drawn from the process; the same seed draws the same functions."""
        rng = np.random.default_rng(seed)
        degrees = 5  # of freedom: the spectrum of Matérn 5/2
        waves = rng.standard_normal((x.shape[1], WAVES)) / np.sqrt(rng.chisquare(degrees, WAVES) / degrees)
        phases = rng.uniform(0, 2 * np.pi, WAVES)
        heights = rng.standard_normal((WAVES, count)) * np.sqrt(2 * self._amplitude / WAVES)
        slopes = rng.standard_normal((self._straight.shape[1], count))
        noise = rng.standard_normal((len(self._x), count)) * np.sqrt(self.noise)

        def free(x: Array, trend: Array) -> Array:
            return np.asarray(np.cos((x * self._smooth) @ waves + phases) @ heights + self._slopes(x, trend) @ slopes)

        seen = self._examples
        weights = cho_solve((self._factor, True), seen.y[:, None] - free(seen.x, seen.trend) - noise)
        drawn = np.empty((count, len(x)))

        def fill(part: slice) -> None:
            drawn[:, part] = (free(x[part], trend[part]) + self._covariance(x[part], trend[part]) @ weights).T

        _by_parts(fill, len(x))
        return drawn


def find_hyperparameters(examples: Examples, groups: Groups, known: Hyperparameters | None = None) -> Hyperparameters:
    """Return the mode of the posterior.

    known: what is expected, such as those of another process; by default little is.
    """
    g = int(groups.max()) + 1
    means = (known or Hyperparameters.expected(g)).to_vector()
    deviations = np.array([*np.full(g, SLOPE[1]), *np.full(g, LENGTH_DEVIATION), AMPLITUDE[1], NOISE[1]])
    if known:
        deviations = np.minimum(deviations, KNOWN_DEVIATION)

    def loss(vector: Array) -> tuple[float, Array]:
        value, gradient = negative_log_likelihood(examples, groups, Hyperparameters.from_vector(vector))
        away = (vector - means) / deviations
        return value + 0.5 * float(away @ away), gradient + away / deviations

    bounds = [(m - FARTHEST * s, m + FARTHEST * s) for m, s in zip(means, deviations, strict=True)]
    found = minimize(loss, means, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": ITERATIONS})
    return Hyperparameters.from_vector(found.x)


def negative_log_likelihood(
    examples: Examples, groups: Groups, hyperparameters: Hyperparameters
) -> tuple[float, Array]:
    """Return −log p(y | x) up to a constant, and its gradient by the vector of hyperparameters."""
    x, trend, y = examples
    n = len(x)
    by_slope, by_length = hyperparameters.scales(groups)
    linear, scaled = x * by_slope, x * by_length
    squares = _squared_distances(scaled, scaled)
    amplitude, noise = np.exp(hyperparameters.amplitude), np.exp(hyperparameters.noise)
    smooth = amplitude * _matern(squares)
    factor = cho_factor(smooth + linear @ linear.T + trend @ trend.T + (noise + JITTER) * np.eye(n), lower=True)
    weights = cho_solve(factor, y)
    value = 0.5 * float(y @ weights) + float(np.log(np.diag(factor[0])).sum())
    outer = 0.5 * (cho_solve(factor, np.eye(n)) - np.outer(weights, weights))
    by_square = outer * amplitude * _matern_slope(squares)  # of the loss by each squared distance
    slopes = np.bincount(groups, ((outer @ linear) * linear).sum(axis=0))
    lengths = -4 * (by_square.sum(axis=1) @ scaled**2 - ((by_square @ scaled) * scaled).sum(axis=0))
    return value, np.array([*slopes, *np.bincount(groups, lengths), (outer * smooth).sum(), noise * np.trace(outer)])


def _by_parts(fill: Callable[[slice], None], n: int) -> None:
    """Compute n rows in slices, on every core: NumPy's loops over them leave Python free."""
    parts = [slice(start, start + CACHED) for start in range(0, n, CACHED)]
    if len(parts) < 2:
        for part in parts:
            fill(part)
        return
    with ThreadPoolExecutor(available_cores()) as threads:
        list(threads.map(fill, parts))


def _squared_distances(a: AnyArray, b: AnyArray) -> AnyArray:
    squares = (-2 * a) @ b.T
    squares += (a**2).sum(axis=1)[:, None]
    squares += (b**2).sum(axis=1)
    return np.maximum(squares, 0, out=squares)


def _matern(squares: AnyArray) -> AnyArray:
    """Return Matérn 5/2 of squared distances: (1 + r + r²/3) exp(−r), r = √(5 · square); in place of as much as can be."""
    r = np.sqrt(squares)
    r *= 5**0.5
    risen = squares * (5 / 3)
    risen += r
    risen += 1
    np.negative(r, out=r)
    risen *= np.exp(r, out=r)
    return risen


def _matern_slope(squares: AnyArray) -> Array:
    """Return its derivative by the squared distance."""
    r = np.sqrt(5 * squares)
    return np.asarray(-5 / 6 * (1 + r) * np.exp(-r))
