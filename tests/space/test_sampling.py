"""Pools: all members meet the constraints and are different; a bound that nothing meets is an error."""

import itertools
import math
import re
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jointnas.errors import ConstraintError
from jointnas.network.cost import METRICS, blueprint_cost
from jointnas.space.constraint import Constraint, parse_all
from jointnas.space.knob_space import Candidate
from jointnas.space.sampling import draw_members, draw_pool, feasible
from jointnas.space.space import Space

BUILT_IN = ["resnet9", "senet"]
COARSE: dict[str, dict[str, Any]] = {
    "resnet9": {"activation": "relu", "depth3": 1},
    "senet": {"resolution": 1.0},
}


@cache
def load(name: str) -> Space:
    return Space.load(name, input_shape=(3, 32, 32), classes=10)


def members(space: Space, n: int, *constraints: str, seed: int = 0) -> list[Candidate]:
    return space.to_candidates(draw_pool(space, n, parse_all(constraints, space.metrics), seed))


@cache
def all_costs(space: Space) -> dict[str, NDArray[np.float64]]:
    """Return the costs of every architecture of a space, scored with and without the mirror image.

    The space has no conditions between its architecture knobs.
    """
    start = space.to_codes(space.sample(1))[0]
    varied = [i for i, knob in enumerate(space.knobs) if i < space.n_architecture or knob.name == "test_flip"]
    options = [range(len(space.knobs[i].extremes)) for i in varied]
    codes = np.tile(start, (math.prod(map(len, options)), 1))
    codes[:, varied] = list(itertools.product(*options))
    return space.costs(codes)


def counted(knobs: str) -> Space:
    """Return an abstract space whose cost `total` is the sum of its knobs."""
    space = Space.from_toml(f"format = 1\n[architecture]\n{knobs}")
    return space.with_cost(lambda c: {"total": sum(float(v) for v in c["architecture"].values())})


# ------------------------------------------------------------------------------------------------------- what is in it


@pytest.mark.parametrize("name", BUILT_IN)
def test_two_thousand_members_all_meet_the_bound_and_are_all_different(name: str) -> None:
    space = load(name)
    found = members(space, 2000, "macs<40M")
    assert len(found) == 2000
    assert max(blueprint_cost(space.blueprint(c))["macs"] for c in found) < 40e6
    assert len({space.identity(c) for c in found}) == 2000


def test_several_constraints_all_hold() -> None:
    space = load("resnet9")
    for candidate in members(space, 200, "macs<60M", "params>=200K", "size<2MB", "memory<1MiB", "activations<=100K"):
        found = space.cost(candidate)
        assert found["macs"] < 60e6
        assert found["params"] >= 200e3
        assert found["size"] < 2e6
        assert found["memory"] < 2**20
        assert found["activations"] <= 100e3


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_same_seed_gives_the_same_pool(name: str) -> None:
    assert members(load(name), 100, "macs<40M", seed=7) == members(load(name), 100, "macs<40M", seed=7)
    assert members(load(name), 100, "macs<40M", seed=7) != members(load(name), 100, "macs<40M", seed=8)


def test_a_small_pool_is_the_beginning_of_a_large_one() -> None:
    space = load("senet")
    assert members(space, 300, "macs<200M")[:50] == members(space, 50, "macs<200M")


@pytest.mark.parametrize("bounds", [[], ["macs<40M"], ["macs<600K"]])  # the last is met by repair and mutation alone
def test_members_have_their_own_identities(bounds: list[str]) -> None:
    space = Space.load("resnet9", (3, 32, 32), 10)
    codes, identities = draw_members(space, 300, parse_all(bounds, space.metrics))
    assert identities == space.identities(codes)


def test_without_constraints_a_pool_is_the_sample() -> None:
    space = load("resnet9")
    assert members(space, 64, seed=3) == space.sample(64, seed=3)


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("metric", METRICS)
def test_a_bound_close_to_the_smallest_value_still_has_members(name: str, metric: str) -> None:
    space = load(name)
    smallest = all_costs(space)[metric].min()
    found = members(space, 20, f"{metric}<={1.02 * smallest:.0f}")
    assert len(found) == 20
    assert all(space.cost(c)[metric] <= 1.02 * smallest for c in found)


