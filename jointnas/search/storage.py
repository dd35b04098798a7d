"""The candidates of a search: those that were asked, and the observations of those that were trained."""

from __future__ import annotations

from collections.abc import Sequence, Set

import numpy as np
from numpy.typing import NDArray

from jointnas.space.knobs import Codes
from jointnas.space.space import Space
from jointnas.training.observation import Observation


class Observations:
    """Codes of a bound space with their observations, each identity once; the latest observation of an identity counts."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.asked: set[str] = set()  # identities that were asked or observed
        self._codes: list[Codes] = []
        self._by_identity: dict[str, Observation] = {}

    def add(self, codes: Codes, identities: Sequence[str], observations: Sequence[Observation]) -> bool:
        """Add the observations of (n, knobs) codes; return whether an accuracy is new or changed."""
        changed = False
        for row, identity, observation in zip(codes, identities, observations, strict=True):
            before = self._by_identity.get(identity)
            if before is None:
                self._codes.append(row)
            changed |= before is None or before.accuracy != observation.accuracy
            self._by_identity[identity] = observation
        self.asked.update(identities)
        return changed

    @property
    def codes(self) -> Codes:
        """The (n, knobs) observed codes, in the order of their first observation."""
        return np.array(self._codes).reshape(-1, len(self.space.knobs))

    @property
    def observations(self) -> list[Observation]:
        """The (n,) observations of `codes`."""
        return list(self._by_identity.values())

    @property
    def n_trained(self) -> int:
        """How many candidates have an accuracy."""
        return sum(o.accuracy is not None for o in self._by_identity.values())

    @property
    def failed(self) -> Set[str]:
        """The identities of candidates whose training failed."""
        return {identity for identity, o in self._by_identity.items() if o.accuracy is None}

    def accuracies(self, identities: Sequence[str]) -> NDArray[np.float64]:
        """Return the (n,) observed accuracies of identities; NaN for a failure and for what was not observed."""
        observed = [self._by_identity.get(identity) for identity in identities]
        return np.array([np.nan if o is None or o.accuracy is None else o.accuracy for o in observed], dtype=np.float64)
