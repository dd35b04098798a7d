"""Jobs on a Ray cluster, each a plain task on as many cores, and as large a part of a GPU, as a slot has.

Ray runs no task a second time by itself: a job whose node dies is a lost one, which `RetryingExecutor` runs again. What workers prepare
from travels to each node once, through Ray's object store.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import psutil

from jointnas.errors import JointNASError, SearchError
from jointnas.execution.executor import DIED, ERROR, HANG_SECONDS, HUNG, LOST, MEMORY, Event, Executor, Job
from jointnas.execution.slots import Place, Slot
from jointnas.execution.worker import OUT_OF_MEMORY, Handler, Prepare, import_modules, limit, run_job

try:
    import ray
    from ray import exceptions
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError as error:
    raise SearchError("Ray is not installed: pip install ray") from error

CONNECT_SECONDS = 10.0
PATIENCE_SECONDS = 1800.0  # for a first job to start, on a cluster that has to grow
LEAK_BYTES = 2 * 1024**3  # of growth after a process's first job
TOKEN_ADVICE = "set RAY_AUTH_TOKEN to the cluster's token, or RAY_AUTH_MODE=disabled where it has none"


@runtime_checkable
class Portable(Protocol):
    """A `Prepare` that reads files of this machine: for another one it is replaced by one that carries their content."""

    def carried(self) -> Prepare:
        """Return one that needs no file."""


@dataclass
class _Running:
    """A job in the cluster. node: where it has started, "" before. outcome: what a process sent that has ended itself."""

    job: Job
    task: Any
    node: str = ""
    outcome: tuple[str, Any] | None = None
    last_message: float = field(default_factory=time.monotonic)


class RayExecutor(Executor):
    """`slot.workers` jobs at a time on the cluster at `address`: "auto" for one that runs on this machine, "local" for a new one.

    It takes what `LocalExecutor` takes. Raises `SearchError` where the cluster cannot be reached.
    """

    def __init__(
        self,
        prepare: Prepare,
        slot: Slot,
        hang_seconds: float = HANG_SECONDS,
        preload: Sequence[str] = (),
        *,
        address: str = "auto",
    ) -> None:
        self._slot, self._hang_seconds = slot, hang_seconds
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            _connect(address)
        self._queue: deque[Job] = deque()
        self._running: dict[int, _Running] = {}
        self._broken = ""  # why a worker could not prepare
        self._has_started = False  # whether any job has; until then there is a deadline
        self._deadline = math.inf
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._inbox = ray.remote(_Inbox).options(num_cpus=0, scheduling_strategy=here).remote()
        carried = prepare.carried() if isinstance(prepare, Portable) else prepare
        self._prepare = ray.put((carried, tuple(preload)))
        self._key = os.urandom(8).hex()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs."""
        self._queue.extend(jobs)

    def cancel(self, number: int) -> None:
        """Drop a job; its task is ended by force."""
        self._queue = deque(job for job in self._queue if job.number != number)
        if running := self._running.pop(number, None):
            _end(running.task)

    def close(self) -> None:
        """End all tasks, and the connection where this executor has made it."""
        self._queue.clear()
        for running in self._running.values():
            _end(running.task)
        self._running = {}
        with suppress(Exception):
            ray.kill(self._inbox)
        if self._owns_ray:
            ray.shutdown()

    def poll(self, timeout: float) -> list[Event]:
        """Start the jobs for which there is a slot; return events, or wait for some."""
        if self._broken:  # after the events of the poll in which it was found
            raise SearchError(f"a worker could not prepare for its first job: {self._broken}")
        self._assign()
        tasks = [running.task for running in self._running.values()]
        ended, _ = ray.wait(tasks, num_returns=1, timeout=timeout) if tasks else ([], [])
        if ended:
            ended, _ = ray.wait(tasks, num_returns=len(tasks), timeout=0)
        events = self._messages()
        for running in [r for r in self._running.values() if r.task in ended]:
            del self._running[running.job.number]
            events += self._outcome(running)
        self._check_patience()
        return events + self._hung()

    def _assign(self) -> None:
        """Submit as many tasks as there are slots."""
        while self._queue and len(self._running) < self._slot.workers:
            job = self._queue.popleft()
            self._running[job.number] = _Running(job, self._start(job))
            self._deadline = min(self._deadline, time.monotonic() + PATIENCE_SECONDS)

    def _start(self, job: Job) -> Any:
        slot, share = self._slot, self._slot.memory_share(job.alone)
        task = ray.remote(_run).options(
            name=f"jointnas {job.number}",
            num_cpus=slot.threads,
            num_gpus=share or 0,
            max_retries=0,
            scheduling_strategy="SPREAD",
        )
        place = Place(slot.threads, {}, (), share)
        return task.remote(self._key, self._prepare, place, job.number, job.payload, self._inbox)

    def _check_patience(self) -> None:
        """Raise `SearchError` where no job has started at all."""
        if not self._has_started and time.monotonic() > self._deadline:
            gpu = " and a GPU" if self._slot.device == "cuda" else ""
            raise SearchError(
                f"a training needs a node with {self._slot.threads} free cores{gpu}, and the Ray cluster had none for "
                f"{PATIENCE_SECONDS / 60:.0f} minutes: add one, or lower --threads"
            )

    def _messages(self) -> list[Event]:
        """Return what running jobs have sent: their starts and their progress."""
        events = []
        try:
            messages = ray.get(self._inbox.take.remote())
        except exceptions.RayError as error:
            raise SearchError(
                f"the connection to the Ray cluster is lost ({_first_line(error)}): go on with --resume"
            ) from error
        for number, content in messages:
            running = self._running.get(number)
            if running is None:
                continue
            running.last_message = time.monotonic()
            if content is None:
                continue
            if isinstance(content, str):
                running.node, self._has_started = content, True
                events.append(Event("started", number))
            elif isinstance(content, list):
                running.outcome = (content[0], content[1])
            else:
                events.append(Event("progress", number, *content))
        return events

    def _outcome(self, running: _Running) -> list[Event]:
        """Return the end of a job whose task has ended, after its start where no message had come; none where a worker could not prepare."""
        number = running.job.number
        try:
            kind, content = ray.get(running.task)
        except exceptions.RayError as problem:
            if running.outcome is None:
                reason, cause = self._loss(running, problem)
                return [Event("failed", number, reason=reason, cause=cause)]
            kind, content = running.outcome
        if kind == "broken":
            self._broken = content
            return []
        if kind == "done":
            return [Event("done", number, result=content)]
        return [Event("failed", number, reason=content, cause=MEMORY if content.startswith(OUT_OF_MEMORY) else ERROR)]

    def _loss(self, running: _Running, problem: exceptions.RayError) -> tuple[str, str]:
        """Return why a task gave no outcome, in words, and the cause."""
        text = _first_line(problem)
        if isinstance(problem, exceptions.OutOfMemoryError):
            return f"{OUT_OF_MEMORY}: Ray ended its process", MEMORY
        if isinstance(problem, exceptions.NodeDiedError | exceptions.ObjectLostError | exceptions.OwnerDiedError):
            return f"its node was lost ({text})", LOST
        if isinstance(problem, exceptions.WorkerCrashedError):
            alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
            if running.node and running.node not in alive:
                return f"its node was lost ({text})", LOST
            return f"the worker was lost: its process died ({text})", DIED
        return text, ERROR

    def _hung(self) -> list[Event]:
        """End the tasks that have started and sent no message for too long; return the failures of their jobs."""
        now = time.monotonic()
        hung = [r for r in self._running.values() if r.node and now - r.last_message > self._hang_seconds]
        for running in hung:
            del self._running[running.job.number]
            _end(running.task)
        reason = f"the worker was lost: it hung: it sent no message for {self._hang_seconds:.0f} seconds"
        return [Event("failed", r.job.number, reason=reason, cause=HUNG) for r in hung]


