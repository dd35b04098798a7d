"""What is fitted in place of accuracies: the log odds of their share of what is attainable here, standardised.

In log odds effects add up, and each counts for less near 0 and near 1. Where images and time are few no candidate comes near 1: effects
fade out below, at a level that the accuracies themselves tell. Without it the best of a large space would be promised the sum of
all that ever helped. It is a warp of the targets that is learned by their likelihood (Snelson, Rasmussen & Ghahramani, NIPS 2003).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, softmax

EDGE = 0.005  # shares are taken to lie as far inside (0, 1), or half as far as the one nearest to either end
SMALLEST_EDGE = 1e-9
SMALLEST_SPREAD = 1e-6
EARLIER_COUNT = 8  # accuracies that the spread of an earlier campaign counts for
LEVELS = 64  # of what may be attainable, between the best accuracy and 1
PROBABLE = (0.1, 0.3, 0.5, 0.7, 0.9)  # quantiles of what is attainable, which predictions are averaged over
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
    def of(cls, accuracies: Array, level: float = 1.0, earlier: AccuracyScale | None = None) -> AccuracyScale:
        """Return the scale on which (n,) accuracies have mean 0 and deviation 1; those in [0, 1] come near to the level.

        earlier: that of an earlier campaign, whose spread is averaged with theirs, where all are in [0, 1]: a first batch that its
        predictor chose is of candidates more alike than those of the space, so that its own spread says too little.
        """
        bounded = is_bounded(accuracies)
        inside = np.minimum(accuracies / level, 1 - accuracies / level)
        nearest = float(inside[inside > 0].min(initial=1.0))
        scale = cls(level if bounded else None, float(np.clip(nearest / 2, SMALLEST_EDGE, EDGE)))
        scores = scale.scores(accuracies)
        variance = float(scores.var())
        if earlier is not None and bounded and earlier.attainable is not None:  # log odds alone have one unit
            variance = float(np.average([variance, earlier.spread**2], weights=[accuracies.size, EARLIER_COUNT]))
        return replace(scale, centre=float(scores.mean()), spread=max(float(np.sqrt(variance)), SMALLEST_SPREAD))

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


@dataclass(frozen=True)
class Belief:
    """What accuracies come near to is never quite known: the scale that scores are on, and equally probable ones that they may mean.

    levels: what is attainable on that scale, then on the equally probable ones; of accuracies that are not in [0, 1] there is one scale.
    """

    levels: tuple[float, ...]
    scale: AccuracyScale
    probable: tuple[AccuracyScale, ...]

    @classmethod
    def of(cls, accuracies: Array, levels: Sequence[float] = (1.0,), earlier: AccuracyScale | None = None) -> Belief:
        """Return the scales of (n,) accuracies at these levels. Raises `ValueError` for levels that accuracies do not come near to.

        earlier: of an earlier campaign, as in `AccuracyScale.of`.
        """
        lowest = max(float(accuracies.max(initial=0.0)), SMALLEST_EDGE) if is_bounded(accuracies) else 0.0
        if not all(min(lowest, 1.0) <= level <= 1 for level in levels):
            raise ValueError("levels that accuracies do not come near to")
        scale, *others = (AccuracyScale.of(accuracies, level, earlier) for level in levels)
        return cls(tuple(levels), scale, tuple(others) or (scale,))

    @classmethod
    def learned(
        cls,
        accuracies: Array,
        rows: NDArray[np.int64],
        misfits: Callable[[Array], Array],
        earlier: AccuracyScale | None = None,
    ) -> Belief:
        """Return what (n,) accuracies in [0, 1] tell, all levels from the best of them to 1 being alike before: scores are on the mean one.

        rows: (m,) of the accuracies, which tell it. misfits: returns, for their (m, q) scores, −2 log of (q,) likelihoods up to a constant.
        earlier: of an earlier campaign, as in `AccuracyScale.of`.
        """
        best = float(accuracies.max())
        if 1 - best < SMALLEST_EDGE:
            return cls.of(accuracies, earlier=earlier)
        levels = best + (1 - best) * (np.arange(LEVELS) + 0.5) / LEVELS
        scales = [AccuracyScale.of(accuracies, float(level), earlier) for level in levels]
        misfit = misfits(np.stack([scale.scores(accuracies[rows]) for scale in scales], axis=1))
        probabilities = softmax([scale.log_slope(accuracies[rows]) for scale in scales] - misfit / 2)
        quantiles = np.interp(PROBABLE, np.cumsum(probabilities) - probabilities / 2, levels)
        return cls.of(accuracies, [float(probabilities @ levels), *quantiles.tolist()], earlier)

    def expected(self, scores: Array, deviations: Array) -> tuple[Array, Array]:
        """Return the (n,) means and standard deviations of the accuracies whose scores are normal, over all probable scales."""
        means, spreads = np.array([scale.expected(scores, deviations) for scale in self.probable]).swapaxes(0, 1)
        return means.mean(axis=0), np.sqrt((spreads**2).mean(axis=0) + means.var(axis=0))

    def drawn(self, scores: Array) -> Array:
        """Return (m, n) accuracies of m rows of scores, each on one of the probable scales in turn."""
        return np.array([self.probable[i % len(self.probable)].accuracies(row) for i, row in enumerate(scores)])
