"""The search as ask-and-tell: what it asks, what it learns, and what it names as best."""

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats.qmc import discrepancy

from jointnas.campaign.direct import best_trained
from jointnas.errors import CandidateError, ConstraintError, SearchError, SpaceError
from jointnas.predictor.contract import Predictor
from jointnas.search.batch import children_of_the_best
from jointnas.search.engines import Problem
from jointnas.search.objective import Query
from jointnas.search.search import LOWER_BOUND_DEVIATIONS, Search
from jointnas.search.winners import RESOLUTION, START_BEST, Winner, distinct_columns, front, spread_out
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Codes
from jointnas.space.space import Space
from jointnas.training.observation import Observation, mean_observation
from tests.search.cube import PEAK, cube, light, numbers, point, total, truth


@pytest.fixture(scope="module")
def campaign() -> Search:
    """A search of two rounds under a constraint on a cost function."""
    search = Search(cube(), ["total<2"], seed=1, cost=total, pool_size=1000)
    for _ in range(2):
        batch = search.ask(12)
        search.tell(batch, [truth(c) for c in batch])
    return search


@pytest.fixture(scope="module")
def winners(campaign: Search) -> list[Winner]:
    return campaign.best(10)


# ------------------------------------------------------------------------------------------------------------- asking


def test_it_asks_for_different_candidates_within_the_constraints_and_never_again() -> None:
    space = Space.load("resnet9", (1, 8, 8), 10)
    search = Search(space, ["macs<2M", "params>=2K"], pool_size=64)
    asked = [candidate for _ in range(4) for candidate in search.ask(10)]
    assert len({space.identity(c) for c in asked}) == 40
    for candidate in asked:
        cost = space.cost(candidate)
        assert cost["macs"] < 2e6
        assert cost["params"] >= 2e3


def test_what_was_asked_in_one_round_is_not_asked_in_a_later_one(campaign: Search) -> None:
    codes = campaign.observed_codes
    observed = set(campaign.space.identities(codes))
    asked = campaign.ask(30)
    assert not observed & set(asked.identities)
    assert all(total(c)["total"] < 2 for c in asked)
    assert len(observed) == 24


def test_the_first_batch_is_spread_more_evenly_than_random_points() -> None:
    first = np.array([numbers(c) for c in Search(cube(), pool_size=1000).ask(16)])
    rng = np.random.default_rng(0)
    random = [discrepancy(rng.random((16, 4))) for _ in range(100)]
    assert discrepancy(first) < np.quantile(random, 0.1)


def test_a_search_that_asks_for_one_at_a_time_does_not_only_follow_its_best_guess() -> None:
    space = cube()
    pool = space.sample(200, seed=3)
    search = Search(space, pool=pool)
    search.tell(pool[:6], [truth(c) for c in pool[:6]])
    followed = []
    for _ in range(8):
        left = [c for c in pool[6:] if c not in search.space.to_candidates(search.observed_codes)]
        best = left[int(search.fitted().median_codes(space.to_codes(left)).argmax())]
        (asked,) = search.ask()
        search.tell([asked], [truth(asked)])
        followed.append(asked == best)
    assert not all(followed)


def test_a_batch_of_none_is_refused() -> None:
    with pytest.raises(SearchError, match="got 0"):
        Search(cube(), pool_size=10).ask(0)


def test_the_same_tells_give_the_same_asks_and_another_seed_gives_others() -> None:
    first, again, replayed, other = light(cube()), light(cube()), light(cube()), light(cube(), seed=1)
    batch = first.ask(3)
    assert again.ask(3) == batch
    assert other.ask(3) != batch
    for search in (first, again, replayed):  # the last one is told without having asked
        search.tell(batch, [truth(c) for c in batch])
    second = first.ask(5)
    assert again.ask(5) == second
    assert replayed.ask(5) == second


def test_a_second_batch_is_better_than_the_first(campaign: Search) -> None:
    values = [truth(c) for c in campaign.space.to_candidates(campaign.observed_codes)]
    assert np.mean(values[12:]) > np.mean(values[:12])


# ------------------------------------------------------------------------------------------------------------ telling


