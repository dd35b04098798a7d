"""Training by a user's function (`--train-fn module:function`), in workers like the built-in trainer's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jointnas.execution import find_executor
from jointnas.execution.executor import Executor
from jointnas.execution.retrying import RetryingExecutor
from jointnas.execution.slots import Slot
from jointnas.execution.worker import Handler, Progress
from jointnas.plugins import load_function
from jointnas.training.clock import clock_from_json
from jointnas.training.job import TrainingJob, TrainingResult
from jointnas.training.observation import Observation

NOT_NUMBERS = ("failure", "curve", "machine")  # of an observation
WHOLE = ("steps", "trainings", "attempts")
PATIENCE = 2.0  # a function may run for so many budgets plus PATIENCE_SECONDS before its worker is replaced
PATIENCE_SECONDS = 600.0


@dataclass(frozen=True)
class UserFunction:
    """`function(candidate, seed=…, clock=…)` returns an accuracy (larger is better), an `Observation`, or None for a failure.

    clock: a started `jointnas.training.clock.Clock` with the run's budget; the function itself stops when it is over.
    """

    name: str

    def prepare(self) -> Handler:
        """Import the function; return the function that runs a job with it."""
        function = load_function(self.name)

        def handle(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
            job = TrainingJob.from_json(payload)
            clock = clock_from_json(dict(job.clock))
            clock.start()
            return TrainingResult(_observation(function(job.candidate, seed=job.seed, clock=clock))).to_json()

        return handle


def function_executor(function: UserFunction, slot: Slot, clock: Mapping[str, float], kind: str = "local") -> Executor:
    """Return an executor whose workers call the user's function; under a budget of steps they may take any time."""
    seconds = clock.get("train_seconds")
    patience = math.inf if seconds is None else PATIENCE * seconds + PATIENCE_SECONDS
    return RetryingExecutor(find_executor(kind)(function.prepare, slot, patience))


def _observation(result: Any) -> Observation:
    if isinstance(result, Observation):
        return _checked(result)
    if result is None:
        return Observation.failed("the training function returned None")
    accuracy = float(result)
    if not math.isfinite(accuracy):
        return Observation.failed(f"the training function returned {accuracy}")
    return Observation(accuracy)


def _checked(observation: Observation) -> Observation:
    """Return a user's observation with numbers as Python has them; a failure where a score or a measurement is none."""
    numbers: dict[str, Any] = {}
    for name, value in vars(observation).items():
        if name in NOT_NUMBERS or value is None:
            continue
        number = float(value)
        if not math.isfinite(number):
            return Observation.failed(f"the training function returned the {name} {number}")
        numbers[name] = int(number) if name in WHOLE else number
    return replace(observation, **numbers)
