"""An executor that repeats a job when memory ran out or the job's machine was lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jointnas.execution.executor import LOST, MEMORY, Event, Executor, Job

RETRIES = {MEMORY: 1, LOST: 2}
"""How often a job is run again, by the cause of its failure. Where memory ran out it then runs alone."""


class RetryingExecutor(Executor):
    """Another executor whose jobs are run again as `RETRIES` allows; each time there is a `retried` event in place of `failed`."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._running: dict[int, tuple[Job, list[str]]] = {}  # with the causes of its failures so far

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs."""
        self._running.update({job.number: (job, []) for job in jobs})
        self._executor.submit(jobs)

    def poll(self, timeout: float) -> list[Event]:
        """Return the other executor's events."""
        return [self._follow(event) for event in self._executor.poll(timeout)]

    def cancel(self, number: int) -> None:
        """Drop a job."""
        self._running.pop(number, None)
        self._executor.cancel(number)

    def close(self) -> None:
        """Close the other executor."""
        self._executor.close()

    def _follow(self, event: Event) -> Event:
        if event.kind not in ("done", "failed"):
            return event
        job, causes = self._running.pop(event.number)
        attempts = len(causes) + 1
        if event.kind == "done" or causes.count(event.cause) >= RETRIES.get(event.cause, 0):
            return replace(event, attempts=attempts)
        again = job._replace(alone=job.alone or event.cause == MEMORY)
        self._running[job.number] = (again, [*causes, event.cause])
        self._executor.submit([again])
        return replace(event, kind="retried", attempts=attempts)