def test_observed_candidates_are_not_asked_though_they_were_never_asked() -> None:
    pool = [point(i / 10) for i in range(11)]
    search = light(cube(1), pool=pool)
    search.tell(pool[:4], [None] * 4)
    assert sorted(map(numbers, search.ask(20))) == sorted(map(numbers, pool[4:]))


@pytest.mark.parametrize(
    ("candidates", "results", "error"),
    [
        ([point(0.1)], [0.1, 0.2], SearchError),
        ([point(0.1), point(0.2)], [0.1, float("inf")], SearchError),
        ([point(0.1), point(0.2)], [0.1, float("nan")], SearchError),
        ([point(0.1), point(7.0)], [0.1, 0.2], CandidateError),
        ([point(0.1), point(0.1, 0.2)], [0.1, 0.2], CandidateError),
    ],
)
def test_a_wrong_tell_takes_nothing(candidates: list[Candidate], results: list[float], error: type[Exception]) -> None:
    search = light(cube(1))
    with pytest.raises(error):
        search.tell(candidates, results)
    assert search.trained == 0
    search.tell([point(0.1)], [0.3])
    assert search.trained == 1


def test_nothing_is_predicted_before_two_accuracies() -> None:
    search = light(cube(1))
    search.tell([point(0.1), point(0.2)], [0.5, None])
    assert search.trained == 1
    assert search.predict([point(0.3)]) is None
    assert search.rank_correlation is None
    with pytest.raises(SearchError, match="2 accuracies, got 1"):
        search.best()


def test_an_observation_counts_as_its_accuracy() -> None:
    plain, observed = light(cube(1)), light(cube(1))
    candidates, values = [point(0.1), point(0.9), point(0.5)], [0.2, 0.8, 0.5]
    plain.tell(candidates, values)
    observed.tell(candidates, [Observation(accuracy=v, steps=3) for v in values])
    assert plain.predict([point(0.3)]) == observed.predict([point(0.3)])


def test_the_latest_result_of_a_candidate_counts() -> None:
    twice, once = light(cube(1)), light(cube(1))
    candidates = [point(0.1), point(0.9), point(0.5)]
    twice.tell(candidates, [0.9, None, 0.1])
    twice.tell([candidates[0], candidates[2], candidates[1]], [0.2, 0.5, 0.8])
    once.tell(candidates, [0.2, 0.8, 0.5])
    assert twice.trained == 3
    assert twice.predict([point(0.3)]) == once.predict([point(0.3)])


def test_a_start_is_asked_first_and_once() -> None:
    space = cube()
    start = space.sample(3, seed=9)
    search = Search(space, cost=total, start=[*start, start[0]], pool=[*space.sample(50, seed=1), start[1]])
    asked = search.ask(53)
    assert asked[:3] == start
    assert len({space.identity(c) for c in asked}) == len(asked) == search.pool_size


def test_what_a_search_starts_from_has_children_in_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    space, parents = cube(), list[list[list[float]]]()
    trained = space.sample(40, seed=4)
    prior = Predictor(space).fit(trained, [Observation(truth(c)) for c in trained])

    def recording(predictor: Predictor, query: Query, codes: Codes, *more: Any) -> Any:
        parents.append(codes.tolist())
        return children_of_the_best(predictor, query, codes, *more)

    monkeypatch.setattr("jointnas.search.search.children_of_the_best", recording)
    search = Search(space, prior=prior, pool_size=8, start=[point(*PEAK)])
    search.tell(search.ask(4), [0.5] * 4)
    search.ask(4)
    assert [own.count(list(PEAK)) for own in parents] == [1, 1]


def test_a_start_that_breaks_a_bound_is_refused() -> None:
    space = cube()
    start = max(space.sample(50), key=lambda c: total(c)["total"])
    with pytest.raises(ConstraintError, match=r"a candidate to start from costs .* and breaks total<1"):
        Search(space, ["total<1"], cost=total, start=[start])


# ------------------------------------------------------------------------------------------------------------ winners


