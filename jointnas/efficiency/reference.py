"""The efficiency of candidates relative to a fixed set of models, as the objective of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jointnas.efficiency.envelopment import non_dominated
from jointnas.errors import EfficiencyError

MOST_COSTS = 4  # of a reference: the corners of the frontier's weights are counted out
TOLERANCE = 1e-9
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """Models by their accuracy and costs. Raises `EfficiencyError` for values that are not above 0, or too many costs.

    The efficiency of a candidate is its θ of constant returns to scale, measured by these models alone (super-efficiency): 1 on their
    frontier, more beyond it.
    """

    costs: tuple[str, ...]
    models: tuple[tuple[float, ...], ...]  # accuracy, then the costs

    def __post_init__(self) -> None:
        if not 1 <= len(self.costs) <= MOST_COSTS:
            raise EfficiencyError(
                f"--relative-to compares by 1 to {MOST_COSTS} costs, got {', '.join(self.costs) or 'none'}: give a table with fewer columns"
            )
        values = np.array(self.models, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.costs) + 1 or not np.isfinite(values).all():
            raise EfficiencyError(
                f"each model to compare with has an accuracy and the costs {', '.join(self.costs)}, got {self.models!r}: complete them"
            )
        if (values <= 0).any():
            raise EfficiencyError(
                f"the accuracies and costs to compare with are above 0, got {values[values <= 0][0]:g}: leave the model out"
            )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reference:
        """Return what `to_json` wrote. Raises `EfficiencyError`."""
        try:
            models = tuple(tuple(float(value) for value in row) for row in data["models"])
            return cls(tuple(str(name) for name in data["costs"]), models)
        except (KeyError, TypeError, ValueError) as error:
            raise EfficiencyError(
                f"relative_to has costs and models, got {error!r}: give a run or a table of models"
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Return JSON types."""
        return {"costs": list(self.costs), "models": [list(row) for row in self.models]}

    def efficiencies(self, accuracies: Array, costs: Mapping[str, Array]) -> Array:
        """Return the (n,) efficiencies of candidates with (n,) accuracies and costs.

        θ is the largest u·accuracy under weights v ≥ 0 of the costs with v·costs = 1 and u·accuracy ≤ v·costs for each model. With one gain
        the best weights are among the corners of {v ≥ 0: v·costs/accuracy ≥ 1 for each model}, whatever the candidate costs.
        """
        x = np.stack([np.asarray(costs[name], dtype=np.float64) for name in self.costs], axis=1) / self._units
        return np.asarray(np.asarray(accuracies) / (x @ self._corners.T).min(axis=1))

    @cached_property
    def _units(self) -> Array:
        return np.asarray(np.array(self.models)[:, 1:].mean(axis=0))

    @cached_property
    def _corners(self) -> Array:
        """The (k, m) corners of the weights, in units of the mean costs."""
        values = np.array(self.models)
        per_gain = values[:, 1:] / self._units / values[:, :1]
        rows = per_gain[non_dominated(per_gain, np.ones((len(per_gain), 1)))]
        m = len(self.costs)
        sides = np.concatenate([rows, np.eye(m)])
        limits = np.concatenate([np.ones(len(rows)), np.zeros(m)])
        corners = []
        for chosen in combinations(range(len(sides)), m):
            matrix = sides[list(chosen)]
            if abs(np.linalg.det(matrix)) < TOLERANCE:
                continue
            corner = np.linalg.solve(matrix, limits[list(chosen)])
            if (corner >= -TOLERANCE).all() and (rows @ corner >= 1 - TOLERANCE).all():
                corners.append(np.maximum(corner, 0))
        return np.unique(np.array(corners), axis=0)


def reference_of(models: Sequence[Any], costs: Sequence[str]) -> Reference:
    """Return the reference of models (`efficiency.models.Model`) by their mean accuracy and these costs."""
    rows = [
        (model.metrics["accuracy"].mean, *(model.metrics[name].mean for name in costs))
        for model in models
        if "accuracy" in model.metrics
    ]
    return Reference(tuple(costs), tuple(rows))
