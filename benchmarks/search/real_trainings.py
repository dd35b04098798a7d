"""Runs optimisers of other projects on real trainings: each in its own thread, all of them share one executor."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from benchmarks.search.task import Spent, Task
from jointnas.execution import Executor
from jointnas.predictor.task import TrainingImages
from jointnas.space.constraint import Constraint, parse_all
from jointnas.space.knob_space import Candidate
from jointnas.space.space import Space
from jointnas.training.job import TrainingJob, TrainingResult

Train = Callable[[TrainingJob], TrainingResult]
"""Runs a training and waits for its result."""

Optimiser = Callable[[Task, int], None]
"""Spends the trainings of a task, by a seed."""


def serve(
    executor: Executor, clients: Sequence[Callable[[Train], dict[str, Any]]], at_a_time: int
) -> list[dict[str, Any]]:
    """Return what each client returns; so many of them run at a time, in threads, and train in the executor."""
    asked: queue.SimpleQueue[tuple[TrainingJob, Future[TrainingResult]]] = queue.SimpleQueue()
    waiting: dict[int, Future[TrainingResult]] = {}
    numbers = itertools.count()
    ended = threading.Event()

    def train(job: TrainingJob) -> TrainingResult:
        future: Future[TrainingResult] = Future()
        asked.put((job, future))
        while True:
            with contextlib.suppress(TimeoutError):
                return future.result(timeout=1)
            if ended.is_set():
                raise InterruptedError("the executor has ended")

    with ThreadPoolExecutor(at_a_time) as pool:
        running = [pool.submit(client, train) for client in clients]
        try:
            while not all(one.done() for one in running):
                for one in running:
                    if one.done():
                        one.result()  # raises where the client failed
                while not asked.empty():
                    job, future = asked.get()
                    number = next(numbers)
                    waiting[number] = future
                    executor.submit([job.numbered(number)])
                for event in executor.poll(0.1):
                    if event.kind in ("done", "failed"):
                        waiting.pop(event.number).set_result(TrainingResult.of(event))
        finally:
            ended.set()
            for one in running:
                one.cancel()
    return [one.result() for one in running]


class RealTrainings:
    """What a task's trainings are answered by: real ones under a clock."""

    candidates: list[Candidate] | None = None
    deviation = 0.0  # nothing is added to what is observed
    images = TrainingImages()

    def __init__(self, space: Space, bound: str, clock: dict[str, float], first_seed: int, train: Train) -> None:
        self.space, self.clock, self.first_seed, self.train = space, clock, first_seed, train
        self.constraints: list[Constraint] = parse_all([bound], space.metrics)
        self.card: dict[str, Any] = {"clock": clock}
        self.results: list[TrainingResult] = []

    def __call__(self, candidate: Candidate) -> tuple[float, int | None]:
        """Return the accuracy of a training on the validation images, 0 of a failed one, and its steps."""
        result = self.train(TrainingJob(candidate, self.clock, self.first_seed + len(self.results), test=True))
        self.results.append(result)
        return result.observation.accuracy or 0.0, result.observation.steps

    def on_all_images(self, candidate: Candidate) -> TrainingResult:
        """Return one more training, on the training and validation images together."""
        seed = self.first_seed + len(self.results)
        return self.train(TrainingJob(candidate, self.clock, seed, test=True, with_val=True))


def delivered(
    optimiser: Optimiser,
    objective: RealTrainings,
    bound: str,
    start: Sequence[Candidate],
    budgets: int,
    seed: int,
    final: bool,
) -> dict[str, Any]:
    """Return what an optimiser ends with after so many budgets, from the candidates that it starts from.

    final: whether its best candidate is trained once more, on all images, within these budgets.
    """
    task = Task(objective, bound, budgets - final, 1, seed)
    task.start = list(start)
    with contextlib.suppress(Spent):
        optimiser(task, seed)
    best = task.leaders()[-1]
    assert best is not None, "no training met the bound"
    network = objective.on_all_images(task.candidates[best]) if final else objective.results[best]
    return {
        "seed": seed,
        "test_accuracy": network.test_accuracy,
        "val_accuracy": task.seen[best],
        "candidate": task.candidates[best],
        "trials": task.seen,
    }