def test_winners_are_different_within_the_constraints_and_best_first(campaign: Search, winners: list[Winner]) -> None:
    assert len({campaign.space.identity(w.candidate) for w in winners}) == 10
    codes = campaign.space.to_codes([w.candidate for w in winners])
    bounds = campaign.fitted().bound_codes(codes, -LOWER_BOUND_DEVIATIONS).tolist()
    assert bounds == sorted(bounds, reverse=True)
    predicted = campaign.predict([w.candidate for w in winners])
    assert predicted is not None
    np.testing.assert_allclose(predicted, [(w.mean, w.std) for w in winners], rtol=1e-4)
    for winner in winners:
        assert winner.costs == pytest.approx(total(winner.candidate))
        assert winner.costs["total"] < 2


def test_winners_are_no_copies_of_each_other() -> None:
    """Where knobs are continuous thousands of candidates have the same prediction as the best; the next winner differs in a member."""
    search = light(cube())
    candidates = search.space.sample(24, seed=3)
    search.tell(candidates, [truth(c) for c in candidates])
    winners = search.best(4)
    codes = search.space.to_codes([w.candidate for w in winners])
    scores = search.fitted().sample_scores(codes, search.predictor.members, [search.seed])
    assert pdist(scores.T, "chebyshev").min() >= RESOLUTION


def test_distinct_columns_differ_from_all_before_them() -> None:
    step = 1.01 * RESOLUTION
    members = np.array([[0.0, 0.1, 0.0, step, step], [0.0, 0.0, step, 0.0, 0.1]])
    assert distinct_columns(members, 5) == [0, 2, 3]
    assert distinct_columns(members, 2) == [0, 2]


def test_a_winner_unpacks_into_candidate_mean_and_std(winners: list[Winner]) -> None:
    for winner, (candidate, mean, std) in zip(winners, winners, strict=True):
        assert (winner.candidate, winner.mean, winner.std) == (candidate, mean, std)


def test_naming_winners_again_names_the_same(campaign: Search, winners: list[Winner]) -> None:
    assert campaign.best(10) == winners


def test_one_campaign_answers_another_constraint_without_a_training(campaign: Search) -> None:
    other = Search(cube(), ["total<1"], cost=total, predictor=campaign.predictor, pool_size=1000)
    assert other.trained == campaign.trained
    winners = other.best(5)
    assert all(w.costs["total"] < 1 for w in winners)
    assert truth(winners[0].candidate) > np.mean([truth(c) for c in cube().sample(256) if total(c)["total"] < 1])
    observed = {other.space.identity(c) for c in campaign.predictor.candidates}
    assert not observed & {other.space.identity(c) for c in other.ask(20)}


def test_repeats_of_a_predictors_candidate_count_as_their_mean() -> None:
    space = cube()
    candidates = space.sample(8)
    accuracies = [truth(c) for c in candidates]
    predictor = Predictor(space).fit([*candidates, candidates[0]], [*accuracies, accuracies[0] - 0.2])
    search = light(space, predictor=predictor)
    (first,) = [w for w in best_trained(search, 8) if w.candidate == candidates[0]]
    assert first.accuracy == pytest.approx(accuracies[0] - 0.1)


@pytest.mark.parametrize("scale", [1.0, 1e9])
def test_the_cheapest_has_the_highest_utility_where_costs_are_negative_or_large(scale: float) -> None:
    def price(candidate: Candidate) -> dict[str, float]:
        return {"price": scale * (numbers(candidate)[0] - 0.5)}

    search = light(cube(1), cost=price, objective="min price", constraints=["accuracy>=0.5"])
    codes = search.space.to_codes([point(x) for x in (0.1, 0.4, 0.6, 0.9, 0.0)])
    utility = search.query.utility(codes, np.array([0.9, 0.9, 0.9, 0.9, 0.4]))
    assert utility.tolist() == sorted(utility.tolist(), reverse=True)
    assert len(set(utility.tolist())) == 5


def test_a_search_leaves_the_predictor_it_was_given_as_it_is() -> None:
    space = cube(1)
    predictor = Predictor(space, members=2).fit([point(0.1), point(0.9)], [0.2, 0.8])
    before = predictor.predict([point(0.5)])
    search = Search(space, predictor=predictor, pool_size=50)
    search.tell([point(0.5)], [0.01])
    search.ask(1)
    np.testing.assert_array_equal(predictor.predict([point(0.5)]), before)


