"""Forecasts of measured metrics for batches of a space's candidates, and measurements of single ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jointnas.measurement.estimate import Estimate
from jointnas.measurement.features import blueprint_features
from jointnas.space.knobs import Codes
from jointnas.space.space import Space

if TYPE_CHECKING:
    from jointnas.measurement.meter import Meter

CALIBRATION = 20  # candidates that are measured for a fit
BLOCKS = 16  # of their blocks that are measured alone


class Forecast:
    """Estimates of metrics on a meter's device, fitted to a few measured candidates of a bound space and their blocks.

    reported: further metrics, measured but not estimated.
    """

    def __init__(self, space: Space, meter: Meter, metrics: Sequence[str], reported: Sequence[str], seed: int) -> None:
        self.space, self.meter, self.seed = space, meter, seed
        self.metrics, self.measured = tuple(dict.fromkeys(metrics)), tuple(dict.fromkeys([*metrics, *reported]))
        self._estimates: dict[str, Estimate] = {}

    def calibrate(self, codes: Codes) -> None:
        """Measure some of the (n, knobs) codes and fit the estimates to them.

        Raises `ConstraintError` for a metric that cannot be measured here, `PredictorError` when measuring fails.
        """
        rows = np.random.default_rng([self.seed, 3]).permutation(len(codes))[:CALIBRATION]
        candidates = self.space.to_candidates(codes[rows])
        for metric in self.metrics:
            self._estimates[metric] = Estimate.calibrate(self.meter, metric, candidates, BLOCKS, self.seed)

    @property
    def errors(self) -> dict[str, float]:
        """Each metric's median relative error on held-out candidates."""
        return {metric: estimate.error for metric, estimate in self._estimates.items()}

    def predict(self, codes: Codes) -> dict[str, NDArray[np.float64]]:
        """Return each metric's (n,) estimates for (n, knobs) codes."""
        if not self._estimates:
            return {}
        networks = self.space.architectures.sums(codes[:, : self.space.n_architecture], blueprint_features)
        recipes = self.space.recipe_columns(codes)
        return {metric: estimate.predict(networks, recipes) for metric, estimate in self._estimates.items()}

    def measure(self, candidates: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
        """Return each candidate's measured metrics, NaN where measuring failed."""
        return self.meter.measure(candidates, self.measured)
