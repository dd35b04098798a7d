"""A closed pool: only its candidates are asked, returned and costed."""

from pathlib import Path

import numpy as np
import pytest

from jointnas.campaign.direct import best_trained, observed_evaluation, optimise
from jointnas.errors import CandidateError, ConstraintError, SearchError
from jointnas.predictor.contract import Predictor
from jointnas.search.engines import ENGINES, Evaluation
from jointnas.search.search import ALL, Search
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Codes
from jointnas.space.space import Space
from tests.search.cube import cube, light, numbers, point, total, truth

every_engine = pytest.mark.parametrize("engine", [*ENGINES, ALL])


class Table:
    """Costs of a few candidates; a candidate that it does not hold is a KeyError."""

    def __init__(self, candidates: list[Candidate]) -> None:
        self.rows = {tuple(numbers(c)): total(c) for c in candidates}

    def __call__(self, candidate: Candidate) -> dict[str, float]:
        return self.rows[tuple(numbers(candidate))]


def test_the_pool_alone_is_asked_until_it_is_exhausted() -> None:
    pool = [point(i / 10) for i in range(11)]
    search = light(cube(1), pool=[*pool, *pool], cost=total, constraints=["total<=0.75"])
    asked = [*search.ask(5), *search.ask(5)]
    assert len(asked) == 8
    assert sorted(map(numbers, asked)) == sorted(map(numbers, pool[:8]))
    with pytest.raises(SearchError, match=r"all 8 candidates of the pool were asked"):
        search.ask()


def test_the_first_batch_is_drawn_from_the_pool_whatever_its_order() -> None:
    pool = [point(i / 100) for i in range(100)]
    first, other = (Search(cube(1), seed=seed, pool=pool).ask(8) for seed in (0, 1))
    assert first != other
    assert max(numbers(c)[0] for c in first) > 0.5


def test_a_pool_in_which_nothing_meets_the_constraints_is_refused() -> None:
    with pytest.raises(ConstraintError, match=r"none of the 3 candidates in the pool meets total<0.05: widen the pool"):
        Search(cube(1), ["total<0.05"], cost=total, pool=[point(0.1), point(0.2), point(0.3)])


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(SearchError, match=r"a pool has at least 1 candidate, got pool_size=0"):
        Search(cube(1), pool_size=0)


def test_a_pool_of_candidates_of_another_space_is_refused() -> None:
    with pytest.raises(CandidateError):
        Search(cube(1), pool=[point(0.1, 0.2)])


def test_a_pool_that_runs_out_is_exhausted_and_still_has_winners() -> None:
    space = Space.load("resnet9", (1, 8, 8), 10)
    search = Search(space, pool=space.sample(3, seed=0))
    assert not search.exhausted
    search.tell(search.ask(5), [0.5, 0.6, 0.7])
    assert search.exhausted
    assert len(search.best(2)) == 2


@every_engine
def test_the_cost_function_is_called_for_candidates_of_the_pool_only(engine: str) -> None:
    space = cube()
    pool = space.sample(80, seed=3)
    search = Search(space, ["total<2.2"], cost=Table(pool), pool=pool, start=pool[:2])
    for _ in range(2):
        batch = search.ask(8)
        search.tell(batch, [truth(c) for c in batch])
    for winner in [*search.best(5, engine), *search.front("total", 5), *best_trained(search, 3)]:
        assert winner.candidate in pool
        assert winner.costs == total(winner.candidate)
    cheap = Search(space, ["accuracy>=0.5"], cost=Table(pool), pool=pool, objective="min total")
    cheap.tell(pool[:20], [truth(c) for c in pool[:20]])
    assert [w.costs["total"] for w in cheap.best(3, engine)] == sorted(w.costs["total"] for w in cheap.best(3, engine))


@pytest.mark.parametrize("engine", ENGINES)
def test_direct_search_calls_the_cost_function_for_candidates_of_the_pool_only(engine: str) -> None:
    space = cube()
    pool = space.sample(80, seed=3)
    search = Search(space, ["total<2.2"], cost=Table(pool), pool=pool)

    def train(codes: Codes) -> Evaluation:
        candidates = space.to_candidates(codes)
        search.tell(candidates, [truth(c) for c in candidates])
        return observed_evaluation(search, codes)

    optimise(search, engine, train, search.ask(4).codes, 30, 4)
    assert 4 < search.trained <= 30  # more than the start


def test_a_saved_predictor_answers_for_the_pool_again(tmp_path: Path) -> None:
    space = cube()
    pool = space.sample(80, seed=3)
    search = Search(space, cost=Table(pool), pool=pool)
    search.tell(pool[:20], [truth(c) for c in pool[:20]])
    search.fitted().save(tmp_path)
    loaded = Predictor.load(tmp_path, cost=Table(pool))
    np.testing.assert_allclose(loaded.predict(pool), search.fitted().predict(pool), rtol=1e-6)
    again = Search(loaded.space, predictor=loaded, pool=pool)
    assert [w.candidate for w in again.best(5)] == [w.candidate for w in search.best(5)]
