"""Constraints and objectives on metrics that are measured on a device: forecast during the search, measured of the winners."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jointnas.errors import ConstraintError, JointNASError, SearchError
from jointnas.execution import share_slots
from jointnas.measurement.meter import Meter, Workload
from jointnas.measurement.store import Store
from jointnas.network.blueprint import Blueprint
from jointnas.network.cost import blueprint_cost
from jointnas.search.objective import LARGEST_FORECAST_ERROR
from jointnas.search.search import Search
from jointnas.space.knob_space import Candidate
from jointnas.space.space import Space
from jointnas.training.recipe import Recipe
from tests.search.cube import cube, light, total, truth


class CountingMeter(Meter):
    """A device on which every layer takes a microsecond and every thousand MACs another, and SAM halves the speed."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(share_slots(1, "cpu"), (1, 8, 8), 10, Store(tmp_path / "figures.sqlite"))
        self.measured: list[str] = []

    def measure_workloads(self, workloads: Sequence[Workload], metrics: Sequence[str]) -> list[dict[str, float]]:
        self.measured += [network.digest() for network, _ in workloads]
        return [{metric: self.figure(metric, *network) for metric in metrics} for network in workloads]

    def figure(self, metric: str, network: Blueprint, recipe: Recipe) -> float:
        seconds = 1e-9 * blueprint_cost(network)["macs"] + 1e-6 * sum(len(block.nodes) for block in network.blocks)
        if metric == "latency":
            return seconds * recipe.views
        return 1 / seconds / (2 if recipe.gradient == "sam" else 1)


def timed_search(tmp_path: Path, *constraints: str, **more: Any) -> tuple[Search, CountingMeter]:
    meter = CountingMeter(tmp_path)
    search = Search(Space.load("resnet9", (1, 8, 8), 10), constraints, pool_size=400, meter=meter, **more)
    search.predictor.members = 2
    return search, meter


def wide(candidate: Candidate) -> float:
    """Return an accuracy that grows with the width, so that every bound on costs is in the way."""
    return 0.5 + 0.4 * float(candidate["architecture"]["width"]) / 64


def observed(search: Search, n: int = 12) -> Search:
    batch = search.ask(n)
    search.tell(batch, [wide(c) for c in batch])
    return search


def test_winners_are_measured_and_meet_their_measured_bounds(tmp_path: Path) -> None:
    search, meter = timed_search(tmp_path, "latency<60us", "params<500K")
    winners = observed(search).best(3)
    assert len(winners) == 3
    for winner in winners:
        assert winner.costs["latency"] == meter.figure("latency", *meter.workload(winner.candidate))
        assert winner.costs["latency"] < 60e-6
        assert winner.costs["params"] < 500e3


def test_a_forecast_keeps_candidates_from_being_asked_that_would_break_a_measured_bound(tmp_path: Path) -> None:
    search, meter = timed_search(tmp_path, "latency<60us")
    figures = [meter.figure("latency", *meter.workload(c)) for c in search.ask(40)]
    assert np.mean(np.array(figures) < 60e-6) > 0.8
    free, _ = timed_search(tmp_path)
    others = [meter.figure("latency", *meter.workload(c)) for c in free.ask(40)]
    assert np.mean(np.array(others) < 60e-6) < 0.6
    assert search.forecast_errors["latency"] < 0.1


def test_what_lies_near_the_best_keeps_to_the_forecast_too(tmp_path: Path) -> None:
    search, _ = timed_search(tmp_path, "latency<60us")
    observed(search, 2)
    asked = search.ask(2)
    assert search.query.forecast_feasible(search.space.to_codes(asked)).all()


def test_a_winner_that_breaks_its_bound_when_measured_is_replaced(tmp_path: Path) -> None:
    search, meter = timed_search(tmp_path, "latency<60us")
    observed(search)
    honest = meter.figure
    first = {search.space.blueprint(w.candidate).digest() for w in search.best(2)}
    meter.figure = lambda metric, network, recipe: (  # type: ignore[method-assign]
        1.0 if network.digest() in first else honest(metric, network, recipe)
    )
    after = search.best(2)
    assert not first & {search.space.blueprint(w.candidate).digest() for w in after}
    assert all(w.costs["latency"] < 60e-6 for w in after)


