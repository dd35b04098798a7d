"""How many training steps a budget holds, before any training: measured for a few candidates, estimated for others."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

import numpy as np

from jointnas.measurement.meter import Meter
from jointnas.predictor.pretrained import Pretrained
from jointnas.predictor.prior import Prior
from jointnas.predictor.steps import StepsModel
from jointnas.predictor.task import Task, TrainingImages
from jointnas.space.constraint import Constraint, violations
from jointnas.space.knob_space import Candidate
from jointnas.space.space import Space

ESTIMATED = 32  # candidates whose steps are estimated


class BudgetSteps:
    """The steps that a budget of seconds holds, by the speed of training measured on a device; each candidate is measured once."""

    def __init__(self, meter: Meter, seconds: float) -> None:
        self.meter, self.seconds = meter, seconds
        self.measured: list[tuple[Candidate, float]] = []

    def __call__(self, candidate: Candidate) -> float:
        """Return the steps, NaN where the measurement failed."""
        (row,) = self.meter.measure([candidate], ["images_per_second"])
        steps = self.seconds * row["images_per_second"] / int(self.meter.workload(candidate)[1].batch_size)
        if not isnan(steps):
            self.measured.append((candidate, steps))
        return steps


def meets(meter: Meter, bounds: Sequence[Constraint], candidate: Candidate) -> bool:
    """Return whether a candidate meets bounds on metrics that are measured on the device; one that cannot be measured does not."""
    if not bounds:
        return True
    (row,) = meter.measure([candidate], [bound.metric for bound in bounds])
    return not violations(bounds, {metric: np.array([value]) for metric, value in row.items()}).any()


def task_of(
    space: Space,
    images: TrainingImages,
    budget: float,
    prior: Prior | None,
    measured: Sequence[tuple[Candidate, float]] | None,
    seed: int,
) -> Task:
    """Return a campaign's task: its training images, and the steps that its budget holds for some candidates of the bound space.

    budget: seconds, or steps where `measured` is None. measured: candidates with the steps that the budget holds for them. A pretrained
    prior brings the law of a step's seconds on its own machine; the candidates measured here say how much faster this one is. Without any,
    the task holds no steps.
    """
    codes = next(space.stream(seed, chunk=ESTIMATED))
    if measured is None:
        return Task(images, codes, np.full(len(codes), budget))
    own = space.to_codes([candidate for candidate, _ in measured])
    steps = np.array([steps for _, steps in measured], dtype=np.float64)
    if not isinstance(prior, Pretrained) or not measured:
        return Task(images, own, steps)
    law = StepsModel(space, prior.step_seconds)
    slower = float(np.median(budget / steps / law.step_shares(own)))
    estimated = budget / (slower * law.step_shares(codes))
    return Task(images, np.concatenate([own, codes]), np.concatenate([steps, estimated]))
