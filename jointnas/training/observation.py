"""The outcome of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import exp
from typing import Any, NamedTuple

CURVE_FRACTIONS = (0.1, 0.25, 0.5, 0.75)  # of the budget: the points of the learning curve before the end
ACCURACY, BALANCED_ACCURACY, MACRO_F1, LOG_LOSS = SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")
"""What a search may maximise of its trainings; of the log-loss exp(−log-loss)."""

QUIET_CPU_SHARE = 0.9  # measured: 0.995 or more alone on its cores, 0.5 to 0.67 beside one or two busy programs


class CurvePoint(NamedTuple):
    """A point of the learning curve: accuracy and log-loss on validation images after this fraction, seconds and steps."""

    fraction: float
    seconds: float
    steps: int
    accuracy: float
    log_loss: float | None = None


@dataclass(frozen=True)
class Observation:
    """The outcome of one training: accuracies in [0, 1] on the validation images, or a failure and no accuracy.

    `mean_observation` makes one of several: then `trainings` says how many its accuracy is the mean of.
    """

    accuracy: float | None
    balanced_accuracy: float | None = None
    macro_f1: float | None = None  # mean F1 of the classes
    log_loss: float | None = None  # mean cross-entropy in nats on the validation images, without label smoothing
    smoothed_accuracy: float | None = None  # a less noisy reading of the same images, `scoring.smoothed_accuracy`
    fraction: float = 1.0  # of the budget that the training used
    seconds: float | None = None  # from the clock's start to the predictions
    steps: int | None = None
    step_seconds: float | None = None  # mean wall seconds of a training step, without scoring
    images_per_second: float | None = None  # training images, over the whole budget
    cpu_share: float | None = None  # CPU time over CPU time + time its threads waited for a core; None on a GPU
    machine: str | None = None  # the model of the GPU or processor that trained
    curve: tuple[CurvePoint, ...] = ()
    failure: str | None = None
    trainings: int = 1
    test_accuracy: float | None = None  # of the last training of a run that scores its test images
    attempts: int = 1  # how often it was started: again after it ran out of memory, or its machine was lost

    @property
    def was_disturbed(self) -> bool:
        """Whether other programs used the training's cores, so that it took fewer steps than it could."""
        return self.cpu_share is not None and self.cpu_share < QUIET_CPU_SHARE

    def scored(self, metric: str) -> Observation:
        """Return this with the score of a search's objective in the place of its accuracy: one of `SCORES`, in (0, 1], larger is better.

        The log-loss counts as exp(−log-loss), the geometric mean of the probabilities of the true classes.
        """
        if metric == ACCURACY or self.accuracy is None:
            return self
        value = getattr(self, metric)
        score = exp(-value) if metric == LOG_LOSS and value is not None else value
        return replace(self, accuracy=score, smoothed_accuracy=None)

    @classmethod
    def failed(cls, reason: str) -> Observation:
        """Return the observation of a failed training."""
        return cls(accuracy=None, failure=reason)

    def to_json(self) -> dict[str, Any]:
        """Return JSON types, for `from_json`."""
        return {**asdict(self), "curve": [list(point) for point in self.curve]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Observation:
        """Return the observation of `to_json`; fields that an older version did not write are None."""
        return cls(**{**data, "curve": tuple(CurvePoint(*point) for point in data["curve"])})


def mean_observation(observations: Sequence[Observation]) -> Observation:
    """Return a candidate's first observation that has an accuracy, with the means of all accuracies and their number; or the first one."""
    ended = [o for o in observations if o.accuracy is not None]
    if not ended:
        return observations[0]
    trainings = sum(o.trainings for o in ended)
    accuracy = sum(o.trainings * o.accuracy for o in ended if o.accuracy is not None) / trainings
    smoothed = [o.trainings * o.smoothed_accuracy for o in ended if o.smoothed_accuracy is not None]
    own = sum(smoothed) / trainings if len(smoothed) == len(ended) else None
    return replace(ended[0], accuracy=accuracy, smoothed_accuracy=own, trainings=trainings)