def test_a_trained_candidate_carries_its_accuracy_and_a_failed_one_never_wins() -> None:
    pool = [point(i / 10) for i in range(11)]
    search = light(cube(1), pool=pool)
    search.tell([point(0.77)], [0.79])  # not in the pool
    results: list[float | None] = [numbers(c)[0] for c in pool[:8]]
    search.tell(pool[:8], results)
    search.tell(pool[9:], [None, None])  # by prediction they would be the best
    winners = search.best(11)
    assert sorted(numbers(w.candidate)[0] for w in winners) == pytest.approx([i / 10 for i in range(9)])
    for winner in winners:
        x = numbers(winner.candidate)[0]
        assert winner.accuracy == (None if x == pytest.approx(0.8) else pytest.approx(x))
    assert numbers(winners[0].candidate)[0] >= 0.6


def test_a_failed_candidate_never_wins_in_an_open_pool() -> None:
    space = Space.from_toml("format = 1\n[architecture]\nx0 = { low = 0, high = 9 }\nx1 = { low = 0, high = 9 }")
    everything = [point(a, b) for a, b in itertools.product(range(10), range(10))]
    failed = [c for c in everything if numbers(c)[0] >= 8]
    search = light(space)
    tried = [c for c in everything if numbers(c)[0] < 8][::5]
    search.tell(tried, [0.05 * sum(numbers(c)) for c in tried])
    search.tell(failed, [None] * len(failed))
    assert all(numbers(w.candidate)[0] < 8 for w in search.best(20))


def test_what_lies_near_the_best_is_asked_though_the_pool_does_not_hold_it() -> None:
    search = Search(cube(), seed=3, pool_size=32)
    pool = {tuple(numbers(c)) for c in search.ask(32)}
    search = Search(cube(), seed=3, pool_size=32)
    first = search.ask(16)
    search.tell(first, [truth(c) for c in first])
    second = search.ask(8)
    beyond = [c for c in second if tuple(numbers(c)) not in pool]
    assert beyond
    assert max(truth(c) for c in beyond) > max(truth(c) for c in first)


def test_a_batch_that_fails_is_learned_from() -> None:
    search = light(cube())
    candidates = search.space.sample(12, seed=3)
    search.tell(candidates, [truth(c) for c in candidates])
    before = search.fitted().predict(candidates)[0]
    failed = search.ask(4)
    search.tell(failed, [None] * 4)
    assert not np.allclose(search.fitted().predict(candidates)[0], before)
    assert len(search.predictor.observations) == 16


def test_winners_of_none_and_of_an_unknown_engine_are_refused() -> None:
    search = light(cube(1))
    search.tell([point(0.1), point(0.2)], [0.5, 0.6])
    with pytest.raises(SearchError, match="got 0"):
        search.best(0)
    with pytest.raises(SearchError, match="evolution"):
        search.best(1, engine="evolve")


def test_it_finds_better_candidates_than_as_many_random_draws() -> None:
    best, random = [], []
    for seed in range(6):
        search = light(cube(), seed)
        for _ in range(2):
            batch = search.ask(12)
            search.tell(batch, [truth(c) for c in batch])
        best.append(truth(search.best(1)[0].candidate))
        draws = np.random.default_rng(seed).random((25, 4)).tolist()
        random.append(max(truth(point(*x)) for x in draws))
    assert np.mean(best) > np.mean(random)


# --------------------------------------------------------------------------------------------------------- constraints


def test_an_unbound_space_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"Space\.bind"):
        Search(Space.load("resnet9"))


def test_a_constraint_on_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(ConstraintError, match=r"'totl'.*did you mean 'total'\?"):
        Search(cube(1), ["totl<1"], cost=total)


def test_a_constraint_that_nothing_meets_is_refused() -> None:
    with pytest.raises(ConstraintError, match="total>3"):
        Search(cube(2), ["total>3"], cost=total, pool_size=16)


def test_a_front_keeps_both_ends_and_nothing_twice_where_a_cost_is_nothing() -> None:
    objectives = np.array([[-i / 10, float(i)] for i in range(10)])
    best = front(objectives)
    for k in (1, 2, 5, 10):
        rows = spread_out(objectives, best, k).tolist()
        assert len(set(rows)) == len(rows) == k
    assert {0, 9} <= set(spread_out(objectives, best, 5).tolist())


