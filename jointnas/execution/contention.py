"""How much of the processor a job got while it was ready to run: other programs on its cores keep it waiting."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

THREADS = Path("/proc/self/task")


class ThreadTimes(NamedTuple):
    """What the Linux scheduler has counted for one thread since its start, in nanoseconds."""

    running: int
    waiting: int  # ready to run, in the queue of a core


class CpuShare:
    """The share of its ready time that this process has run since the object was made.

    1 when a core was free whenever a thread was ready, 1/2 when each thread shared its core with another busy one.
    """

    def __init__(self) -> None:
        self._start = read_thread_times()

    def read(self) -> float | None:
        """Return running / (running + waiting) over all threads, in [0, 1]; None where the system does not count it.

        A thread that has ended since the start is left out, as its counts ended with it.
        """
        running = waiting = 0
        for number, end in read_thread_times().items():
            start = self._start.get(number, ThreadTimes(0, 0))
            if start.running > end.running:  # a new thread under the number of one that ended
                start = ThreadTimes(0, 0)
            running += end.running - start.running
            waiting += end.waiting - start.waiting
        return running / (running + waiting) if running else None


def read_thread_times() -> dict[str, ThreadTimes]:
    """Return the times of this process's threads by their numbers; none where the system has no such counts."""
    times = {}
    try:
        threads = list(THREADS.iterdir())
    except OSError:
        return {}
    for thread in threads:
        try:
            running, waiting, _ = map(int, (thread / "schedstat").read_text().split())
        except (OSError, ValueError):  # it has just ended, or this kernel does not count
            continue
        times[thread.name] = ThreadTimes(running, waiting)
    return times
