"""What runs inside a worker process: prepare once, then one job after another until the pipe closes."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import psutil

from jointnas.errors import JointNASError

Progress = Callable[[float, float], None]
Handler = Callable[[dict[str, Any], Progress], dict[str, Any]]
Prepare = Callable[[], Handler]
"""Called once in a worker; returns what handles a job's payload and reports its progress."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


def work(connection: Connection, prepare: Prepare, threads: int) -> None:
    """Serve jobs from `connection`: receive (number, payload), send ("progress" | "done" | "failed", number, …).

    Ends when the parent closes the pipe or dies, in the middle of a training too.
    """
    import torch  # here, as a parent that only asks a predictor does without

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("800")  # when memory runs out, a worker goes before the search
    torch.set_num_threads(threads)
    try:
        handler = prepare()
        connection.send(("ready", 0, None))
        while True:
            number, payload = connection.recv()
            connection.send(_answer(connection, handler, number, payload))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)
    except JointNASError as error:
        connection.send(("broken", 0, str(error)))
    except Exception as error:  # in `prepare`: told with its type, as the parent cannot see it
        connection.send(("broken", 0, f"{type(error).__name__}: {error}"))


def _answer(connection: Connection, handler: Handler, number: int, payload: dict[str, Any]) -> tuple[str, int, Any]:
    def progress(fraction: float, seconds: float) -> None:
        connection.send(("progress", number, (fraction, seconds)))

    try:
        return "done", number, {"result": handler(payload, progress), "memory": psutil.Process().memory_info().rss}
    except (BrokenPipeError, ConnectionResetError):
        raise
    except JointNASError as error:
        return "failed", number, str(error)
    except MemoryError as error:
        return "exhausted", number, f"out of memory: {error}"
    except Exception as error:  # whatever a training raises is that trial's failure, told with its type
        text = str(error).lower()
        full = any(sign in text for sign in OUT_OF_MEMORY)
        kind = "exhausted" if full or "cuda error" in text else "failed"  # either way this process is good for no more
        reason = "out of memory" if full else type(error).__name__
        return kind, number, f"{reason}: {str(error).splitlines()[0] if text else 'no message'}"
