"""The clock of a training: schedules are functions of its fraction, and it says when to stop.

A `WallClock` runs from the moment the worker holds its decoded data to the moment the validation predictions exist:
building, whitening, augmenting, training and scoring all count. A `StepClock` counts steps and nothing else, so a training
is the same whatever the machine does besides.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from jointnas.errors import BudgetError
from jointnas.units import format_duration


class Clock(ABC):
    """The contract. `start` once, then `may_step`, a step, `stepped`, until `may_step` says no; then score."""

    @abstractmethod
    def start(self) -> None:
        """Begin the budget."""

    @abstractmethod
    def seconds(self) -> float:
        """Return the seconds since the start."""

    @abstractmethod
    def fraction(self) -> float:
        """Return the share of the training's part of the budget that is over, from 0 to 1, never falling."""

    @abstractmethod
    def may_step(self) -> bool:
        """Return whether another training step fits."""

    @abstractmethod
    def stepped(self) -> None:
        """Say that a training step is done."""

    @abstractmethod
    def has_room(self, seconds: float) -> bool:
        """Return whether something else than a step, that takes so long, fits before the reserved time."""

    @abstractmethod
    def expect(self, step_seconds: float) -> None:
        """Say how long the first step will take."""

    @abstractmethod
    def reserve(self, seconds: float) -> None:
        """Keep this much time free at the end, for scoring."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return what `clock_from_json` reads."""


class WallClock(Clock):
    """A budget of seconds. Raises `BudgetError` for none."""

    def __init__(self, budget_seconds: float, now: Callable[[], float] = time.perf_counter) -> None:
        if not budget_seconds > 0:
            raise BudgetError(f"a training time is above 0 seconds, got {budget_seconds!r}: raise --train-time")
        self.budget_seconds = budget_seconds
        self._now = now
        self._started = now()
        self._reserved = 0.0
        self._fraction = 0.0
        self._step_seconds = 0.0
        self._last: float | None = None

    def start(self) -> None:
        """Begin the budget now."""
        self._started, self._fraction, self._step_seconds, self._last = self._now(), 0.0, 0.0, None

    def seconds(self) -> float:
        """Return the seconds since the start."""
        return self._now() - self._started

    def fraction(self) -> float:
        """Return elapsed time over the budget less what is reserved and one step, so that the last step ends at about 1."""
        available = self.budget_seconds - self._reserved - self._step_seconds
        now = self.seconds() / available if available > 0 else 1.0
        self._fraction = min(1.0, max(self._fraction, now))
        return self._fraction

    def may_step(self) -> bool:
        """Return whether a step as slow as the recent ones ends before the reserved time begins."""
        self._last = self.seconds()
        return self._last + self._step_seconds <= self.budget_seconds - self._reserved

    def has_room(self, seconds: float) -> bool:
        """Return whether so many seconds are left before the reserved time."""
        return self.seconds() + seconds <= self.budget_seconds - self._reserved

    def expect(self, step_seconds: float) -> None:
        """Take this for the time of a step until one is measured."""
        self._step_seconds = step_seconds

    def stepped(self) -> None:
        """Note how long the step took: a slow one counts at once and is forgotten slowly."""
        if self._last is not None:
            took = self.seconds() - self._last
            self._step_seconds = max(took, 0.99 * self._step_seconds + 0.01 * took)

    def reserve(self, seconds: float) -> None:
        """Keep this much time free at the end."""
        self._reserved = seconds

    def to_json(self) -> dict[str, Any]:
        """Return the budget."""
        return {"train_seconds": self.budget_seconds}

    def __str__(self) -> str:
        return format_duration(self.budget_seconds)


class StepClock(Clock):
    """A budget of training steps. Raises `BudgetError` for none."""

    def __init__(self, budget_steps: int) -> None:
        if budget_steps < 1:
            raise BudgetError(f"a training has one step or more, got {budget_steps}: raise --train-steps")
        self.budget_steps = budget_steps
        self._steps = 0
        self._started = time.perf_counter()

    def start(self) -> None:
        """Begin at step 0."""
        self._steps, self._started = 0, time.perf_counter()

    def seconds(self) -> float:
        """Return the seconds since the start, for information only."""
        return time.perf_counter() - self._started

    def fraction(self) -> float:
        """Return the share of the steps that is done."""
        return self._steps / self.budget_steps

    def may_step(self) -> bool:
        """Return whether a step is left."""
        return self._steps < self.budget_steps

    def stepped(self) -> None:
        """Count a step."""
        self._steps += 1

    def has_room(self, seconds: float) -> bool:
        """Return true: only steps count."""
        return True

    def expect(self, step_seconds: float) -> None:
        """Take no note: only steps count."""

    def reserve(self, seconds: float) -> None:
        """Take no note: scoring takes no step."""

    def to_json(self) -> dict[str, Any]:
        """Return the budget."""
        return {"train_steps": self.budget_steps}

    def __str__(self) -> str:
        return f"{self.budget_steps} steps"


def clock_from_json(data: dict[str, Any]) -> Clock:
    """Return the clock that `to_json` described, not started."""
    kinds: dict[str, Callable[[Any], Clock]] = {"train_steps": StepClock, "train_seconds": WallClock}
    for name, make in kinds.items():
        value = data.get(name) if isinstance(data, dict) else None
        if isinstance(value, int | float) and math.isfinite(value):
            return make(value)
    raise BudgetError(f"a clock has train_seconds or train_steps, got {data!r}: say --train-time or --train-steps")
