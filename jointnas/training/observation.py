"""What a training tells the search."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

CURVE_FRACTIONS = (0.1, 0.25, 0.5, 0.75)  # of the budget: where the learning curve is read, before the end
QUIET_CPU_SHARE = 0.9  # trainings alone on their cores have 0.97 or more, beside as many busy processes about 0.5


class CurvePoint(NamedTuple):
    """A reading of the learning curve on validation images: the fraction of the budget, seconds and steps until then."""

    fraction: float
    seconds: float
    steps: int
    accuracy: float
    log_loss: float | None = None


@dataclass(frozen=True)
class Observation:
    """The outcome of one training: accuracies in [0, 1] on the validation images, or the failure and no accuracy."""

    accuracy: float | None
    balanced_accuracy: float | None = None
    log_loss: float | None = None  # mean cross-entropy in nats on the validation images, without label smoothing
    fraction: float = 1.0  # of the budget that the training ran
    seconds: float | None = None  # from the clock's start to the predictions
    steps: int | None = None
    step_seconds: float | None = None  # mean wall seconds of a training step, without scoring
    images_per_second: float | None = None  # training images, over the whole budget
    cpu_share: float | None = None  # of the time that its threads were ready to run, the part they ran; None on a GPU
    curve: tuple[CurvePoint, ...] = ()
    failure: str | None = None

    @property
    def was_disturbed(self) -> bool:
        """Whether other programs kept the training waiting for its cores, so that it took fewer steps than it could."""
        return self.cpu_share is not None and self.cpu_share < QUIET_CPU_SHARE

    @classmethod
    def failed(cls, reason: str) -> Observation:
        """Return the observation of a training that gave no accuracy."""
        return cls(accuracy=None, failure=reason)

    def to_json(self) -> dict[str, Any]:
        """Return JSON types; `from_json` gives an equal observation back."""
        return {**asdict(self), "curve": [list(point) for point in self.curve]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Observation:
        """Return what `to_json` wrote; fields that an older version lacks are None."""
        return cls(**{**data, "curve": tuple(CurvePoint(*point) for point in data["curve"])})


def mean_observation(observations: Sequence[Observation]) -> Observation:
    """Return the first of a candidate's observations with the mean accuracy of all; repeats that failed do not count."""
    accuracies = [o.accuracy for o in observations if o.accuracy is not None]
    if not accuracies:
        return observations[0]
    return replace(observations[0], accuracy=statistics.fmean(accuracies), failure=None)