def test_a_bound_that_random_points_never_meet_is_met_by_descent_and_spread() -> None:
    space = counted("\n".join(f"k{i} = {{choices = [false, true]}}" for i in range(30)))
    found = members(space, 31, "total<=1")
    assert len(found) == 31
    assert all(sum(c["architecture"].values()) <= 1 for c in found)


@pytest.mark.parametrize("name", ["fbnet", "joint", "resnet9"])
def test_a_bound_that_one_point_in_ten_thousand_meets_fills_the_pool(name: str) -> None:
    space = load(name)
    drawn = space.costs(next(space.stream(5, chunk=16_384)))
    small, light = np.quantile(drawn["params"], 1e-4), np.quantile(drawn["macs"], 0.5)
    constraints = parse_all([f"params<={small:.0f}", f"macs<={light:.0f}"], space.metrics)
    pool = draw_pool(space, 1000, constraints)
    costs = space.costs(pool)
    assert costs["params"].max() <= small
    assert costs["macs"].max() <= light
    assert len(set(space.identities(pool))) == 1000


def test_repaired_points_stay_as_different_as_they_were_drawn() -> None:
    space = load("resnet9")
    bound = np.quantile(space.costs(next(space.stream(5, chunk=16_384)))["macs"], 1e-4)
    found = members(space, 1000, f"macs<={bound:.0f}")
    rates = np.log10([float(c["recipe"]["learning_rate"]) for c in found])
    assert np.histogram(rates, bins=8)[0].min() > 1000 / 8 / 3


@pytest.mark.parametrize("seed", [0, 1])
def test_a_bound_that_most_single_steps_come_no_closer_to_is_met(seed: int) -> None:
    knobs = "\n".join(f"k{i} = {{low = 0, high = 99}}" for i in range(8))
    space = Space.from_toml(f"format = 1\n[architecture]\n{knobs}").with_cost(
        lambda c: {"tens": sum(int(v) // 10 for v in c["architecture"].values())}
    )
    found = members(space, 5, "tens<1", seed=seed)
    assert len(found) == 5
    assert all(max(c["architecture"].values()) < 10 for c in found)


@pytest.mark.parametrize("name", BUILT_IN)
def test_bounds_that_a_single_network_meets_exactly_are_met(name: str) -> None:
    space = load(name)
    for candidate in space.sample(5, seed=11):
        exact = space.cost(candidate)
        pinned = [f"{metric}{side}{exact[metric]}" for metric in ("macs", "params") for side in ("<=", ">=")]
        found = members(space, 10, *pinned)
        assert len(found) == 10
        assert {(space.cost(c)["macs"], space.cost(c)["params"]) for c in found} == {(exact["macs"], exact["params"])}


def test_a_bound_that_one_value_of_a_fine_grid_meets_is_met() -> None:
    grid = "{low = 1, high = 2000, log = true}"
    space = Space.from_toml(f"format = 1\n[architecture]\na = {grid}\nb = {grid}").with_cost(
        lambda c: {"distance": abs(c["architecture"]["a"] - 1777) + abs(c["architecture"]["b"] - 1234)}
    )
    assert members(space, 1, "distance<1") == [{"architecture": {"a": 1777, "b": 1234}, "recipe": {}}]


def test_a_space_smaller_than_the_pool_gives_all_it_has() -> None:
    space = counted("a = {low = 1, high = 5}\nb = {choices = [1, 2, 3]}")
    assert len(members(space, 100)) == 15
    assert len(members(space, 100, "total<=4")) == 6


def test_a_space_without_a_free_knob_has_a_pool_of_one() -> None:
    assert members(counted("a = 1\nb = 2"), 5, "total<4") == [{"architecture": {"a": 1, "b": 2}, "recipe": {}}]


def test_a_space_without_a_free_knob_refuses_a_bound_it_does_not_meet() -> None:
    with pytest.raises(ConstraintError, match="meets total<3, the smallest total it reaches is 3"):
        members(counted("a = 1\nb = 2"), 5, "total<3")


def test_candidates_of_one_network_and_recipe_are_one_member() -> None:
    space = Space.from_toml(
        "format = 1\n[architecture]\nnetwork = 'senet'\nwidth = {values = [0.05, 0.9999, 1.0]}\n"
        "[recipe]\noptimizer = {choices = ['adam', 'adamw']}\nmomentum = {values = [0.8, 0.9]}",
        input_shape=(3, 32, 32),
        classes=10,
    )
    assert len(members(space, 100)) == 2 * 2


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True), min_size=1, max_size=3),
    st.sampled_from(["<", "<=", ">", ">="]),
    st.integers(0, 27),
)
def test_a_pool_of_a_small_space_equals_an_exhaustive_search(
    options: list[list[int]], comparison: str, bound: int
) -> None:
    space = counted("\n".join(f"k{i} = {{choices = {values}}}" for i, values in enumerate(options)))
    (constraint,) = parse_all([f"total{comparison}{bound}"], space.metrics)
    held = {v for v in itertools.product(*options) if constraint.violation(np.array([sum(v)]))[0] == 0}
    if held:
        found = draw_pool(space, 1000, [constraint])
        assert {tuple(c["architecture"].values()) for c in space.to_candidates(found)} == held
        assert len(found) == len(held)
    else:
        with pytest.raises(ConstraintError, match="nothing in the space"):
            draw_pool(space, 1000, [constraint])