def test_a_front_of_nothing_is_refused() -> None:
    search = Search(cube(), ["accuracy>=0.999"], cost=total, objective="min total", seed=0)
    batch = search.ask(8)
    search.tell(batch, [0.1] * 8)
    with pytest.raises(ConstraintError, match=r"none of \d+ candidates meets the bounds of the front"):
        search.front("total")


@pytest.mark.parametrize(
    ("constraints", "objective", "error", "message"),
    [
        (["accuracy<0.8"], "min total", ConstraintError, "takes a lower bound"),
        ([], "min images_per_second", SearchError, "should be large"),
        (["accuracy>=0.8"], "max accuracy", ConstraintError, "minimises a cost"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(constraints, objective, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        Search(cube(), constraints, cost=total, objective=objective)


# ------------------------------------------------------------------------------------------- what was trained, and predicted


def test_a_candidate_that_trained_well_twice_stands_above_all_that_are_only_predicted() -> None:
    search = light(cube())
    candidates = search.space.sample(16, seed=3)
    search.tell(candidates, [0.5 + 0.01 * truth(c) for c in candidates])
    outlier = candidates[5]  # nothing in its knobs says so
    search.tell([outlier], [mean_observation([Observation(0.62), Observation(0.63)])])
    for deviations in (0.0, 0.5, 1.0):
        first = search.best(1, deviations=deviations)[0]
        assert first.candidate == outlier
        assert first.accuracy == pytest.approx(0.625)


def test_a_batch_of_a_large_pool_is_chosen_from_other_members_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jointnas.search.search.CONSIDERED", 16)
    space = cube()
    pool = space.sample(200)
    search = Search(space, pool=pool)
    asked = []
    for _ in range(3):
        batch = search.ask(6)
        search.tell(batch, [truth(c) for c in batch])
        asked += batch
    identities = {space.identity(c) for c in asked}
    assert len(identities) == 18
    assert identities <= {space.identity(c) for c in pool}


def test_a_second_training_of_the_same_accuracy_makes_a_candidate_more_certain() -> None:
    search = Search(cube(), pool_size=500)
    batch = search.ask(8)
    search.tell(batch, [truth(c) for c in batch])
    codes = search.space.to_codes(batch[:1])
    before = search.fitted().bound_codes(codes, 1) - search.fitted().bound_codes(codes, -1)
    search.tell(batch[:1], [mean_observation([Observation(truth(batch[0]))] * 2)])
    after = search.fitted().bound_codes(codes, 1) - search.fitted().bound_codes(codes, -1)
    assert (after < before).all()


def test_a_second_observation_of_the_same_accuracy_with_another_smoothed_one_is_learned() -> None:
    search = Search(cube(), pool_size=500)
    batch = search.ask(8)
    search.tell(batch, [Observation(truth(c), smoothed_accuracy=truth(c)) for c in batch])
    ((before, _),) = search.predict(batch[:1]) or []
    search.tell(batch[:1], [Observation(truth(batch[0]), smoothed_accuracy=0.5 * truth(batch[0]))])
    ((after, _),) = search.predict(batch[:1]) or []
    assert after < before


def test_a_mean_of_trainings_has_what_is_known_of_those_that_succeeded() -> None:
    mean = mean_observation([Observation.failed("killed"), Observation(0.5, steps=70), Observation(0.7, steps=80)])
    assert (mean.accuracy, mean.trainings, mean.steps, mean.failure) == (0.6, 2, 70, None)


def test_an_engine_starts_from_no_candidate_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[Codes] = []

    def recording(problem: Problem) -> None:
        starts.append(problem.start)
        problem.evaluate(problem.start)

    monkeypatch.setattr("jointnas.search.search.find_engine", lambda name: recording)
    search = Search(cube(), pool_size=200)
    batch = search.ask(40)
    search.tell(batch, [truth(c) for c in batch])
    search.best(1)
    assert len(set(search.space.identities(starts[0][:START_BEST]))) == START_BEST
