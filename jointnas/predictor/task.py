"""What a predictor reads of a campaign before its first training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jointnas.errors import PredictorError
from jointnas.space.knobs import Codes

Array = NDArray[np.float64]
SAMPLING_NOISE = 0.5
"""Variance between trainings of one candidate that is taken as known, as a share of the binomial variance p (1 − p) / n of an accuracy on n
validation images. Repeated trainings of 30 s and longer in the tables have 0.92 times that variance in the mean of 36 candidates, some much
less."""

SMOOTHED_SAMPLING_NOISE = 0.2
"""The same of smoothed accuracies: a rough figure, 0.4 times as much. `benchmarks.search.smoothed` measures the noise of both."""


@dataclass(frozen=True)
class TrainingImages:
    """What a predictor reads of the training images; None where unknown.

    mirror_symmetry: how much of a simple classifier's accuracy is left on mirrored images, from 0 to 1 (`jointnas.data.symmetry`).
    """

    count: int | None = None
    mirror_symmetry: float | None = None


UNKNOWN_IMAGES = TrainingImages()


@dataclass(frozen=True)
class Task:
    """The images, and the steps that the budget holds for some candidates whose steps were timed.

    codes: (m, knobs) of the predictor's space. steps: (m,), positive. val_images: how many validation images accuracies are measured on,
    None where unknown. Raises `PredictorError` where only one of codes and steps is given.
    """

    images: TrainingImages = UNKNOWN_IMAGES
    codes: Codes | None = None
    steps: Array | None = None
    val_images: int | None = None

    def __post_init__(self) -> None:
        rows = [0 if values is None else len(values) for values in (self.codes, self.steps)]
        if rows[0] != rows[1]:
            raise PredictorError(
                f"got {rows[0]} timed candidates and {rows[1]} steps: give the steps of each candidate"
            )
        if self.steps is not None and not (np.isfinite(self.steps) & (self.steps > 0)).all():
            raise PredictorError("a timed candidate has no positive number of steps: leave it out")

    def sampling_variances(self, accuracies: Array, smoothed: ArrayLike = False) -> Array:
        """Return the (n,) variances of accuracies in [0, 1] that come from the number of validation images; 0 where it is not known.

        smoothed: which of them are smoothed (`jointnas.training.scoring.smoothed_accuracy`).
        """
        n = self.val_images
        if n is None:
            return np.zeros(len(accuracies))
        share = (accuracies * n + 1) / (n + 2)  # Laplace's rule: all of few images right is no certainty
        noise = np.where(smoothed, SMOOTHED_SAMPLING_NOISE, SAMPLING_NOISE)
        return np.asarray(noise * share * (1 - share) / n)

    @property
    def timed(self) -> tuple[Codes, Array] | None:
        """The timed candidates and their steps; None without any."""
        return None if self.codes is None or self.steps is None or not len(self.steps) else (self.codes, self.steps)
