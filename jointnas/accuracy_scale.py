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

EDGE = 0.005  # shares are taken to lie as far inside (0, 1), or half as far as the one nearest to either end
SMALLEST_EDGE = 1e-9
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
    def of(cls, accuracies: Array, level: float = 1.0) -> AccuracyScale:
        """Return the scale on which (n,) accuracies have mean 0 and deviation 1; those in [0, 1] come near to the level."""
        bounded = is_bounded(accuracies)
        inside = np.minimum(accuracies / level, 1 - accuracies / level)
        nearest = float(inside[inside > 0].min(initial=1.0))
        scale = cls(level if bounded else None, float(np.clip(nearest / 2, SMALLEST_EDGE, EDGE)))
        scores = scale.scores(accuracies)
        return replace(scale, centre=float(scores.mean()), spread=max(float(scores.std()), SMALLEST_SPREAD))

    def to_vector(self) -> Array:
        """Return it as one vector."""
        level = np.nan if self.attainable is None else self.attainable
        return np.array([level, self.edge, self.centre, self.spread])

    @classmethod
    def from_vector(cls, vector: Array) -> AccuracyScale:
        """Return what `to_vector` gave. Raises `ValueError` for what it never gives."""
        level, edge, centre, spread = vector.tolist()
        known = np.isnan(level) or 0 < level <= 1
        if not (known and 0 < edge < 0.5 and np.isfinite(centre) and 0 < spread < np.inf):
            raise ValueError("a scale that is none")
        return cls(None if np.isnan(level) else level, edge, centre, spread)

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
        """Return the sum of the logarithms of the slopes of scores by accuracies in [0, 1]."""
        shares = self._shares(accuracies)
        slopes = accuracies.size * np.log(self.spread) + np.log(accuracies.clip(SMALLEST_EDGE) * (1 - shares)).sum()
        return -float(slopes)

    def _shares(self, accuracies: Array) -> Array:
        level = 1.0 if self.attainable is None else self.attainable
        return np.asarray((accuracies / level).clip(self.edge, 1 - self.edge))


def is_bounded(accuracies: Array) -> bool:
    """Return whether all accuracies lie in [0, 1]."""
    return bool((accuracies >= 0).all() and (accuracies <= 1).all())


def learned_level(accuracies: Array, rows: NDArray[np.int64], misfits: Callable[[Array], Array]) -> float:
    """Return what (n,) accuracies in [0, 1] seem to come near to: the posterior mean, all levels from the best of them to 1 being alike before.

    rows: (m,) of the accuracies, which tell it. misfits: returns, for their (m, q) scores, −2 log of (q,) likelihoods up to a constant.
    """
    best = float(accuracies.max())
    if 1 - best < SMALLEST_EDGE:
        return 1.0
    levels = best + (1 - best) * (np.arange(LEVELS) + 0.5) / LEVELS
    scales = [AccuracyScale.of(accuracies, float(level)) for level in levels]
    misfit = misfits(np.stack([scale.scores(accuracies[rows]) for scale in scales], axis=1))
    likelihoods = [scale.log_slope(accuracies[rows]) for scale in scales] - misfit / 2
    return float(softmax(likelihoods) @ levels)
