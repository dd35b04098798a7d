"""The one contract between engines and what they optimise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jointnas.constraint import Constraint
from jointnas.knobs import Codes
from jointnas.pool import feasible
from jointnas.space import Space


class Evaluation(NamedTuple):
    """What n candidates gave: (n, k) objectives, all minimised; (n, c) violations, 0 where held; (n,) failures."""

    objectives: NDArray[np.float64]
    violations: NDArray[np.float64]
    failed: NDArray[np.bool_]


@dataclass
class Problem:
    """What an engine is given: the space, exact constraints, an evaluation of whole batches, a start, a budget, a seed.

    Everything that is evaluated is kept in `codes` and `objectives`, each candidate once: that is the engine's result.
    """

    space: Space
    constraints: Sequence[Constraint]
    evaluation: Callable[[Codes], Evaluation]  # of (n, knobs) codes that meet the exact constraints
    start: Codes
    budget: int
    seed: int
    codes: list[Codes] = field(default_factory=list)
    objectives: list[NDArray[np.float64]] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    @property
    def spent(self) -> int:
        """How many candidates were evaluated."""
        return len(self.seen)

    def is_fresh(self, codes: Codes) -> NDArray[np.bool_]:
        """Return for each of (n, knobs) codes whether it meets the exact constraints, was never evaluated and is the first."""
        fresh = feasible(self.space, self.constraints, codes)
        met: set[str] = set()
        for i, identity in enumerate(self.space.identities(codes)):
            fresh[i] &= identity not in self.seen and identity not in met
            met.add(identity)
        return fresh

    def evaluate(self, codes: Codes) -> tuple[Codes, Evaluation]:
        """Evaluate the fresh ones among `codes`, as far as the budget goes, and return them with what they gave."""
        codes = codes[self.is_fresh(codes)][: max(0, self.budget - self.spent)]
        self.seen.update(self.space.identities(codes))
        found = self.evaluation(codes)
        good = ~found.failed & (found.violations.sum(axis=1) == 0)
        self.codes.append(codes[good])
        self.objectives.append(found.objectives[good])
        return codes, found


Engine = Callable[[Problem], None]
"""Evaluates candidates of a problem until its budget is spent or nothing improves; the problem keeps the results."""
