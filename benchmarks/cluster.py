"""From one worker to a thousand: how long the driver of a search takes for a proposal, and how busy it keeps the workers.

    python -m benchmarks.cluster --to benchmarks/results/cluster.json

The search is the real one, in the space `resnet9` on the digits, over an executor in simulated time: a training takes about ten minutes of
the cluster's clock and none of this machine's, while the driver's own seconds pass in both. Busy is the part of the workers' time in which
they train, from the first start to the last one: the end, when nothing more is proposed, is left out.
"""

from __future__ import annotations

import argparse
import heapq
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import machine, write
from jointnas.campaign.campaign import run
from jointnas.campaign.options import make_spec
from jointnas.campaign.spec import SearchSpec
from jointnas.execution import Event, Executor, Job
from jointnas.training.job import TrainingResult
from jointnas.training.observation import Observation

SECONDS = 600.0  # of a training, in the mean
SPREAD = 0.05  # of its logarithm


class SimulatedCluster(Executor):
    """Workers whose trainings take simulated time; what the driver takes between two calls is added to it."""

    def __init__(self, workers: int) -> None:
        self.workers, self.now = workers, 0.0
        self.proposals: list[tuple[int, float]] = []  # jobs, and the driver's seconds before them
        self._rng = np.random.default_rng(0)
        self._queue: deque[Job] = deque()
        self._running: list[tuple[float, int]] = []  # end, number
        self.trainings: list[tuple[float, float]] = []  # start, end
        self._jobs: dict[int, Job] = {}
        self._last = time.perf_counter()

    def _pass_time(self) -> float:
        real = time.perf_counter()
        passed, self._last = real - self._last, real
        self.now += passed
        return passed

    def submit(self, jobs: Sequence[Job]) -> None:
        """Start as many as there are free workers."""
        passed = self._pass_time()
        if self._jobs and jobs:
            self.proposals.append((len(jobs), passed))
        self._queue.extend(jobs)
        self._jobs.update({job.number: job for job in jobs})
        self._fill(self.now)

    def _fill(self, at: float) -> None:
        while self._queue and len(self._running) < self.workers:
            seconds = SECONDS * float(np.exp(SPREAD * self._rng.normal()))
            heapq.heappush(self._running, (at + seconds, self._queue.popleft().number))
            self.trainings.append((at, at + seconds))

    def poll(self, timeout: float) -> list[Event]:
        """Return all trainings that have ended by now; wait for the next one where none has."""
        self._pass_time()
        if timeout and self._running:
            self.now = max(self.now, self._running[0][0])
        events = []
        while self._running and self._running[0][0] <= self.now:
            end, number = heapq.heappop(self._running)
            events.append(Event("done", number, result=_result(self._jobs[number])))
            self._fill(end)
        return events

    def busy(self) -> float:
        """Return the part of the workers' time, from the first start to the last one, in which they train."""
        first, last = min(start for start, _ in self.trainings), max(start for start, _ in self.trainings)
        trained = sum(min(end, last) - start for start, end in self.trainings)
        return trained / (self.workers * (last - first))

    def cancel(self, number: int) -> None:
        """Nothing is cancelled here."""

    def close(self) -> None:
        """There is nothing to close."""


def _result(job: Job) -> dict[str, Any]:
    """Return a made-up outcome that depends on a few knobs."""
    architecture, recipe = job.payload["candidate"]["architecture"], job.payload["candidate"]["recipe"]
    width, rate = architecture.get("width", 8), recipe.get("learning_rate", 0.1)
    noise = np.random.default_rng(job.payload["seed"]).normal() * 0.01
    accuracy = 0.8 - 0.05 * np.log2(width / 16) ** 2 - 0.03 * np.log10(rate / 0.3) ** 2 + noise
    return TrainingResult(Observation(float(np.clip(accuracy, 0.05, 0.99)), steps=100, seconds=SECONDS)).to_json()


def measure(workers: int, batch: int, each: float) -> dict[str, Any]:
    """Return the proposals and the business of a search with so many workers."""
    rounds = max(4, ceil(each * workers / batch))
    given = {
        "data": "digits",
        "train_steps": 100,
        "constraints": ["macs<2M"],
        "rounds": rounds,
        "batch": batch,
        "workers": workers,
        "executor": "ray:simulated",
        "confirm": 0,
        "final": "best",
        "portfolio": 0,
    }
    spec = make_spec(given)
    assert isinstance(spec, SearchSpec)
    cluster = SimulatedCluster(workers)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run(spec, out=Path(folder) / "run", executor=cluster)
        real = time.perf_counter() - start
    return {
        "workers": workers,
        "trainings": rounds * batch,
        "driver seconds in all": round(real, 1),
        "slowest proposal": round(max(s for _, s in cluster.proposals), 2),
        "seconds a candidate": round(sum(s for _, s in cluster.proposals) / sum(n for n, _ in cluster.proposals), 3),
        "busy": round(cluster.busy(), 4),
    }


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--each", type=float, default=3.0, help="trainings of each worker")
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    rows = []
    for workers in options.workers:
        rows.append(measure(workers, options.batch, options.each))
        print(rows[-1], flush=True)
    write(
        {"machine": machine(), "seconds": SECONDS, "batch": options.batch, "each": options.each, "rows": rows},
        options.to,
    )


if __name__ == "__main__":
    main()
