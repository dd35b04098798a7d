"""An executor for tests: jobs run one by one in the test's own process."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

from jointnas.execution import Event, Executor, Job, Slot
from jointnas.execution.executor import ERROR, MEMORY
from jointnas.execution.worker import OUT_OF_MEMORY, Handler, Prepare, run_job


class InProcessExecutor(Executor):
    """Each poll runs the next job to its end. started: the jobs that were run, in order."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.queue: deque[Job] = deque()
        self.started: list[Job] = []

    def submit(self, jobs: Sequence[Job]) -> None:
        self.queue += jobs

    def poll(self, timeout: float) -> list[Event]:
        if not self.queue:
            return []
        job = self.queue.popleft()
        self.started.append(job)
        events = [Event("started", job.number)]
        kind, content = run_job(self.handler, job.payload, partial(self._progress, events, job.number))
        return [*events, self._end(job.number, kind, content)]

    @staticmethod
    def _progress(events: list[Event], number: int, fraction: float, seconds: float) -> None:
        events.append(Event("progress", number, fraction, seconds))

    @staticmethod
    def _end(number: int, kind: str, content: Any) -> Event:
        if kind == "done":
            return Event("done", number, result=content)
        return Event("failed", number, reason=content, cause=MEMORY if content.startswith(OUT_OF_MEMORY) else ERROR)

    def cancel(self, number: int) -> None:
        self.queue = deque(job for job in self.queue if job.number != number)

    def close(self) -> None:
        self.queue.clear()


def make_in_process(prepare: Prepare, slot: Slot, hang_seconds: float = 0, preload: Sequence[str] = ()) -> Executor:
    """Return an in-process executor; takes what `LocalExecutor` takes, as a plugin does."""
    return InProcessExecutor(prepare())