def test_a_candidate_too_slow_with_the_mirror_image_does_not_exclude_the_one_without(tmp_path: Path) -> None:
    search, meter = timed_search(tmp_path, "latency<60us")
    plain = search.space.fix({"test_flip": False}).sample(1)[0]
    twins: list[Candidate] = [{**plain, "recipe": {**plain["recipe"], "test_flip": flip}} for flip in (True, False)]
    meter.figure = lambda metric, network, recipe: 40e-6 * recipe.views  # type: ignore[method-assign]
    chosen, measured = search.query.measure(search.space.to_codes(twins), [0, 1], 1)
    assert chosen == [1]
    assert [measured[i]["latency"] for i in (0, 1)] == [80e-6, 40e-6]


def test_a_metric_is_reported_of_winners_without_a_bound(tmp_path: Path) -> None:
    search, _ = timed_search(tmp_path, "macs<2M", reported=["images_per_second"])
    assert all(w.costs["images_per_second"] > 0 for w in observed(search).best(2))


def test_the_fastest_network_of_a_predicted_accuracy_is_found(tmp_path: Path) -> None:
    search, meter = timed_search(tmp_path, "accuracy>=0.6", objective="min latency")
    winners = observed(search, 24).best(3)
    assert [w.costs["latency"] for w in winners] == sorted(w.costs["latency"] for w in winners)
    assert all(w.mean >= 0.6 for w in winners)
    heavier = [c for c in search.space.sample(300, seed=9) if wide(c) >= 0.62]
    typical = np.median([meter.figure("latency", *meter.workload(c)) for c in heavier])
    assert winners[0].costs["latency"] < typical


def test_the_fastest_winners_come_in_the_order_that_was_measured(tmp_path: Path) -> None:
    search, meter = timed_search(tmp_path, "accuracy>=0.55", objective="min latency")
    observed(search, 24)
    honest = meter.figure
    meter.figure = (
        lambda metric, network, recipe: (  # type: ignore[method-assign]
            honest(metric, network, recipe) * (1 + int(network.digest()[:2], 16) / 64)
        )
    )
    latencies = [w.costs["latency"] for w in search.best(6)]
    assert latencies == sorted(latencies)


def test_what_breaks_its_bound_on_a_front_gives_its_place_to_the_rest_of_it(tmp_path: Path) -> None:
    search, meter = timed_search(tmp_path, "latency<200us")
    observed(search, 24)
    honest = meter.figure
    first = {search.space.blueprint(w.candidate).digest() for w in search.front("latency", 3)}
    meter.figure = lambda metric, network, recipe: (  # type: ignore[method-assign]
        1.0 if network.digest() in first else honest(metric, network, recipe)
    )
    front = search.front("latency", 3)
    assert front
    assert not first & {search.space.blueprint(w.candidate).digest() for w in front}


def test_the_cheapest_network_of_a_predicted_accuracy_needs_no_device() -> None:
    search = Search(Space.load("resnet9", (1, 8, 8), 10), ["accuracy>=0.6"], pool_size=400, objective="min macs")
    search.predictor.members = 2
    winners = observed(search, 24).best(3)
    assert [w.costs["macs"] for w in winners] == sorted(w.costs["macs"] for w in winners)
    assert all(w.mean >= 0.6 for w in winners)


@pytest.mark.parametrize(
    ("constraints", "objective", "message"),
    [
        (["latency<5ms"], "max accuracy", "latency is measured on a device, but the search has no meter"),
        (["accuracy>=0.8"], "max accuracy", "the bound accuracy>=0.8 needs an objective that minimises a cost"),
        ([], "min macs", "the objective 'min macs' needs a bound on accuracy"),
        (["accuracy>=0.8"], "min mac", "no metric is called 'mac' in 'min mac'"),
        ([], "max macs", "the objective 'max macs' is neither 'max accuracy'"),
    ],
)
def test_an_objective_that_cannot_be_searched_is_refused(constraints: list[str], objective: str, message: str) -> None:
    with pytest.raises(JointNASError, match=re.escape(message)):
        Search(Space.load("resnet9", (1, 8, 8), 10), constraints, pool_size=64, objective=objective)


