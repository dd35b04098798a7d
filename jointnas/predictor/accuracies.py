"""The accuracies of trainings as predictors are fitted to them: the smoothed ones, which are less noisy, at the level of the accuracies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit

from jointnas.training.observation import Observation

CERTAIN = 1e-4  # shares nearer to 0 and to 1 have the log odds of this one
SLOPE_WEIGHT, TYPICAL_SPREAD, SLOPES = 8, 0.2, (0.5, 2.0)
"""Of accuracies by smoothed ones, in log odds: the trainings, of this deviation, that a slope of 1 counts for, and its limits."""
HIGHEST_LEVEL = 50.0  # in log odds: beyond all differences of shares that are cut off at `CERTAIN`
Array = NDArray[np.float64]


def filled_accuracies(observations: Sequence[Observation]) -> Array:
    """Return the (n,) accuracies of observations; a failed training gets the lowest of the others."""
    return _filled(_numbers(o.accuracy for o in observations))


def learned_accuracies(observations: Sequence[Observation]) -> tuple[Array, NDArray[np.bool_]]:
    """Return the (n,) accuracies that a model is fitted to, and (n,) booleans: which of them are smoothed, and so less noisy.

    Where a training has a smoothed accuracy, that is the accuracy expected of it: by a line in log odds, whose level keeps the mean accuracy
    of all trainings that have both. Its slope is shrunk towards 1, which counts as `SLOPE_WEIGHT` trainings. A failed training gets the lowest
    accuracy.
    """
    accuracies, read = _numbers(o.accuracy for o in observations), _numbers(o.smoothed_accuracy for o in observations)
    smoothed = _is_share(accuracies) & _is_share(read)
    if smoothed.any():
        x, y = _log_odds(read[smoothed]), _log_odds(accuracies[smoothed])
        prior = SLOPE_WEIGHT * TYPICAL_SPREAD**2
        slope = ((x - x.mean()) @ (y - y.mean()) + prior) / (len(x) * x.var() + prior)
        scaled = np.clip(slope, *SLOPES) * x
        mean = np.clip(accuracies[smoothed].mean(), CERTAIN, 1 - CERTAIN)
        level = brentq(lambda level: expit(scaled + level).mean() - mean, -HIGHEST_LEVEL, HIGHEST_LEVEL)
        accuracies[smoothed] = expit(scaled + level)
    return _filled(accuracies), smoothed


def _numbers(values: Iterable[float | None]) -> Array:
    """Return (n,) values, NaN for None."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _filled(values: Array) -> Array:
    """Return (n,) values with the lowest one for NaN."""
    return np.where(np.isnan(values), np.nanmin(values), values) if len(values) else values


def _is_share(values: Array) -> NDArray[np.bool_]:
    return (values >= 0) & (values <= 1)


def _log_odds(shares: ArrayLike) -> Array:
    return np.asarray(logit(np.clip(shares, CERTAIN, 1 - CERTAIN)))
