"""What runs inside a worker process: it prepares once, then runs one job after another until the pipe closes."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import psutil
from threadpoolctl import threadpool_limits

from jointnas.errors import JointNASError
from jointnas.execution.slots import Place

Progress = Callable[[float, float], None]
"""Called by a handler with the fraction of its job that is done and the seconds since the job's start."""

Handler = Callable[[dict[str, Any], Progress], dict[str, Any]]
"""Runs one job: takes its payload, returns its result, both of JSON types."""

Prepare = Callable[[], Handler]
"""Called once in a worker, before its first job."""

OUT_OF_MEMORY = "out of memory"
SIGNS_OF_IT = (OUT_OF_MEMORY, "can't allocate memory", "cannot allocate memory")


def work(connection: Connection, prepare: Prepare, place: Place, preload: Sequence[str]) -> None:
    """Serve jobs from `connection`: receive (number, payload), send ("progress" | "done" | "failed", number, content).

    Ends when the parent closes the pipe or dies, in the middle of a job too, and so do the processes that a job started. What jobs print
    goes to stderr: stdout is the parent's.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    with contextlib.suppress(OSError):
        os.dup2(2, 1)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # a group with all that jobs start, which ends with this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.clear()  # a worker forked from a server would keep the variables of the server's start
    os.environ.update(place.environment)
    if place.cores:
        os.sched_setaffinity(0, place.cores)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("800")  # when memory runs out, the system kills a worker before the search
    try:
        import_modules(preload)  # which the server of an earlier executor did not import
        limit(place)
        handler = prepare()
        limit(place)  # also the libraries that `prepare` imported
        connection.send(("ready", 0, None))
        while True:
            number, payload = connection.recv()
            kind, content = run_job(
                handler, payload, lambda *done, number=number: connection.send(("progress", number, done))
            )
            if kind == "done":
                content = {"result": content, "memory": psutil.Process().memory_info().rss}
            connection.send((kind, number, content))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        _end_group()
    except JointNASError as error:
        connection.send(("broken", 0, str(error)))
    except Exception as error:  # in `prepare`: sent with its type, as the parent cannot see it
        connection.send(("broken", 0, f"{type(error).__name__}: {error}"))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        _end_group()


def _end_group() -> None:
    """End this process and all that its jobs started, at once."""
    if hasattr(os, "killpg") and os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def import_modules(modules: Sequence[str]) -> None:
    """Import modules by their names, before any clock starts."""
    for module in modules:
        importlib.import_module(module)


def limit(place: Place) -> None:
    """Keep the libraries to the place's threads and to its share of the GPU's memory."""
    threadpool_limits(place.threads)
    if torch := sys.modules.get("torch"):  # torch has its own thread count; it is not imported just for that
        torch.set_num_threads(place.threads)
        if place.memory_share is not None:
            torch.cuda.set_per_process_memory_fraction(place.memory_share)


def run_job(handler: Handler, payload: dict[str, Any], progress: Progress) -> tuple[str, Any]:
    """Return ("done", result), ("failed", reason), or ("exhausted", reason) where the process cannot go on.

    Raises `BrokenPipeError` or `ConnectionResetError` when the parent is gone.
    """
    try:
        return "done", handler(payload, progress)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except JointNASError as error:
        return "failed", str(error)
    except MemoryError as error:
        return "exhausted", f"{OUT_OF_MEMORY}: {error}"
    except Exception as error:  # whatever a handler raises is that job's failure, with its type in the reason
        text = str(error).lower()
        full = any(sign in text for sign in SIGNS_OF_IT)
        kind = "exhausted" if full or "cuda error" in text else "failed"  # after either, no later job would succeed
        reason = OUT_OF_MEMORY if full else type(error).__name__
        return kind, f"{reason}: {str(error).splitlines()[0] if text else 'no message'}"