class _Inbox:
    """An actor on the driver's node, which collects the messages of running tasks. No other node's loss can end it."""

    def __init__(self) -> None:
        self._messages: list[tuple[int, Any]] = []

    def put(self, number: int, content: Any) -> None:
        """Add a message: the node where a job starts, its progress, its outcome where its process ends itself, or None at its end."""
        self._messages.append((number, content))

    def take(self) -> list[tuple[int, Any]]:
        """Return the messages since the last call."""
        taken, self._messages = self._messages, []
        return taken


_handlers: dict[str, Handler] = {}  # of this process, by executor
_first_memory: list[int] = []  # bytes of this process after its first job


def _run(
    key: str, prepared: tuple[Prepare, Sequence[str]], place: Place, number: int, payload: Mapping[str, Any], inbox: Any
) -> tuple[str, Any]:
    """Run a job in a process of the cluster, which prepares for the first job of an executor; return its kind and content."""
    prepare, preload = prepared
    try:
        if key not in _handlers:
            _handlers.clear()
            _first_memory.clear()
            import_modules(preload)
            limit(place)
            _handlers[key] = prepare()
        limit(place)
    except JointNASError as error:
        return "broken", str(error)
    except Exception as error:  # sent with its type, as the driver cannot see it
        return "broken", f"{type(error).__name__}: {error}"
    ray.get(inbox.put.remote(number, ray.get_runtime_context().get_node_id()))

    def progress(fraction: float, seconds: float) -> None:
        inbox.put.remote(number, (fraction, seconds))

    kind, content = run_job(_handlers[key], dict(payload), progress)
    memory = psutil.Process().memory_info().rss
    _first_memory.append(memory)
    if kind == "exhausted" or memory - _first_memory[0] > LEAK_BYTES:
        ray.get(inbox.put.remote(number, [kind, content]))
        os._exit(1)  # no later job would succeed here
    ray.get(inbox.put.remote(number, None))  # once it is there, all earlier messages are
    return kind, content


def _connect(address: str) -> None:
    """Connect to a cluster. Raises `SearchError` with what to do where it cannot be reached."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    try:
        if colon and port.isdecimal():  # Ray itself would wait for minutes
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level="error", configure_logging=False)
    except Exception as error:  # Ray has no common type for them
        text = _first_line(error)
        advice = (
            TOKEN_ADVICE if "token" in text.lower() or "auth" in text.lower() else "start one with `ray start --head`"
        )
        raise SearchError(f"no Ray cluster can be used at {address!r} ({text}): {advice}") from error


def _end(task: Any) -> None:
    with suppress(Exception):  # it has just ended
        ray.cancel(task, force=True)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