# ---------------------------------------------------------------------------------------------------------- comparisons


def test_a_value_at_the_bound_meets_inclusive_comparisons_only() -> None:
    space = load("senet").fix({"width": 0.5, "depth": 1.0, "resolution": 1.0, "test_flip": False})
    (exact,) = all_costs(space)["macs"].astype(int).tolist()
    assert len(members(space, 8, f"macs<={exact}")) == 8
    assert len(members(space, 8, f"macs>={exact}")) == 8
    assert len(members(space, 8, f"macs<={exact}", f"macs>={exact}")) == 8
    for comparison in "<>":
        with pytest.raises(ConstraintError, match=rf"\({exact:,}\)"):
            members(space, 8, f"macs{comparison}{exact}")
    assert len(members(space, 8, f"macs<{exact + 1}", f"macs>{exact - 1}")) == 8


def test_a_mask_marks_the_feasible_candidates() -> None:
    space = counted("a = {low = 0, high = 9}")
    codes = space.to_codes([{"architecture": {"a": a}, "recipe": {}} for a in range(10)])
    assert feasible(space, parse_all(["total>=3", "total<6"], space.metrics), codes).nonzero()[0].tolist() == [3, 4, 5]
    assert feasible(space, (), codes).all()


def test_a_cost_that_is_no_number_meets_no_bound() -> None:
    space = Space.from_toml("format = 1\n[architecture]\na = {low = 0, high = 9}").with_cost(
        lambda c: {"x": float("nan") if c["architecture"]["a"] % 2 else 1.0}
    )
    assert {c["architecture"]["a"] for c in members(space, 100, "x<2")} == {0, 2, 4, 6, 8}


# ------------------------------------------------------------------------------------------------------ what is refused


def reached(space: Space, constraint: str) -> int:
    """Return the number in brackets of the error that refuses a constraint: the nearest value that is reached."""
    with pytest.raises(ConstraintError) as caught:
        members(space, 10, constraint)
    assert "nothing in the space" in str(caught.value)
    assert str(Constraint.parse(constraint)) in str(caught.value)
    found = re.search(r"\(([\d,]+)\)", str(caught.value))
    assert found is not None
    return int(found.group(1).replace(",", ""))


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("metric", METRICS)
def test_a_bound_below_the_smallest_value_is_refused_with_it(name: str, metric: str) -> None:
    space = load(name).fix(COARSE[name])
    assert reached(space, f"{metric}<1") == all_costs(space)[metric].min()


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("metric", METRICS)
def test_a_bound_above_the_largest_value_is_refused_with_it(name: str, metric: str) -> None:
    space = load(name).fix(COARSE[name])
    assert reached(space, f"{metric}>1e15") == all_costs(space)[metric].max()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("metric", METRICS)
