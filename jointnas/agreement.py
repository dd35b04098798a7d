"""How far predicted accuracies are from those that trainings gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WIDTH = 2.0  # standard deviations on either side of a prediction, within which 95 % of accuracies should lie


@dataclass(frozen=True)
class Agreement:
    """Predictions beside trainings: their count, the mean and the mean absolute difference, the share that lies within `WIDTH`.

    bias: predicted less trained, above 0 where predictions were too high.
    """

    count: int
    bias: float
    error: float
    within: float

    @classmethod
    def of(cls, predicted: Sequence[float], std: Sequence[float], trained: Sequence[float]) -> Agreement:
        """Return how (n,) predictions with (n,) standard deviations agree with (n,) accuracies, one or more."""
        away = np.asarray(predicted, dtype=np.float64) - np.asarray(trained, dtype=np.float64)
        within = np.abs(away) <= WIDTH * np.asarray(std, dtype=np.float64)
        return cls(len(away), float(away.mean()), float(np.abs(away).mean()), float(within.mean()))
