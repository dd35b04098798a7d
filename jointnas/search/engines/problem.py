"""The contract between engines and what they optimise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jointnas.space.constraint import Constraint
from jointnas.space.knobs import Codes
from jointnas.space.sampling import feasible
from jointnas.space.space import Space

BATCH = 400
NEAREST_CHUNK = 64  # candidates compared with a whole pool at once


class Evaluation(NamedTuple):
    """Results of n candidates: (n, k) objectives, all minimised; (n, c) violations, 0 where a bound is met; (n,) failures."""

    objectives: NDArray[np.float64]
    violations: NDArray[np.float64]
    failed: NDArray[np.bool_]

    def merit(self, row: int) -> Merit:
        """Return the order key of a row: smaller is better, and a failure is worst."""
        if self.failed[row]:
            return FAILURE
        return Merit(float(self.violations[row].sum()), float(self.objectives[row, 0]))

    def ranked(self) -> NDArray[np.int64]:
        """Return the rows that did not fail, best first: the least violation, then the first objective."""
        order = np.lexsort([self.objectives[:, 0], self.violations.sum(axis=1)])
        return np.asarray(order[~self.failed[order]], dtype=np.int64)


class Merit(NamedTuple):
    """The order of candidates: the violation first, then the objective (an extreme barrier)."""

    violation: float
    objective: float


FAILURE = Merit(np.inf, np.inf)


@dataclass
class Problem:
    """An optimisation problem: the space, exact constraints, an evaluation of whole batches, a start, a budget, a seed.

    batch: candidates that one call should evaluate, such as those that train side by side. expensive: whether evaluations, and not the
    engine, take most of the time. pool: (n, knobs) codes that meet the constraints, the only ones that may be evaluated; a proposal is
    replaced by the nearest of them. Each candidate is evaluated once; `results` returns those evaluated.
    """

    space: Space
    constraints: Sequence[Constraint]
    evaluation: Callable[[Codes], Evaluation]  # of (n, knobs) codes that meet the exact constraints
    start: Codes
    budget: int
    seed: int
    batch: int = BATCH
    pool: Codes | None = None
    expensive: bool = False
    _codes: list[Codes] = field(default_factory=list)
    _evaluations: list[Evaluation] = field(default_factory=list)
    _rows: dict[str, tuple[int, int]] = field(default_factory=dict)  # by identity: the call and the row in it
    _identities: dict[bytes, str] = field(default_factory=dict)  # of codes that engines have proposed

    @property
    def spent(self) -> int:
        """How many candidates were evaluated."""
        return len(self._rows)

    @property
    def exhausted(self) -> bool:
        """Whether the budget is spent."""
        return self.spent >= self.budget

    @cached_property
    def _pool_features(self) -> NDArray[np.float64]:
        assert self.pool is not None
        return np.concatenate(self.space.encode_codes(self.pool), axis=1)

    def projected(self, codes: Codes) -> Codes:
        """Return (n, knobs) codes, or the nearest ones of the pool where there is one."""
        if self.pool is None or not len(codes):
            return codes
        features, members = np.concatenate(self.space.encode_codes(codes), axis=1), self._pool_features
        lengths = (members**2).sum(axis=1)
        nearest = [
            (lengths - 2 * features[i : i + NEAREST_CHUNK] @ members.T).argmin(axis=1)
            for i in range(0, len(codes), NEAREST_CHUNK)
        ]
        projected: Codes = self.pool[np.concatenate(nearest)]
        return projected

    def is_fresh(self, codes: Codes) -> NDArray[np.bool_]:
        """Return for each of (n, knobs) codes whether it is feasible, was not evaluated and does not repeat an earlier row."""
        return self._is_fresh(codes, self._cached_identities(codes))

    def _cached_identities(self, codes: Codes) -> list[str]:
        """Return the identity of each of (n, knobs) codes, from a cache where engines propose them again."""
        keys = [row.tobytes() for row in codes]
        missing = [i for i, key in enumerate(keys) if key not in self._identities]
        identities = self.space.identities(codes[missing])
        self._identities.update({keys[i]: identity for i, identity in zip(missing, identities, strict=True)})
        return [self._identities[key] for key in keys]

    def _is_fresh(self, codes: Codes, identities: Sequence[str]) -> NDArray[np.bool_]:
        earlier: set[str] = set()
        new = []
        for identity in identities:
            new.append(identity not in self._rows and identity not in earlier)
            earlier.add(identity)
        fresh: NDArray[np.bool_] = feasible(self.space, self.constraints, codes) & np.array(new, dtype=bool)
        return fresh

    def evaluate(self, codes: Codes) -> tuple[Codes, Evaluation]:
        """Return (n, knobs) codes, projected to the pool, and their evaluation.

        New candidates are evaluated in one call, as far as the budget goes; the results of others are repeated. Rows beyond the budget,
        and those that break an exact constraint, are not evaluated and count as failed.
        """
        codes = self.projected(codes)
        identities = self._cached_identities(codes)
        rows = np.flatnonzero(self._is_fresh(codes, identities))[: max(0, self.budget - self.spent)]
        if len(rows):
            evaluation = self.evaluation(codes[rows])
            call = len(self._evaluations)
            self._codes.append(codes[rows])
            self._evaluations.append(evaluation)
            self._rows.update({identities[i]: (call, row) for row, i in enumerate(rows)})
        return codes, self._recall(identities)

    def poll(self, codes: Codes, merit: Merit, rng: np.random.Generator) -> tuple[Codes, Evaluation]:
        """Evaluate the (n, knobs) codes around a candidate of this merit, as `evaluate` does.

        Where evaluations are expensive: a batch at a time, in random order, up to the first batch with a better candidate.
        """
        if not self.expensive or not len(codes):
            return self.evaluate(codes)
        tried: list[Codes] = []
        for part in np.array_split(rng.permutation(codes), -(-len(codes) // self.batch)):
            tried.append(part)
            evaluation = self.evaluate(part)[1]
            if self.exhausted or any(evaluation.merit(int(i)) < merit for i in evaluation.ranked()[:1]):
                break
        return self.evaluate(np.concatenate(tried))

    def _recall(self, identities: Sequence[str]) -> Evaluation:
        n = len(identities)
        k, c = (
            (self._evaluations[0].objectives.shape[1], self._evaluations[0].violations.shape[1])
            if self._evaluations
            else (1, 0)
        )
        out = Evaluation(np.full((n, k), np.inf), np.full((n, c), np.inf), np.ones(n, dtype=bool))
        for i, identity in enumerate(identities):
            if identity in self._rows:
                call, row = self._rows[identity]
                for column, stored in zip(out, self._evaluations[call], strict=True):
                    column[i] = stored[row]
        return out

    def results(self) -> tuple[Codes, NDArray[np.float64]]:
        """Return the evaluated (n, knobs) codes that succeeded and met every bound, and their (n, k) objectives."""
        good = [~e.failed & (e.violations.sum(axis=1) == 0) for e in self._evaluations]
        codes = [codes[g] for codes, g in zip(self._codes, good, strict=True)]
        objectives = [e.objectives[g] for e, g in zip(self._evaluations, good, strict=True)]
        if not codes:
            return np.zeros((0, len(self.space.knobs))), np.zeros((0, 1))
        return np.concatenate(codes), np.concatenate(objectives)


Engine = Callable[[Problem], None]
"""Evaluates candidates of a problem until its budget is spent or nothing improves; the problem keeps the results."""
