"""Engines: one contract for all of them, and the closed forms of the adaptive probabilities."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from jointnas.constraint import parse_all
from jointnas.engines import ENGINES, Evaluation, Problem, find_engine
from jointnas.engines.evolution import adaptive
from jointnas.errors import SearchError
from jointnas.knobs import Codes
from jointnas.pool import feasible, pool
from jointnas.space import Space

TARGET = np.array([7, 1, 5, 9, 3, 0])
VALUES = NDArray[np.float64]
every_engine = pytest.mark.parametrize("engine", sorted(ENGINES))


def grid(knobs: int = 6, high: int = 9) -> Space:
    """Return an abstract space of whole numbers whose cost `total` is their sum."""
    lines = "\n".join(f"x{i} = {{ low = 0, high = {high} }}" for i in range(knobs))
    return Space.from_toml(f"format = 1\n[architecture]\n{lines}").with_cost(
        lambda c: {"total": float(sum(float(v) for v in c["architecture"].values()))}
    )


def values(space: Space, codes: Codes) -> VALUES:
    """Return the (n, knobs) numbers behind codes."""
    rows = [list(c["architecture"].values()) for c in space.to_candidates(codes)]
    return np.array(rows, dtype=np.float64).reshape(len(codes), len(space.knobs))


def distance(x: VALUES) -> VALUES:
    """Return (n,) squared distances from the target, a separable objective that is 0 at its best."""
    return np.asarray(((x - TARGET[: x.shape[1]]) ** 2).sum(axis=1), dtype=np.float64)


class Recorder:
    """An evaluation that remembers every batch."""

    def __init__(self, space: Space, failing: Callable[[VALUES], NDArray[np.bool_]] | None = None) -> None:
        self.space, self.failing = space, failing
        self.batches: list[Codes] = []

    def __call__(self, codes: Codes) -> Evaluation:
        self.batches.append(codes)
        x = values(self.space, codes)
        failed = self.failing(x) if self.failing else np.zeros(len(x), dtype=bool)
        return Evaluation(np.where(failed, -1e6, distance(x))[:, None], np.zeros((len(x), 0)), failed)

    @property
    def codes(self) -> Codes:
        return np.concatenate(self.batches)


def problem(space: Space, recorder: Recorder, *constraints: str, budget: int = 3000, start: int = 64) -> Problem:
    parsed = parse_all(constraints, space.metrics)
    return Problem(space, parsed, recorder, pool(space, start, parsed, 5), budget, seed=0)


@every_engine
def test_an_engine_evaluates_nothing_infeasible_and_nothing_twice(engine: str) -> None:
    space = grid()
    recorder = Recorder(space)
    task = problem(space, recorder, "total<18")
    task.start = np.concatenate([task.start, task.start, space.to_codes(space.sample(64))])  # many do not meet it
    ENGINES[engine](task)
    assert feasible(space, task.constraints, recorder.codes).all()
    identities = space.identities(recorder.codes)
    assert len(identities) == len(set(identities)) > 64


@every_engine
@pytest.mark.parametrize("budget", [1, 50, 130, 777])
def test_an_engine_respects_its_budget(engine: str, budget: int) -> None:
    space = grid()
    recorder = Recorder(space)
    task = problem(space, recorder, budget=budget)
    ENGINES[engine](task)
    assert len(recorder.codes) == task.spent <= budget
    assert task.spent == budget or distance(values(space, recorder.codes)).min() == 0


@every_engine
def test_an_engine_evaluates_whole_generations_in_one_call(engine: str) -> None:
    space = grid()
    recorder = Recorder(space)
    ENGINES[engine](problem(space, recorder))
    sizes = [len(batch) for batch in recorder.batches]
    assert sizes[0] == 64
    assert np.mean(sizes) >= 32


@every_engine
@pytest.mark.parametrize("constraint", [None, "total<18"])
def test_an_engine_comes_near_the_optimum_of_a_separable_problem(engine: str, constraint: str | None) -> None:
    space = grid()
    recorder = Recorder(space)
    task = problem(space, recorder, *([constraint] if constraint else []))
    ENGINES[engine](task)
    found = np.concatenate(task.objectives)[:, 0]
    started = distance(values(space, task.start)).min()
    # The target's sum is 25, so 8 must go from five knobs (the last stands at 0): 2² + 2² + 2² + 1 + 1 = 14 at best.
    optimum = 0 if constraint is None else 14
    assert optimum <= found.min() <= optimum + 2 < started


@every_engine
def test_an_engine_keeps_its_results_with_their_objectives_and_no_failed_one(engine: str) -> None:
    space = grid()
    recorder = Recorder(space, failing=lambda x: x[:, 0] == 7)
    task = problem(space, recorder)
    ENGINES[engine](task)
    codes, objectives = np.concatenate(task.codes), np.concatenate(task.objectives)[:, 0]
    x = values(space, codes)
    assert (values(space, recorder.codes)[:, 0] == 7).any()  # failures did occur
    assert not (x[:, 0] == 7).any()
    np.testing.assert_array_equal(objectives, distance(x))
    assert objectives.min() <= 3  # 1 is the best without the failing value


@every_engine
def test_an_engine_ends_when_a_small_space_holds_nothing_new(engine: str) -> None:
    space = grid(knobs=2, high=2)
    recorder = Recorder(space)
    ENGINES[engine](problem(space, recorder, start=4))
    assert len(recorder.codes) == 9


@every_engine
def test_an_engine_ends_when_everything_fails(engine: str) -> None:
    space = grid()
    recorder = Recorder(space, failing=lambda x: np.ones(len(x), dtype=bool))
    task = problem(space, recorder)
    ENGINES[engine](task)
    assert sum(len(codes) for codes in task.codes) == 0


@every_engine
def test_an_engine_repeats_itself_at_the_same_seed_whatever_the_global_generators_say(engine: str) -> None:
    import random

    space = grid()
    recorders = []
    for global_seed in (1, 2):
        random.seed(global_seed)
        recorders.append(Recorder(space))
        ENGINES[engine](problem(space, recorders[-1], budget=500))
    np.testing.assert_array_equal(recorders[0].codes, recorders[1].codes)


def test_adaptive_probabilities_fall_from_the_mean_to_the_best() -> None:
    population = np.array([0.0, 1.0, 2.0, 5.0])  # mean 2, best 5
    asked = np.array([-3.0, 0.0, 2.0, 3.0, 3.5, 5.0])
    expected = [0.9, 0.9, 0.9, 0.2 + 0.7 * 2 / 3, 0.2 + 0.7 * 0.5, 0.2]
    np.testing.assert_allclose(adaptive(asked, population, (0.2, 0.9)), expected, rtol=1e-12)


def test_adaptive_probabilities_of_equal_individuals_are_the_lowest() -> None:
    np.testing.assert_array_equal(adaptive(np.ones(3), np.ones(3), (0.5, 0.95)), [0.5] * 3)


def test_an_unknown_engine_suggests_the_nearest() -> None:
    with pytest.raises(SearchError, match=r"'evolutoin': did you mean 'evolution'\?"):
        find_engine("evolutoin")
