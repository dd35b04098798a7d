"""The members of an ensemble share a budget and a bound: each gets an equal part of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jointnas.errors import BudgetError

LARGEST_ENSEMBLE = 16  # members
SEEDS, SNAPSHOTS = ENSEMBLES = ("seeds", "snapshots")
"""Kinds of ensembles; see `training.ensemble`."""


def budget_json(clock: Mapping[str, float], members: int, ensemble: str) -> dict[str, Any]:
    """Return a clock with the members that share it, as JSON types; of a single network the clock alone."""
    return {**clock, **({"members": members, "ensemble": ensemble} if members > 1 else {})}


def part_of(clock: Mapping[str, float], members: int) -> dict[str, float]:
    """Return the clock of one member. Raises `BudgetError` where a budget of steps does not hold one of each."""
    if "train_steps" not in clock:
        return {"train_seconds": clock["train_seconds"] / members}
    if clock["train_steps"] < members:
        raise BudgetError(
            f"{members} members need a step each, got a budget of {clock['train_steps']:g} steps: raise --train-steps"
        )
    return {"train_steps": int(clock["train_steps"] // members)}
