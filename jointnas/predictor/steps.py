"""How many training steps of a candidate fit into the budget, estimated from the steps of observed trainings.

Under a budget of seconds speed affects accuracy: a slow network sees fewer images. The law that forecasts measured speeds
(`measurement.estimate`) is fitted to the steps of the trainings so far, and to those of candidates that were timed before the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jointnas.errors import PredictorError
from jointnas.measurement.estimate import Estimator
from jointnas.measurement.features import blueprint_features, step_features
from jointnas.predictor.task import Task
from jointnas.space.knobs import Codes
from jointnas.space.space import Space
from jointnas.training.observation import Observation

MIN_EXAMPLES = 4  # trainings with steps, and timed candidates
SPEED = "images_per_second"
SMALLEST_SHARE = 1e-9
Array = NDArray[np.float64]


class StepsModel:
    """Estimates the steps that fit into the budget, for candidates of a bound space with networks.

    Without an estimator (too few steps are known) it estimates 1 step for all.
    """

    def __init__(self, space: Space, estimator: Estimator | None) -> None:
        self.space, self.estimator = space, estimator

    @classmethod
    def fit(
        cls,
        space: Space,
        codes: Codes,
        observations: Sequence[Observation],
        seed: int,
        task: Task = Task(),  # noqa: B008  (frozen)
    ) -> StepsModel:
        """Return the model of trainings of (n, knobs) codes and, as long as these are fewer, of the task's timed candidates.

        Trainings without steps are left out. Where machines of several kinds trained, it estimates the steps of the most frequent kind; those
        of the others are brought to its speed.
        """
        codes, observations = codes[[bool(o.steps) for o in observations]], [o for o in observations if o.steps]
        steps = np.array([whole_steps(o) for o in observations], dtype=np.float64)
        machine = most_frequent_machine(observations)
        usual = np.flatnonzero([o.machine == machine for o in observations])
        model = cls._fit(space, codes[usual], steps[usual], seed, task)
        if model.estimator is None or len(usual) == len(steps):
            return model
        return cls._fit(space, codes, steps / model.speeds(codes, observations), seed, task)

    @classmethod
    def _fit(cls, space: Space, codes: Codes, steps: Array, seed: int, task: Task) -> StepsModel:
        """Return the model of the (n,) steps of (n, knobs) codes and, as long as these are fewer, of the task's timed candidates."""
        if task.timed is not None and len(steps) < len(task.timed[1]):
            codes, steps = np.concatenate([codes, task.timed[0]]), np.concatenate([steps, task.timed[1]])
        if space.is_abstract or len(steps) < MIN_EXAMPLES:
            return cls(space, None)
        try:
            return cls(space, Estimator.fit(cls(space, None).features(codes), 1 / steps, seed))
        except PredictorError:  # no law fits these trainings
            return cls(space, None)

    @classmethod
    def from_tensor(cls, space: Space, tensor: Array) -> StepsModel:
        """Return the model whose estimator `to_tensor` wrote."""
        return cls(space, Estimator(tensor[:-2], float(tensor[-2]), float(tensor[-1])))

    def to_tensor(self) -> Array | None:
        """Return the estimator's weights, intercept and error as one array; None without an estimator."""
        fitted = self.estimator
        return None if fitted is None else np.array([*fitted.weights, fitted.intercept, fitted.error])

    def steps(self, codes: Codes) -> Array:
        """Return the (n,) steps that fit into the budget for (n, knobs) codes."""
        return 1 / self.step_shares(codes)

    def step_shares(self, codes: Codes) -> Array:
        """Return the (n,) shares of the budget that a step of each of (n, knobs) codes takes; 1 without an estimator."""
        if self.estimator is None or not len(codes):
            return np.ones(len(codes))
        return np.maximum(self.estimator.predict(self.features(codes)), SMALLEST_SHARE)

    def speeds(self, codes: Codes, observations: Sequence[Observation]) -> Array:
        """Return the speed of the machine of each of (n,) trainings: observed over estimated steps, the median of its trainings.

        1 for the most frequent kind of machine, and without an estimator.
        """
        speeds, usual = np.ones(len(observations)), most_frequent_machine(observations)
        if self.estimator is None:
            return speeds
        machines = [o.machine if o.steps else usual for o in observations]
        for machine in {*machines} - {usual}:
            rows = [row for row, own in enumerate(machines) if own == machine]
            ratios = np.array([whole_steps(observations[row]) for row in rows]) / self.steps(codes[rows])
            speeds[rows] = np.median(ratios)
        return speeds

    def own_log_steps(self, codes: Codes, observations: Sequence[Observation]) -> Array | None:
        """Return the (n,) logarithms of the steps of trainings on their own machines; None where one kind of machine trained all."""
        speeds = self.speeds(codes, observations)
        return None if (speeds == 1).all() else np.log(self.steps(codes) * speeds)

    def features(self, codes: Codes) -> Array:
        """Return the (n, f) features in which the seconds of a step are linear."""
        networks = self.space.architectures.sums(codes[:, : self.space.n_architecture], blueprint_features)
        return step_features(SPEED, networks, self.space.recipe_columns(codes))


def whole_steps(observation: Observation) -> float:
    """Return the steps that a training would have taken in the whole budget; it must have recorded some."""
    return (observation.steps or 0) / observation.fraction


def most_frequent_machine(observations: Sequence[Observation]) -> str | None:
    """Return the kind of machine that trained most of those that recorded steps, the first of equals; None where no kind is recorded."""
    counted = Counter(o.machine for o in observations if o.steps).most_common(1)
    return counted[0][0] if counted else None
