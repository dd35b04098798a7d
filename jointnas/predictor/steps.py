"""How many steps of a candidate's training the budget holds, learned from the steps that others took in it.

A budget of seconds makes speed a part of accuracy: a slow network sees fewer images. The steps of the trainings so far tell the
speed of the others, by the law that forecasts measured speeds (`measurement.estimate`): nothing has to be measured for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jointnas.errors import PredictorError
from jointnas.measurement.estimate import Estimator
from jointnas.measurement.features import blueprint_features, step_features
from jointnas.space.knobs import Codes
from jointnas.space.space import Space
from jointnas.training.observation import Observation

FEWEST = 4  # trainings whose steps a law is fitted to
SPEED = "images_per_second"
Array = NDArray[np.float64]


class Pace:
    """Estimates the steps that the budget of some trainings holds, for candidates of their bound space with networks.

    Without a law (too few of them tell their steps) nothing is known: 1 step for all.
    """

    def __init__(self, space: Space, law: Estimator | None) -> None:
        self.space, self.law = space, law

    @classmethod
    def fit(cls, space: Space, codes: Codes, observations: Sequence[Observation | None], seed: int) -> Pace:
        """Return the pace of trainings of (n, knobs) codes; those that do not tell their steps are left out."""
        rows = [i for i, o in enumerate(observations) if o is not None and o.steps]
        if space.is_abstract or len(rows) < FEWEST:
            return cls(space, None)
        whole = np.array([o.steps / o.fraction for o in observations if o is not None and o.steps], dtype=np.float64)
        try:
            return cls(space, Estimator.fit(cls(space, None)._features(codes[rows]), 1 / whole, seed))
        except PredictorError:  # no law can be told from these
            return cls(space, None)

    @classmethod
    def restored(cls, space: Space, numbers: Array) -> Pace:
        """Return the pace of a law's numbers: its weights, its intercept and its error."""
        return cls(space, Estimator(numbers[:-2], float(numbers[-2]), float(numbers[-1])))

    def steps(self, codes: Codes) -> Array:
        """Return the (n,) steps that the budget holds for (n, knobs) codes."""
        if self.law is None:
            return np.ones(len(codes))
        shares = self.law.predict(self._features(codes))  # of the budget, that a step takes
        return np.asarray(1 / np.maximum(shares, 1e-9))

    def _features(self, codes: Codes) -> Array:
        networks = self.space.architectures.sums(codes[:, : self.space.n_architecture], blueprint_features)
        return step_features(SPEED, networks, self.space.recipe_columns(codes))
