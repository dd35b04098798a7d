"""Cross-validation: how well a predictor ranks candidates that it was not fitted to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FOLDS = 5
MIN_CANDIDATES = 4
Array = NDArray[np.float64]
Rows = NDArray[np.int64]


def cross_validated_tau(
    features: Array, accuracies: Array, predict: Callable[[Rows, Rows], Array], seed: int
) -> float | None:
    """Return Kendall's τ between (n,) accuracies and what is predicted of each by a model that was not fitted to it.

    features: (n, d); equal rows are repeats of one candidate and share a fold. predict: fits a model to the first rows and returns the
    scores of the second. None for fewer than four candidates; 0 where all predictions are equal.
    """
    folds = candidate_folds(features, seed)
    if folds is None:
        return None
    scores = np.empty(len(accuracies))
    for fold in range(folds.max() + 1):
        held_out = np.flatnonzero(folds == fold)
        scores[held_out] = predict(np.flatnonzero(folds != fold), held_out)
    return rank_correlation(scores, accuracies)


def candidate_folds(features: Array, seed: int) -> Rows | None:
    """Return the fold of each of (n, d) features, equal rows in one; None for fewer than four candidates."""
    _, candidate = np.unique(features, axis=0, return_inverse=True)
    n = int(candidate.max(initial=-1)) + 1
    if n < MIN_CANDIDATES:
        return None
    return np.asarray((np.random.default_rng(seed).permutation(n) % min(FOLDS, n))[candidate.ravel()])


def rank_correlation(scores: Array, accuracies: Array) -> float:
    """Return Kendall's τ; 0 where all scores are equal."""
    from scipy.stats import kendalltau  # half a second, which most commands do without

    tau = float(kendalltau(scores, accuracies).statistic)
    return tau if np.isfinite(tau) else 0.0
