"""Trainings that are answered from their records where an earlier command has ended them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jointnas.errors import RunError
from jointnas.execution.executor import Event, Executor, Job


class RecordedExecutor(Executor):
    """Another executor whose finished jobs are recorded beside their weights: the same job is answered from its record.

    Failed jobs are not recorded. Jobs keep their `weights` in a file of their own. context: what else decides an outcome.
    """

    def __init__(self, executor: Executor, context: Mapping[str, Any]) -> None:
        self._executor, self._context = executor, dict(context)
        self._jobs: dict[int, Job] = {}  # those that run
        self._known: list[Event] = []  # of jobs that had a record

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue the jobs that have no record."""
        for job in jobs:
            result = self._recorded(job)
            if result is None:
                self._jobs[job.number] = job
                self._executor.submit([job])
            else:
                self._known.append(Event("done", job.number, result=result))

    def poll(self, timeout: float) -> list[Event]:
        """Return the ends of recorded jobs, then what the other executor has to say. Raises `RunError`."""
        known, self._known = self._known, []
        if known:
            return known
        events = self._executor.poll(timeout)
        for event in events:
            if event.kind == "done":
                self._record(self._jobs.pop(event.number), event.result)
        return events

    def cancel(self, number: int) -> None:
        """Take a job back."""
        self._known = [event for event in self._known if event.number != number]
        self._executor.cancel(number)

    def close(self) -> None:
        """Close the other executor."""
        self._executor.close()

    def _recorded(self, job: Job) -> dict[str, Any] | None:
        weights = Path(job.payload["weights"])
        with suppress(OSError, ValueError, LookupError):
            said: dict[str, Any] = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
            if said["asked"] == self._asked(job) and weights.is_file():
                result: dict[str, Any] = said["result"]
                return result
        return None

    def _record(self, job: Job, result: dict[str, Any]) -> None:
        path = Path(job.payload["weights"]).with_suffix(".json")
        half = path.with_suffix(".half")
        try:
            half.write_text(json.dumps({"asked": self._asked(job), "result": result}), encoding="utf-8")
            half.replace(path)  # at once, so that a record is whole or not there
        except OSError as error:
            raise RunError(
                f"a training is recorded on a disk with room, got {str(path)!r} ({error}): make room, then say the command again"
            ) from error

    def _asked(self, job: Job) -> dict[str, Any]:
        """Return what decides a job's outcome: the context and its payload, wherever the weights go."""
        return {**self._context, **{key: value for key, value in job.payload.items() if key != "weights"}}
