"""The clock of a training: it decides when to stop, and schedules are functions of its fraction.

A `WallClock` runs from the decoded data to the validation predictions: building, whitening, augmenting, training and scoring
all count. A `StepClock` counts training steps alone, so its trainings are reproducible on any machine, however busy.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from jointnas.errors import BudgetError
from jointnas.units import format_duration, is_finite


class Clock(ABC):
    """The contract: call `start` once, then train and call `stepped` as long as `may_step` is true; then score."""

    @abstractmethod
    def start(self) -> None:
        """Start the budget."""

    @abstractmethod
    def seconds(self) -> float:
        """Return the seconds since the start."""

    @abstractmethod
    def fraction(self) -> float:
        """Return the used share of the budget for training, in [0, 1]; it never decreases."""

    @abstractmethod
    def may_step(self) -> bool:
        """Return whether another training step fits."""

    @abstractmethod
    def stepped(self) -> None:
        """Record the end of a training step."""

    @abstractmethod
    def has_room(self, seconds: float) -> bool:
        """Return whether other work of this duration fits before the reserved time."""

    @abstractmethod
    def share_of(self, seconds: float) -> float:
        """Return what share of the budget this many seconds are."""

    @abstractmethod
    def expect(self, step_seconds: float) -> None:
        """Set the expected duration of the first step."""

    @abstractmethod
    def reserve(self, seconds: float) -> None:
        """Reserve this much time at the end for scoring."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the budget as JSON types, for `clock_from_json`."""


class WallClock(Clock):
    """A budget of seconds. Raises `BudgetError` unless it is positive."""

    def __init__(self, budget_seconds: float, now: Callable[[], float] = time.perf_counter) -> None:
        if not budget_seconds > 0:
            raise BudgetError(f"the training time must be above 0 seconds, got {budget_seconds!r}: raise --train-time")
        self.budget_seconds = budget_seconds
        self._now = now
        self._started = now()
        self._reserved = 0.0
        self._fraction = 0.0
        self._step_seconds = 0.0
        self._step_start: float | None = None

    def start(self) -> None:
        """Start the budget now."""
        self._started, self._fraction, self._step_seconds, self._step_start = self._now(), 0.0, 0.0, None

    def seconds(self) -> float:
        """Return the seconds since the start."""
        return self._now() - self._started

    def fraction(self) -> float:
        """Return the elapsed share of the budget without the reserve and one step, so that the last step starts at about 1."""
        available = self.budget_seconds - self._reserved - self._step_seconds
        now = self.seconds() / available if available > 0 else 1.0
        self._fraction = min(1.0, max(self._fraction, now))
        return self._fraction

    def may_step(self) -> bool:
        """Return whether a step as slow as the recent ones ends before the reserved time begins."""
        self._step_start = self.seconds()
        return self._step_start + self._step_seconds <= self.budget_seconds - self._reserved

    def has_room(self, seconds: float) -> bool:
        """Return whether this many seconds are left before the reserved time."""
        return self.seconds() + seconds <= self.budget_seconds - self._reserved

    def share_of(self, seconds: float) -> float:
        """Return the seconds as a share of the budget."""
        return seconds / self.budget_seconds

    def expect(self, step_seconds: float) -> None:
        """Use this duration of a step until one is measured."""
        self._step_seconds = step_seconds

    def stepped(self) -> None:
        """Update the estimated duration of a step: a slow step raises it at once, fast ones lower it slowly."""
        if self._step_start is not None:
            took = self.seconds() - self._step_start
            self._step_seconds = max(took, 0.99 * self._step_seconds + 0.01 * took)

    def reserve(self, seconds: float) -> None:
        """Reserve this much time at the end."""
        self._reserved = seconds

    def to_json(self) -> dict[str, Any]:
        """Return the budget."""
        return {"train_seconds": self.budget_seconds}

    def __str__(self) -> str:
        return format_duration(self.budget_seconds)


class StepClock(Clock):
    """A budget of training steps. Raises `BudgetError` unless it is positive."""

    def __init__(self, budget_steps: int) -> None:
        if budget_steps < 1:
            raise BudgetError(f"a training needs one step or more, got {budget_steps}: raise --train-steps")
        self.budget_steps = budget_steps
        self._steps = 0
        self._started = time.perf_counter()

    def start(self) -> None:
        """Start at step 0."""
        self._steps, self._started = 0, time.perf_counter()

    def seconds(self) -> float:
        """Return the seconds since the start, for information only."""
        return time.perf_counter() - self._started

    def fraction(self) -> float:
        """Return the share of the steps that are done."""
        return self._steps / self.budget_steps

    def may_step(self) -> bool:
        """Return whether a step is left."""
        return self._steps < self.budget_steps

    def stepped(self) -> None:
        """Count a step."""
        self._steps += 1

    def has_room(self, seconds: float) -> bool:
        """Return true: time is unlimited."""
        return True

    def share_of(self, seconds: float) -> float:
        """Return 0: time is unlimited."""
        return 0.0

    def expect(self, step_seconds: float) -> None:
        """Ignore it: time is unlimited."""

    def reserve(self, seconds: float) -> None:
        """Ignore it: scoring takes no step."""

    def to_json(self) -> dict[str, Any]:
        """Return the budget."""
        return {"train_steps": self.budget_steps}

    def __str__(self) -> str:
        return f"{self.budget_steps} steps"


def clock_from_json(data: dict[str, Any]) -> Clock:
    """Return a clock that has not started, from `to_json`. Raises `BudgetError`."""
    kinds: dict[str, Callable[[Any], Clock]] = {"train_steps": StepClock, "train_seconds": WallClock}
    for name, make in kinds.items():
        value = data.get(name) if isinstance(data, dict) else None
        if is_finite(value):
            return make(value)
    raise BudgetError(f"a clock needs train_seconds or train_steps, got {data!r}: give --train-time or --train-steps")
