"""A search of ensembles is a search of their members: each keeps its share of the bounds, and trains in its share of the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jointnas.errors import ConstraintError
from jointnas.network.cost import METRICS
from jointnas.search.winners import Winner
from jointnas.space.constraint import MEASURED, Constraint, parse_all
from jointnas.training.observation import ACCURACY


def bounds_of_member(constraints: Sequence[str], members: int) -> list[str | Constraint]:
    """Return the bounds of one of an ensemble's equal members, whose costs add up to keep these.

    Raises `ConstraintError` for a bound on a measured metric, where there are several members.
    """
    if members == 1:
        return list(constraints)
    parsed = parse_all(constraints, (*METRICS, *MEASURED, ACCURACY))
    for constraint in parsed:
        if constraint.metric in MEASURED:
            raise ConstraintError(
                f"several members share bounds that add up exactly ({', '.join(METRICS)}), got {constraint}: drop it or --members"
            )
    return [replace(c, bound=c.bound / members) if c.metric in METRICS else c for c in parsed]


def as_ensembles(winners: Sequence[Winner], members: int) -> list[Winner]:
    """Return winners with the costs of all their members."""
    if members == 1:
        return list(winners)
    return [
        replace(w, costs={name: value * members if name in METRICS else value for name, value in w.costs.items()})
        for w in winners
    ]