def test_steps_of_a_knob_that_cost_the_same_do_not_hide_the_smallest_value(metric: str, seed: int) -> None:
    space = Space.from_toml(  # several resolutions give one number of pixels
        "format = 1\n[architecture]\nnetwork = 'resnet9'\nwidth = {low = 8, high = 60}\ndepth1 = 0\n"
        "depth3 = {low = 0, high = 2}\nresolution = {low = 0.3, high = 1.0, step = 0.01}",
        input_shape=(3, 32, 32),
        classes=10,
    )
    smallest = space.cost(
        {"architecture": {"network": "resnet9", "width": 8, "depth1": 0, "depth3": 0, "resolution": 0.3}, "recipe": {}}
    )[metric]
    with pytest.raises(ConstraintError, match=rf"\({smallest:,}\)"):
        draw_pool(space, 10, parse_all([f"{metric}<1"], space.metrics), seed)


def test_the_smallest_value_may_lie_in_another_network() -> None:
    space = Space.from_toml(
        "format = 1\n[architecture]\nnetwork = {choices = ['resnet9', 'senet']}\n"
        "width = {values = [1, 2, 3, 4], when = {network = 'senet'}}\n"
        "depth = {values = [0.5, 1.0], when = {network = 'senet'}}\n"
        "depth1 = {low = 0, high = 2, when = {network = 'resnet9'}}\n"
        "depth3 = {low = 0, high = 2, when = {network = 'resnet9'}}",
        input_shape=(3, 32, 32),
        classes=10,
    )
    costs = [space.cost(c) for c in members(space, 17)]
    assert len(costs) == 2 * 4 + 3 * 3
    for metric in METRICS:
        reachable = [found[metric] for found in costs]
        with pytest.raises(ConstraintError, match=rf"\({min(reachable):,}\)"):
            draw_pool(space, 10, parse_all([f"{metric}<1"], space.metrics))


@cache
def large_space() -> Space:
    """Return a space of 80,000 architectures, of which a handful have the smallest costs."""
    return Space.from_toml(
        "format = 1\n[architecture]\nnetwork = 'resnet9'\nwidth = {low = 4, high = 256, step = 2}\ndepth1 = {low = 0, high = 4}\n"
        "depth3 = {low = 0, high = 4}\nresolution = {low = 0.25, high = 1.5, step = 0.05}",
        input_shape=(3, 32, 32),
        classes=10,
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_a_bound_that_a_rare_network_meets_is_not_refused(seed: int) -> None:
    space = large_space()
    least = {"network": "resnet9", "width": 4, "depth1": 0, "depth3": 0, "resolution": 0.25}
    for metric, bound in space.cost({"architecture": least, "recipe": {}}).items():
        assert len(draw_pool(space, 3, parse_all([f"{metric}<={bound}"], space.metrics), seed)) > 0


def test_small_numbers_and_sizes_are_refused_readably() -> None:
    with pytest.raises(ConstraintError, match="meets total<3, the smallest total it reaches is 5: change the bound"):
        members(counted("a = {low = 4, high = 9}\nb = {low = 1, high = 3}"), 10, "total<3")
    with pytest.raises(ConstraintError, match=r"meets size<1KB, the smallest size it reaches is [\d.]+KB \([\d,]+\)"):
        members(load("senet"), 10, "size<1KB")


def test_constraints_that_exclude_each_other_are_refused_together() -> None:
    space = load("resnet9")
    assert members(space, 1, "macs<1M")
    assert members(space, 1, "params>5M")
    with pytest.raises(
        ConstraintError, match=r"each of macs<1M, params>5M can be met .* no sampled candidate meets all"
    ):
        members(space, 10, "macs<1M", "params>5M")


def test_an_unmet_bound_among_met_ones_is_the_one_named() -> None:
    with pytest.raises(ConstraintError, match="meets params<10, the smallest params"):
        members(load("senet"), 10, "macs<40M", "params<10")
