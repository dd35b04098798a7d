"""The pool of stage one: the candidates that a search asks first, and a sample of the space or given ones, under the exact constraints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jointnas.errors import ConstraintError
from jointnas.search.objective import Query
from jointnas.space.knobs import Codes
from jointnas.space.sampling import draw_members


class Pool:
    """Feasible candidates of a query, each identity once: those of `start`, then draws.

    given: (n, knobs) codes; then the pool is closed, only these and the start may be asked or returned, in a random order. Otherwise
    `size` candidates are drawn from the space. The forecast of measured metrics is calibrated when `codes` are first used. Raises
    `ConstraintError` when nothing meets the constraints.
    """

    def __init__(
        self, query: Query, start: Sequence[Mapping[str, Any]], given: Codes | None, size: int, seed: int
    ) -> None:
        self.query, self.closed = query, given is not None
        self.start = self._check_start(start)
        self.drawn, self._identities = (
            draw_members(query.space, size, query.exact, seed) if given is None else self._check_given(given, seed)
        )

    def _check_start(self, start: Sequence[Mapping[str, Any]]) -> Codes:
        space = self.query.space
        codes = space.to_codes(start)
        for candidate, feasible in zip(start, self.query.feasible(codes), strict=True):
            if not feasible:
                bounds = ", ".join(map(str, self.query.exact))
                raise ConstraintError(
                    f"a candidate to start from costs {space.cost(candidate)} and breaks {bounds}: loosen the bound or remove it"
                )
        return codes[space.distinct(codes)[0]]

    def _check_given(self, given: Codes, seed: int) -> tuple[Codes, list[str]]:
        codes: Codes = given[self.query.feasible(given)]
        if not len(codes):
            bounds = ", ".join(map(str, self.query.constraints)) or "no constraint"
            raise ConstraintError(f"none of the {len(given)} candidates in the pool meets {bounds}: widen the pool")
        codes = codes[np.random.default_rng(seed).permutation(len(codes))]
        rows, identities = self.query.space.distinct(codes)
        return codes[rows], identities

    @cached_property
    def _members(self) -> tuple[Codes, list[str]]:
        space, codes = self.query.space, self.query.calibrate(self.drawn)
        start = dict.fromkeys(space.identities(self.start))
        identities = self._identities if len(codes) == len(self.drawn) else space.identities(codes)
        new = [row for row, identity in enumerate(identities) if identity not in start]
        return np.concatenate([self.start, codes[new]]), [*start, *(identities[row] for row in new)]

    @property
    def codes(self) -> Codes:
        """The (n, knobs) codes of the start, and of the candidates that are forecast to meet the measured constraints."""
        return self._members[0]

    @property
    def identities(self) -> list[str]:
        """The (n,) identities of `codes`."""
        return self._members[1]

    def waiting(self, asked: Set[str]) -> NDArray[np.int64]:
        """Return the rows of `codes` whose identity was not asked."""
        return np.array([i for i, identity in enumerate(self.identities) if identity not in asked], dtype=np.int64)
