"""The target transform: a predictor is fitted to standardised log odds of an accuracy's share of the attainable accuracy.

In log odds the effects of knobs add up, and each has less effect near 0 and near 1. Where images and time are few no candidate comes near
1: effects saturate at a lower level, which is inferred from the accuracies. Otherwise the best of a large space would be predicted
the sum of all positive effects. This is a warp of the targets that is learned by their likelihood (Snelson, Rasmussen & Ghahramani, NIPS
2003).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, softmax

EDGE = 0.005  # shares are clipped this far inside (0, 1), or half as far as the share nearest to either end
SMALLEST_EDGE = 1e-9
SMALLEST_SPREAD = 1e-6
PRIOR_SPREAD_WEIGHT = 8  # accuracies that the spread of a prior counts for
LEVELS = 64  # of the attainable accuracy, between the best accuracy and 1
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the attainable accuracy, over which predictions are averaged
QUADRATURE_NODES = 9
Array = NDArray[np.float64]


@dataclass(frozen=True)
class TargetTransform:
    """Maps accuracies to scores and back.

    attainable: the upper limit of accuracies, in (0, 1]; None where some are outside [0, 1], and scores are linear in accuracies.
    """

    attainable: float | None = 1.0
    edge: float = EDGE
    centre: float = 0.0
    spread: float = 1.0

    @classmethod
    def fit(cls, accuracies: Array, level: float = 1.0, prior: TargetTransform | None = None) -> TargetTransform:
        """Return the transform under which (n,) accuracies have mean 0 and deviation 1; `level` is the limit of those in [0, 1].

        prior: of an earlier campaign; its spread is averaged with theirs where all are in [0, 1]. A first batch that a prior chose holds
        candidates more alike than those of the space: its own spread is too small.
        """
        bounded = is_bounded(accuracies)
        inside = np.minimum(accuracies / level, 1 - accuracies / level)
        nearest = float(inside[inside > 0].min(initial=1.0))
        transform = cls(level if bounded else None, float(np.clip(nearest / 2, SMALLEST_EDGE, EDGE)))
        scores = transform.scores(accuracies)
        variance = float(scores.var())
        if prior is not None and bounded and prior.attainable is not None:  # only log odds share a unit
            variance = float(np.average([variance, prior.spread**2], weights=[accuracies.size, PRIOR_SPREAD_WEIGHT]))
        return replace(transform, centre=float(scores.mean()), spread=max(float(np.sqrt(variance)), SMALLEST_SPREAD))

    def scores(self, accuracies: Array) -> Array:
        """Return the (n,) scores of accuracies."""
        raw = accuracies if self.attainable is None else logit(self._shares(accuracies))
        return np.asarray((raw - self.centre) / self.spread, dtype=np.float64)

    def accuracies(self, scores: Array) -> Array:
        """Return the accuracies of scores of any shape."""
        raw = self.centre + self.spread * scores
        return raw if self.attainable is None else np.asarray(self.attainable * expit(raw))

    def expected(self, scores: Array, deviations: Array) -> tuple[Array, Array]:
        """Return the (n,) means and standard deviations of the accuracies whose scores are normal.

        By Gauss–Hermite quadrature: near an end the mean of an uncertain prediction is not the transform of its mean.
        """
        if self.attainable is None:
            return self.accuracies(scores), self.spread * deviations
        mean, square = np.zeros_like(scores), np.zeros_like(scores)
        for node, weight in zip(*np.polynomial.hermite.hermgauss(QUADRATURE_NODES), strict=True):
            at_node = self.accuracies(scores + np.sqrt(2) * node * deviations)
            mean += weight / np.sqrt(np.pi) * at_node
            square += weight / np.sqrt(np.pi) * at_node**2
        return mean, np.sqrt(np.maximum(square - mean**2, 0))

    def slopes(self, accuracies: Array) -> Array:
        """Return the (n,) derivatives of the scores with respect to the accuracies. Near the attainable accuracy they are large."""
        if self.attainable is None:
            return np.full(len(accuracies), 1 / self.spread)
        shares = self._shares(accuracies)
        return np.asarray(1 / (self.spread * self.attainable * shares * (1 - shares)))

    def log_jacobian(self, accuracies: Array) -> float:
        """Return the logarithm of the Jacobian of scores by accuracies in [0, 1]."""
        shares = self._shares(accuracies)
        inverse_slopes = np.log(self.spread * accuracies.clip(SMALLEST_EDGE) * (1 - shares))
        return -float(inverse_slopes.sum())

    def _shares(self, accuracies: Array) -> Array:
        level = 1.0 if self.attainable is None else self.attainable
        return np.asarray((accuracies / level).clip(self.edge, 1 - self.edge))


def is_bounded(accuracies: Array) -> bool:
    """Return whether all accuracies lie in [0, 1]."""
    return bool((accuracies >= 0).all() and (accuracies <= 1).all())


@dataclass(frozen=True)
class TransformPosterior:
    """The posterior of the target transform, whose attainable accuracy is uncertain: its mean, and equally probable quantiles.

    levels: the attainable accuracy of the mean, then of the quantiles. Accuracies outside [0, 1] have one transform.
    """

    levels: tuple[float, ...]
    mean: TargetTransform
    quantiles: tuple[TargetTransform, ...]

    @classmethod
    def fit(
        cls, accuracies: Array, levels: Sequence[float] = (1.0,), prior: TargetTransform | None = None
    ) -> TransformPosterior:
        """Return the transforms of (n,) accuracies at these levels. Raises `ValueError` for levels below an accuracy or above 1.

        prior: as in `TargetTransform.fit`.
        """
        lowest = max(float(accuracies.max(initial=0.0)), SMALLEST_EDGE) if is_bounded(accuracies) else 0.0
        if not all(min(lowest, 1.0) <= level <= 1 for level in levels):
            raise ValueError("attainable accuracies below an accuracy or above 1")
        mean, *quantiles = (TargetTransform.fit(accuracies, level, prior) for level in levels)
        return cls(tuple(levels), mean, tuple(quantiles) or (mean,))

    @classmethod
    def infer(
        cls,
        accuracies: Array,
        rows: NDArray[np.int64],
        deviances: Callable[[Array], Array],
        prior: TargetTransform | None = None,
    ) -> TransformPosterior:
        """Return the posterior given (n,) accuracies in [0, 1], under a uniform prior of the level from the best of them to 1.

        rows: the (m,) accuracies that are evidence. deviances: a function from their (m, q) scores to (q,) −2 log likelihoods, up to a
        constant. prior: as in `TargetTransform.fit`.
        """
        best = float(accuracies.max())
        if 1 - best < SMALLEST_EDGE:
            return cls.fit(accuracies, prior=prior)
        levels = best + (1 - best) * (np.arange(LEVELS) + 0.5) / LEVELS
        transforms = [TargetTransform.fit(accuracies, float(level), prior) for level in levels]
        deviance = deviances(np.stack([t.scores(accuracies[rows]) for t in transforms], axis=1))
        probabilities = softmax([t.log_jacobian(accuracies[rows]) for t in transforms] - deviance / 2)
        quantiles = np.interp(QUANTILES, np.cumsum(probabilities) - probabilities / 2, levels)
        return cls.fit(accuracies, [float(probabilities @ levels), *quantiles.tolist()], prior)

    def expected(self, scores: Array, deviations: Array) -> tuple[Array, Array]:
        """Return the (n,) means and standard deviations of the accuracies whose scores are normal, over all quantiles."""
        means, spreads = np.array([t.expected(scores, deviations) for t in self.quantiles]).swapaxes(0, 1)
        return means.mean(axis=0), np.sqrt((spreads**2).mean(axis=0) + means.var(axis=0))

    def sampled(self, scores: Array) -> Array:
        """Return the (m, n) accuracies of m rows of scores, each row under one of the quantiles in turn."""
        return np.array([self.quantiles[i % len(self.quantiles)].accuracies(row) for i, row in enumerate(scores)])
