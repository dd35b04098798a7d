"""Optimisers of others in the benchmarks: they see the whole space, keep to the bound, and spend what they were given."""

from __future__ import annotations

import importlib
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest

from benchmarks.search.peers import Knobs, optuna_search, random_search, regularised_evolution
from benchmarks.search.real_trainings import RealTrainings, delivered, serve
from benchmarks.search.task import Spent, Task
from jointnas.execution.executor import Event, Executor, Job
from jointnas.space.knob_space import Candidate
from jointnas.space.space import Space
from jointnas.training.job import TrainingResult
from jointnas.training.observation import Observation

SPACE = Space.load("resnet9", (1, 8, 8), 10)
BOUND = "macs<1M"
PEERS: dict[str, Any] = {"random": random_search, "evolution": regularised_evolution}
if find_spec("optuna") and hasattr(importlib.import_module("optuna").trial.Trial, "set_constraint"):
    PEERS["optuna tpe"] = partial(optuna_search, sampler="tpe")


def rate_of(candidate: Candidate) -> float:
    """A made-up accuracy: the learning rate's share of 10."""
    return float(candidate["recipe"]["learning_rate"]) / 10


class InstantExecutor(Executor):
    """Ends each training at once with `rate_of` its candidate; one in three fails where `fails` is set."""

    def __init__(self, fails: bool = False) -> None:
        self.jobs: list[Job] = []
        self.ended: list[dict[str, Any]] = []
        self.fails = fails

    def submit(self, jobs: Any) -> None:
        self.jobs += jobs

    def poll(self, timeout: float) -> list[Event]:
        events = []
        for job in self.jobs:
            self.ended.append(job.payload)
            if self.fails and len(self.ended) % 3 == 0:
                events.append(Event("failed", job.number, reason="too hot"))
                continue
            accuracy = rate_of(job.payload["candidate"])
            result = TrainingResult(Observation(accuracy, steps=7), test_accuracy=accuracy - 0.01)
            events += [Event("started", job.number), Event("done", job.number, result=result.to_json())]
        self.jobs = []
        return events

    def cancel(self, number: int) -> None:
        raise AssertionError("nothing is cancelled")

    def close(self) -> None:
        pass


def test_peers_see_every_candidate_of_the_space() -> None:
    knobs = Knobs(SPACE)
    for candidate in SPACE.sample(60, 0):
        for inactive in (True, False):
            numbers = knobs.numbers(candidate, inactive=inactive)
            assert SPACE.identity(knobs.candidate(numbers)) == SPACE.identity(candidate)
    names = {knob.name for knob in knobs.free}
    assert set(knobs.conditions) == names
    assert all(set(own) <= names for own in knobs.conditions.values())
    assert "optimizer" in knobs.conditions["momentum"]


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_ends_with_the_best_of_its_trainings_within_the_bound(name: str) -> None:
    executor = InstantExecutor(fails=True)
    start = [c for c in SPACE.sample(200, 1) if SPACE.cost(c)["macs"] < 1e6][:2]

    def client(train: Any) -> dict[str, Any]:
        trainings = RealTrainings(SPACE, BOUND, {"train_seconds": 1.0}, 1000, train)
        return delivered(PEERS[name], trainings, BOUND, start, 9, seed=0, final=True)

    one, other = serve(executor, [client, client], 2)
    for row in (one, other):
        assert len(row["trials"]) == 8
        assert row["val_accuracy"] == max(row["trials"])
    every = [payload["candidate"] for payload in executor.ended]
    assert len(every) == 18
    assert all(SPACE.cost(candidate)["macs"] < 1e6 for candidate in every)
    assert sum(payload["with_val"] for payload in executor.ended) == 2
    identities = [SPACE.identity(candidate) for candidate in every]
    assert all(identities.count(SPACE.identity(candidate)) >= 2 for candidate in start)


def test_an_executor_that_breaks_ends_its_clients() -> None:
    class Broken(InstantExecutor):
        def poll(self, timeout: float) -> list[Event]:
            if self.jobs:
                raise OSError("no memory")
            return []

    def client(train: Any) -> dict[str, Any]:
        RealTrainings(SPACE, BOUND, {"train_seconds": 1.0}, 0, train)(SPACE.sample(1)[0])
        return {}

    with pytest.raises(OSError, match="no memory"):
        serve(Broken(), [client], 1)


def test_a_task_counts_budgets_and_names_its_leader() -> None:
    class Rates(RealTrainings):
        def __call__(self, candidate: Candidate) -> tuple[float, int | None]:
            return rate_of(candidate), None

    task = Task(Rates(SPACE, BOUND, {}, 0, lambda job: pytest.fail("nothing is trained")), BOUND, 3, 1, 0)
    sampled = SPACE.sample(300, 2)
    small = sorted((c for c in sampled if SPACE.cost(c)["macs"] < 1e6), key=rate_of)
    large = max((c for c in sampled if SPACE.cost(c)["macs"] > 1e6), key=rate_of)
    for candidate in (large, small[0], small[-1]):
        task.train(candidate)
    assert rate_of(large) >= rate_of(small[0])
    assert task.leaders() == [None, 1, 2]
    with pytest.raises(Spent):
        task.train(small[1])
    assert task.spent == 3
