"""A busy neighbour: what keeps a test's computation waiting for its core."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jointnas.execution.contention import read_thread_times

counts_waiting = pytest.mark.skipif(not read_thread_times(), reason="this system does not count how long threads wait")


@contextmanager
def busy_neighbour() -> Iterator[None]:
    """Run this thread on one core, which a process that never rests shares with it."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
            time.sleep(0.3)  # until it is at work
            try:
                yield
            finally:
                neighbour.kill()
    finally:
        os.sched_setaffinity(0, cores)