def test_a_measured_bound_that_nothing_is_forecast_to_meet_names_the_nearest(tmp_path: Path) -> None:
    search, _ = timed_search(tmp_path, "latency<1us")
    with pytest.raises(ConstraintError, match=r"forecast to meet latency<1us, the nearest forecast is .*us of latency"):
        search.ask()


def test_a_predicted_accuracy_that_nothing_reaches_is_refused(tmp_path: Path) -> None:
    search = Search(Space.load("resnet9", (1, 8, 8), 10), ["accuracy>=0.999"], pool_size=64, objective="min macs")
    search.predictor.members = 2
    observed(search)
    with pytest.raises(ConstraintError, match=r"none of \d+ candidates is predicted to meet accuracy>=0.999"):
        search.best(2)


@pytest.mark.parametrize("constraints", [(), ("latency<200us",), ("params<500K",)])
def test_a_front_trades_accuracy_for_a_measured_cost(constraints: tuple[str, ...], tmp_path: Path) -> None:
    search, meter = timed_search(tmp_path, *constraints)
    front = observed(search, 24).front("latency", 5)
    assert 2 <= len(front) <= 5
    latencies, accuracies = [w.costs["latency"] for w in front], [w.mean for w in front]
    assert latencies == [meter.figure("latency", *meter.workload(w.candidate)) for w in front]
    assert latencies == sorted(set(latencies))
    assert accuracies == sorted(set(accuracies))
    assert all(c.violation(np.array([w.costs[c.metric]]))[0] == 0 for w in front for c in search.constraints)


def test_a_front_of_what_is_no_cost_is_refused(tmp_path: Path) -> None:
    search, _ = timed_search(tmp_path)
    with pytest.raises(
        SearchError, match=r"a front needs accuracy and a cost, got 'images_per_second': choose from macs, "
    ):
        observed(search).front("images_per_second")
    abstract = light(cube(), cost=total)
    batch = abstract.ask(4)
    abstract.tell(batch, [truth(c) for c in batch])
    with pytest.raises(SearchError, match="a front needs accuracy and a cost, got 'latency': choose from total"):
        abstract.front("latency")


def test_the_device_is_not_used_before_the_pool_is(tmp_path: Path) -> None:
    search, meter = timed_search(tmp_path, "latency<60us")
    assert not meter.measured
    assert search.forecast_errors["latency"] < 0.1
    assert meter.measured
    n_measured = len(meter.measured)
    search.ask(4)
    assert len(meter.measured) == n_measured  # calibrated once


def test_an_exact_bound_that_nothing_meets_is_refused_before_the_device_is_used(tmp_path: Path) -> None:
    with pytest.raises(ConstraintError, match="params<1"):
        timed_search(tmp_path, "latency<60us", "params<1")


def test_a_forecast_with_a_large_error_gives_a_warning(tmp_path: Path) -> None:
    search, meter = timed_search(tmp_path, "latency<100ms")
    assert search.warnings == []
    other, meter = timed_search(tmp_path, "latency<100s")
    rng = np.random.default_rng(0)
    meter.figure = lambda metric, network, recipe: float(rng.lognormal(-3, 2))  # type: ignore[method-assign]
    (warning,) = other.warnings
    assert other.forecast_errors["latency"] > LARGEST_FORECAST_ERROR
    assert warning.startswith("the forecast of latency is unreliable (median error")


def test_a_pool_that_starts_with_its_own_members_holds_each_once_with_its_identity(tmp_path: Path) -> None:
    space = Space.load("resnet9", (1, 8, 8), 10)
    start = space.sample(3, seed=0)
    for bounds in ((), ("latency<0.1ms",)):
        search, _ = timed_search(tmp_path, *bounds, start=start)
        assert search.pool.identities == space.identities(search.pool.codes)
        assert len(set(search.pool.identities)) == search.pool_size
        assert space.to_candidates(search.pool.codes[:3]) == start
