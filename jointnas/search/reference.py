"""The efficiency of candidates relative to a fixed set of models, as the objective of a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import HalfspaceIntersection

from jointnas.errors import EfficiencyError

MOST_COSTS = 4  # of a reference: the weights of the frontier have a corner for each of its faces
FARTHEST = 2.0  # weight of a cost that is considered, in units in which no corner has more than 1
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
    def _frontier(self) -> Array:
        """The (k, m) costs per accuracy of the models that no other one dominates."""
        values = np.array(self.models, dtype=np.float64)
        per_gain = values[:, 1:] / values[:, :1]
        return np.asarray(per_gain[non_dominated(per_gain, np.ones((len(per_gain), 1)))])

    @cached_property
    def _units(self) -> Array:
        """The (m,) least costs per accuracy: in these units the weight of a cost at a corner is 1 at most."""
        return np.asarray(self._frontier.min(axis=0))

    @cached_property
    def _corners(self) -> Array:
        """The (c, m) corners of the weights, in units of the least costs per accuracy."""
        rows, m = self._frontier / self._units, len(self.costs)
        if m == 1 or len(rows) == 1:
            return np.eye(m)  # without a trade the cheapest model alone decides
        sides = np.concatenate(
            [
                np.column_stack([-rows, np.ones(len(rows))]),
                np.column_stack([-np.eye(m), np.zeros(m)]),
                np.column_stack([np.eye(m), np.full(m, -FARTHEST)]),
            ]
        )
        sides /= np.linalg.norm(sides[:, :m], axis=1, keepdims=True)
        corners = HalfspaceIntersection(sides, np.full(m, 0.75 * FARTHEST)).intersections
        corners = np.maximum(corners[np.isfinite(corners).all(axis=1)], 0)
        return np.unique(corners / (rows @ corners.T).min(axis=0)[:, None], axis=0)  # exactly on the nearest side


def non_dominated(costs: Array, gains: Array) -> NDArray[np.int64]:
    """Return the rows that no other row dominates: these alone can be peers. Of equal rows the first one stays."""
    values = np.unique(np.column_stack([costs, -gains]), axis=0, return_index=True)
    rows, first = values
    better = np.asarray((rows[:, None] <= rows[None]).all(axis=2))  # (n, n): whether i is nowhere worse than j
    np.fill_diagonal(better, False)
    return np.sort(first[~better.any(axis=0)]).astype(np.int64)
