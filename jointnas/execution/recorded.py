"""An executor that keeps the results of finished jobs on disk and never runs a recorded job again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jointnas.errors import RunError
from jointnas.execution.executor import Event, Executor, Job


class RecordedExecutor(Executor):
    """Another executor whose finished jobs are recorded; a job that has a record ends at once, with the recorded result.

    Each payload names the file of its `weights`, beside which the record is written. Failed jobs are not recorded.
    context: what a result depends on beside the payload.
    """

    def __init__(self, executor: Executor, context: Mapping[str, Any]) -> None:
        self._executor, self._context = executor, dict(context)
        self._running: dict[int, Job] = {}
        self._recorded: list[Event] = []  # ends of submitted jobs that have a record

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue the jobs that have no record."""
        for job in jobs:
            result = self._read(job)
            if result is None:
                self._running[job.number] = job
                self._executor.submit([job])
            else:
                self._recorded.append(Event("done", job.number, result=result))

    def poll(self, timeout: float) -> list[Event]:
        """Return the ends of recorded jobs, then the other executor's events. Raises `RunError` when a disk is full."""
        recorded, self._recorded = self._recorded, []
        if recorded:
            return recorded
        events = self._executor.poll(timeout)
        for event in events:
            if event.kind == "done":
                self._write(self._running.pop(event.number), event.result)
        return events

    def cancel(self, number: int) -> None:
        """Drop a job."""
        self._recorded = [event for event in self._recorded if event.number != number]
        if self._running.pop(number, None):
            self._executor.cancel(number)

    def close(self) -> None:
        """Close the other executor."""
        self._executor.close()

    def _read(self, job: Job) -> dict[str, Any] | None:
        weights = Path(job.payload["weights"])
        with suppress(OSError, ValueError, LookupError):
            record = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
            if record["asked"] == self._key(job) and weights.is_file():
                result: dict[str, Any] = record["result"]
                return result
        return None

    def _write(self, job: Job, result: dict[str, Any]) -> None:
        path = Path(job.payload["weights"]).with_suffix(".json")
        half = path.with_suffix(".half")
        try:
            half.write_text(json.dumps({"asked": self._key(job), "result": result}), encoding="utf-8")
            half.replace(path)  # in one step, so that a record is complete or absent
        except OSError as error:
            raise RunError(
                f"the result of a job could not be written to {str(path)!r} ({error}): make room on the disk, then repeat the command"
            ) from error

    def _key(self, job: Job) -> dict[str, Any]:
        """Return what a job's result depends on: the context and its payload, but not where the weights go."""
        return {**self._context, **{key: value for key, value in job.payload.items() if key != "weights"}}
