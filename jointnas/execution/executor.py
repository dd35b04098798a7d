"""Executors: jobs go in, events come out; a worker that dies, hangs, runs out of memory or leaks is replaced."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, Self

from jointnas.errors import SearchError
from jointnas.execution.slots import Slot
from jointnas.execution.worker import OUT_OF_MEMORY, Prepare, work

HANG_SECONDS = 180.0  # without a message from a running job
START_SECONDS = 600.0  # for a worker to prepare
STARTS = 3  # failed starts in a row before the executor gives up
LEAK_BYTES = 2 * 1024**3  # of growth after a worker's first job


class Job(NamedTuple):
    """One piece of work: a number that the caller chooses, and a payload of JSON types.

    alone: runs with all the memory of its device; on one machine, while no other job does.
    """

    number: int
    payload: dict[str, Any]
    alone: bool = False


ERROR, MEMORY, DIED, HUNG, LOST = "error", "memory", "died", "hung", "lost"
"""Why a job failed: it raised, memory ran out, its process died, it sent no message for too long, or its machine was lost."""


@dataclass(frozen=True)
class Event:
    """What happened to a job. kind: started, progress, done (with `result`), failed (with `reason` and `cause`) or retried (with both).

    attempts: how often the job was started until its end.
    """

    kind: str
    number: int
    fraction: float = 0.0
    seconds: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    cause: str = ERROR
    attempts: int = 1


class Executor(ABC):
    """The contract: each submitted job ends in exactly one `done` or `failed` event, unless it is cancelled."""

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs, which start in their order."""

    @abstractmethod
    def poll(self, timeout: float) -> list[Event]:
        """Return the next events as soon as there is one, or none after `timeout` seconds."""

    @abstractmethod
    def cancel(self, number: int) -> None:
        """Drop a job, queued or running; no later event names it."""

    @abstractmethod
    def close(self) -> None:
        """End all workers."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def results(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """Submit jobs and yield their events until each has ended."""
        self.submit(jobs)
        open_jobs = {job.number for job in jobs}
        while open_jobs:
            for event in self.poll(0.5):
                if event.kind in ("done", "failed"):
                    open_jobs.discard(event.number)
                yield event


@dataclass
class _Worker:
    """One slot's process and the job it runs."""

    process: BaseProcess
    connection: Connection
    ready: bool = False
    job: Job | None = None
    last_message: float = field(default_factory=time.monotonic)
    first_memory: int | None = None


