"""What is fitted in place of accuracies: the log odds of their share of what is attainable here, standardised.

In log odds effects add up, and each counts for less near 0 and near 1. Where images and time are few no candidate comes near 1: effects
fade out below, at a level that the accuracies themselves tell. Without it the best of a large space would be promised the sum of
all that ever helped. It is a warp of the targets that is learned by their likelihood (Snelson, Rasmussen & Ghahramani, NIPS 2003).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, softmax

EDGE = 0.005  # shares are taken to lie as far inside (0, 1), or half as far as the accuracy nearest to either end
SMALLEST_SPREAD = 1e-6
LEVELS = 64  # of what may be attainable, between the best accuracy and 1
QUADRATURE_NODES = 9
Array = NDArray[np.float64]


@dataclass(frozen=True)
class AccuracyScale:
    """Brings accuracies to scores and back.

    attainable: what accuracies come near to but do not exceed, in (0, 1]; None where some are outside [0, 1], which are taken
    as they are.
    """

    attainable: float | None = 1.0
    edge: float = EDGE
    centre: float = 0.0
    spread: float = 1.0

    @classmethod
    def of(cls, accuracies: Array, attainable: float = 1.0) -> AccuracyScale:
        """Return the scale on which (n,) accuracies, of which none exceeds what is attainable, have mean 0 and deviation 1."""
        bounded = bool((accuracies >= 0).all() and (accuracies <= 1).all())
        inside = np.minimum(accuracies, 1 - accuracies)
        edge = min(EDGE, 0.5 * float(inside[inside > 0].min(initial=1.0)))
        scale = cls(attainable if bounded else None, edge)
        scores = scale.scores(accuracies)
        return replace(scale, centre=float(scores.mean()), spread=max(float(scores.std()), SMALLEST_SPREAD))

    def to_vector(self) -> Array:
        """Return it as one vector."""
        level = np.nan if self.attainable is None else self.attainable
        return np.array([level, self.edge, self.centre, self.spread])

    @classmethod
    def from_vector(cls, vector: Array) -> AccuracyScale:
        """Return what `to_vector` gave. Raises `ValueError`."""
        level, *others = vector.tolist()
        return cls(None if np.isnan(level) else level, *others)

    def scores(self, accuracies: Array) -> Array:
        """Return the (n,) scores of accuracies."""
        raw = accuracies if self.attainable is None else logit(self._shares(accuracies))
        return np.asarray((raw - self.centre) / self.spread, dtype=np.float64)

    def accuracies(self, scores: Array) -> Array:
        """Return the accuracies that have these scores, of any shape."""
        raw = self.centre + self.spread * scores
        return raw if self.attainable is None else np.asarray(self.attainable * expit(raw))

    def expected(self, scores: Array, deviations: Array) -> tuple[Array, Array]:
        """Return the (n,) means and standard deviations of the accuracies whose scores are normal.

        By Gauss–Hermite quadrature, so that an uncertain prediction near an end is neither as high nor as sure as its middle.
        """
        if self.attainable is None:
            return self.accuracies(scores), self.spread * deviations
        mean, square = np.zeros_like(scores), np.zeros_like(scores)
        for node, weight in zip(*np.polynomial.hermite.hermgauss(QUADRATURE_NODES), strict=True):
            at_node = self.accuracies(scores + np.sqrt(2) * node * deviations)
            mean += weight / np.sqrt(np.pi) * at_node
            square += weight / np.sqrt(np.pi) * at_node**2
        return mean, np.sqrt(np.maximum(square - mean**2, 0))

    def log_slope(self, accuracies: Array) -> float:
        """Return the sum of the logarithms of the slopes of scores by bounded accuracies."""
        shares = self._shares(accuracies)
        return float(-np.log(self.spread * (self.attainable or 1.0) * shares * (1 - shares)).sum())

    def _shares(self, accuracies: Array) -> Array:
        return np.asarray((accuracies / (self.attainable or 1.0)).clip(self.edge, 1 - self.edge))


def attainable(accuracies: Array, misfits: Callable[[Array], Array]) -> float:
    """Return what (n,) accuracies in [0, 1] seem to come near to: the posterior mean, all levels from the best of them to 1 being alike before.

    misfits: returns, for (n, q) scores, −2 log of their (q,) likelihoods up to a constant.
    """
    best = float(accuracies.max())
    levels = best + (1 - best) * (np.arange(LEVELS) + 0.5) / LEVELS
    scales = [AccuracyScale.of(accuracies, float(level)) for level in levels]
    misfit = misfits(np.stack([scale.scores(accuracies) for scale in scales], axis=1))
    likelihoods = [scale.log_slope(accuracies) for scale in scales] - misfit / 2
    return float(softmax(likelihoods) @ levels)