class LocalExecutor(Executor):
    """`slot.workers` processes on this machine with `slot.threads` threads each; use as a context manager.

    Where the system allows it, no two workers use the same cores. A worker sees a single GPU; the workers of a GPU share its memory evenly.
    prepare: called once in each worker, importable by name. hang_seconds: a job without a message for so long has failed.
    preload: modules that each worker imports before `prepare`. On Linux the first executor of a process starts a server that
    imports its own, and workers are forked from that server, so that they start in a fraction of a second.
    """

    def __init__(
        self, prepare: Prepare, slot: Slot, hang_seconds: float = HANG_SECONDS, preload: Sequence[str] = ()
    ) -> None:
        self._prepare, self._slot, self._hang_seconds = prepare, slot, hang_seconds
        self._preload = tuple(preload)
        self._context = _process_context(preload)
        self._queue: deque[Job] = deque()
        self._failed_starts = 0
        self._broken = ""  # why a worker could not prepare
        self._is_alone = False  # whether the workers are the single one of a job that runs alone
        self._workers = [self._start(i) for i in range(slot.workers)]

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs."""
        self._queue.extend(jobs)

    def cancel(self, number: int) -> None:
        """Drop a job; the worker that runs it is replaced."""
        self._queue = deque(job for job in self._queue if job.number != number)
        for i, worker in enumerate(self._workers):
            if worker.job and worker.job.number == number:
                self._replace(i)

    def close(self) -> None:
        """End all workers, in the middle of their jobs."""
        for worker in self._workers:
            _end(worker)
        self._workers = []

    def poll(self, timeout: float) -> list[Event]:
        """Start the jobs that find a free worker; return their events, or wait for those of running jobs."""
        if self._broken:  # after the events of the poll in which it was found
            raise SearchError(f"a worker could not prepare for its first job: {self._broken}")
        events = self._assign()
        connections = {worker.connection: i for i, worker in enumerate(self._workers)}
        for connection in [] if events else wait(list(connections), timeout):
            assert isinstance(connection, Connection)
            events += self._receive(connections[connection])
        for i, worker in enumerate(self._workers):
            patience = self._hang_seconds if worker.ready else START_SECONDS
            if (worker.job or not worker.ready) and time.monotonic() - worker.last_message > patience:
                events += self._lose(i, f"it hung: it sent no message for {patience:.0f} seconds", HUNG)
        return events

    def _start(self, i: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        place = self._slot.place(i, self._is_alone)
        process = self._context.Process(target=work, args=(theirs, self._prepare, place, self._preload), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _replace(self, i: int) -> None:
        _end(self._workers[i])
        self._workers[i] = self._start(i)

    def _arrange(self) -> None:
        """Once no job runs, have the workers that the next one needs: a single one for a job alone, else one for each slot."""
        if self._queue and self._queue[0].alone != self._is_alone and not any(w.job for w in self._workers):
            self.close()
            self._is_alone = self._queue[0].alone
            self._workers = [self._start(i) for i in range(1 if self._is_alone else self._slot.workers)]

    def _assign(self) -> list[Event]:
        self._arrange()
        events = []
        for worker in self._workers:
            if worker.ready and worker.job is None and self._queue and self._queue[0].alone == self._is_alone:
                job = self._queue.popleft()
                try:
                    worker.connection.send((job.number, job.payload))
                except (BrokenPipeError, ConnectionResetError):  # it died while idle: `_receive` replaces it
                    self._queue.appendleft(job)
                    continue
                worker.job, worker.last_message = job, time.monotonic()
                events.append(Event("started", job.number))
        return events

    def _receive(self, i: int) -> list[Event]:
        worker = self._workers[i]
        try:
            kind, number, content = worker.connection.recv()
        except (EOFError, OSError):  # also when it was killed in the middle of a message
            worker.process.join(5)
            return self._lose(i, *_death(worker.process.exitcode))
        worker.last_message = time.monotonic()
        if kind == "ready":
            worker.ready, self._failed_starts = True, 0
            return []
        if kind == "broken":
            self._broken = content
            return []
        if kind == "progress":
            return [Event("progress", number, *content)]
        worker.job = None
        if kind == "done":
            worker.first_memory = worker.first_memory or content["memory"]
            if content["memory"] - worker.first_memory > LEAK_BYTES:
                self._replace(i)
            return [Event("done", number, result=content["result"])]
        if kind == "exhausted":
            self._replace(i)
        return [Event("failed", number, reason=content, cause=MEMORY if content.startswith(OUT_OF_MEMORY) else ERROR)]

    def _lose(self, i: int, reason: str, cause: str) -> list[Event]:
        """Replace a dead or silent worker; return the failure of its job."""
        worker = self._workers[i]
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= STARTS:
                raise SearchError(
                    f"no worker could start, after {STARTS} attempts ({reason}): "
                    'a script must call JointNAS below `if __name__ == "__main__":`'
                )
        job = worker.job
        self._replace(i)
        return [Event("failed", job.number, reason=f"the worker was lost: {reason}", cause=cause)] if job else []


def _process_context(preload: Sequence[str]) -> ForkServerContext | SpawnContext:
    """Return what starts processes; elsewhere than on Linux, system libraries may crash after a fork."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context


def _end(worker: _Worker) -> None:
    """End a worker, and the processes that its jobs started."""
    worker.connection.close()
    if hasattr(os, "killpg") and worker.process.pid is not None:
        with suppress(ProcessLookupError, PermissionError):  # it has just started, and leads no group yet
            os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.kill()
    worker.process.join(10)


def _death(exitcode: int | None) -> tuple[str, str]:
    """Return how a worker ended, in words, and the cause of its job's failure."""
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        if name == "SIGKILL":
            return f"it was killed by {name}, as when the system runs out of memory", MEMORY
        return f"it was killed by {name}", DIED
    return f"it ended with exit code {exitcode}", DIED
