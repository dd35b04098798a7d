"""Summaries of spaces, against counting and costing every candidate."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jointnas.errors import SpaceError
from jointnas.network.cost import METRICS
from jointnas.space.continuous import Continuous, Switchable
from jointnas.space.knobs import Choice, Fixed, Knob, Ordered
from jointnas.space.space import Space
from jointnas.space.summary import count, in_words, summarise
from jointnas.space.toml import parse_knob

CIFAR: dict[str, Any] = {"input_shape": (3, 32, 32), "classes": 10}


def space_of(architecture: str, recipe: str = "", **binding: Any) -> Space:
    """Return the space of lines such as `a = {low = 0, high = 1}`; abstract unless one of them is `network`."""
    return Space.from_toml(f"format = 1\n[architecture]\n{architecture}\n[recipe]\n{recipe}", **binding)


def everything(space: Space) -> list[dict[str, Any]]:
    """Return every candidate of a space whose knobs are countable: all combinations, less what conditions rule out."""
    found: dict[str, dict[str, Any]] = {}
    for values in itertools.product(*(knob.extremes for knob in space.knobs)):
        whole = dict(zip((knob.name for knob in space.knobs), values, strict=True))
        active: dict[str, Any] = {}
        for _ in space.knobs:  # as often as conditions can follow one another
            active = {
                knob.name: whole[knob.name]
                for knob in space.knobs
                if all(other in active and active[other] in wanted for other, wanted in knob.when)
            }
        groups = {"architecture": space.knobs[: space.n_architecture], "recipe": space.knobs[space.n_architecture :]}
        candidate = {
            group: {knob.name: active[knob.name] for knob in knobs if knob.name in active}
            for group, knobs in groups.items()
        }
        found[json.dumps(candidate)] = candidate
    return list(found.values())


# --------------------------------------------------------------------------------------------------------------- size


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ("a = 1", 1),
        ("a = {low = 1, high = 3}\nb = {choices = ['x', 'y']}", 6),
        ("a = {choices = [0, 1]}\nb = {low = 1, high = 5, when = {a = 1}}", 1 + 5),
        ("a = {choices = [0, 1, 2]}\nb = {low = 1, high = 5, when = {a = [1, 2]}}", 1 + 2 * 5),
        ("c = {low = 1, high = 7, when = {b = 1}}\nb = {choices = [0, 1], when = {a = 1}}\na = {choices = [0, 1]}", 9),
        ("a = {choices = [0, 1]}\nb = {choices = [0, 1]}\nc = {low = 1, high = 5, when = {a = 1, b = 1}}", 3 + 5),
        ("a = 0\nb = {choices = [0, 1]}\nc = {low = 1, high = 5, when = {a = 0}}", 2 * 5),
    ],
)
def test_inactive_knobs_do_not_count(knobs: str, expected: int) -> None:
    space = space_of(knobs)
    assert summarise(space).candidates == expected == len(everything(space))


@st.composite
def conditional_knobs(draw: st.DrawFn) -> str:
    """Draw up to six knobs of up to three values in any order, each with conditions on up to two of those before it."""
    lines = []
    for i in range(draw(st.integers(1, 6))):
        parents = draw(st.lists(st.integers(0, i - 1), max_size=2, unique=True)) if i else []
        values = {p: draw(st.lists(st.integers(0, 1), min_size=1, max_size=2, unique=True)) for p in parents}
        when = ", ".join(f"k{p} = {wanted}" for p, wanted in values.items())
        lines.append(f"k{i} = {{choices = {list(range(draw(st.integers(2, 3))))}, when = {{{when}}}}}")
    return "\n".join(draw(st.permutations(lines)))


@settings(max_examples=60, deadline=None)
@given(conditional_knobs())
def test_the_count_equals_an_exhaustive_list(knobs: str) -> None:
    space = space_of(knobs)
    assert count(space.knobs) == len(everything(space))


def test_a_space_too_large_to_list_is_counted_exactly() -> None:
    stages = "\n".join(
        f"depth{i} = {{low = 1, high = 4, when = {{kind = 'deep'}}}}\n"
        f"rest{i} = {{low = 1, high = 10, when = {{depth{i} = [2, 3, 4]}}}}"
        for i in range(30)
    )
    space = space_of(f"kind = {{choices = ['deep', 'flat']}}\n{stages}")
    assert count(space.knobs) == (1 + 3 * 10) ** 30 + 1


def test_continuous_knobs_make_a_space_infinite_and_are_counted_apart_from_the_others() -> None:
    found = summarise(
        space_of("a = {low = 1, high = 4}", "rate = {low = 0.1, high = 1.0}\ndecay = {low = 0.0, high = 1.0}")
    )
    assert (found.candidates, found.continuous) == (4, 2)
    assert found.size == "infinitely many candidates: 4 without the continuous knobs (2)"


@pytest.mark.parametrize(
    ("knobs", "words"), [(1, "1,000 candidates"), (2, "1,000,000 candidates"), (200, "1.00e+600 candidates")]
)
def test_a_size_is_written_out_while_it_can_be_read(knobs: int, words: str) -> None:
    space = space_of("\n".join(f"k{i} = {{low = 1, high = 1000}}" for i in range(knobs)))
    assert summarise(space, n=8).size == words


# -------------------------------------------------------------------------------------------------------------- costs

SMALL = {
    "resnet9": "network = 'resnet9'\nwidth = {values = [4, 10, 12]}\ndepth1 = {low = 0, high = 1}\n"
    "resolution = {values = [0.5, 1.0]}\nwhitening = {choices = [false, true]}",
    "senet": "network = 'senet'\nwidth = {values = [0.05, 0.1, 0.3]}\ndepth = {values = [0.5, 1.0]}\nresolution = {values = [0.5, 1.0]}",
    "either": "network = {choices = ['resnet9', 'senet']}\nresolution = {values = [0.5, 1.0]}\n"
    "depth = {values = [0.5, 1.0, 2.0], when = {network = 'senet'}}\ndepth3 = {low = 0, high = 2, when = {network = 'resnet9'}}",
}


@pytest.mark.parametrize("name", SMALL)
def test_extremes_are_those_of_costing_every_candidate(name: str) -> None:
    space = space_of(SMALL[name], "optimizer = {choices = ['sgd', 'adam']}", **CIFAR)
    found = summarise(space, n=16)
    costs = [space.cost(candidate) for candidate in everything(space)]
    assert len(costs) == found.candidates
    for metric in METRICS:
        values = [cost[metric] for cost in costs]
        assert (found.costs[metric].smallest, found.costs[metric].largest) == (min(values), max(values))


def test_the_smallest_cost_of_a_network_that_is_expensive_in_the_middle() -> None:
    senet = "when = {network = 'senet'}"
    space = space_of(
        "network = {choices = ['resnet9', 'senet']}\nwhitening = {choices = [false, true], when = {network = 'resnet9'}}\n"
        f"width = {{low = 0.02, high = 8.0, step = 0.02, {senet}}}\ndepth = {{low = 0.5, high = 3.0, step = 0.5, {senet}}}",
        **CIFAR,
    )
    least = {"network": "senet", "width": 0.02, "depth": 0.5}
    assert summarise(space, n=8).costs["macs"].smallest == space.cost({"architecture": least, "recipe": {}})["macs"]


def test_the_median_is_that_of_uniform_draws() -> None:
    space = space_of("a = {low = 0, high = 100}").with_cost(lambda c: {"x": c["architecture"]["a"] ** 2})
    found = summarise(space).costs["x"]
    assert (found.smallest, found.largest) == (0, 100**2)
    assert 49**2 <= found.median <= 51**2


def test_a_cost_that_is_no_number_for_some_candidates_has_the_range_of_the_others() -> None:
    space = space_of("a = {low = 1, high = 9}").with_cost(
        lambda c: {"x": float("nan") if c["architecture"]["a"] in (1, 9) else float(c["architecture"]["a"])}
    )
    found = summarise(space).costs["x"]
    assert (found.smallest, found.largest) == (2, 8)


def test_an_abstract_space_without_a_cost_has_only_a_size() -> None:
    found = summarise(space_of("a = {low = 1, high = 4}"))
    assert (found.candidates, found.costs, found.example_costs) == (4, {}, {})


def test_a_space_with_a_network_must_be_bound_for_a_summary() -> None:
    with pytest.raises(SpaceError, match=r"call Space\.bind"):
        summarise(space_of(SMALL["resnet9"]))


def test_the_same_seed_gives_the_same_summary() -> None:
    space = Space.load("resnet9", **CIFAR)
    assert summarise(space, seed=3, n=64) == summarise(space, seed=3, n=64)
    assert summarise(space, seed=3, n=64) != summarise(space, seed=4, n=64)


def test_a_summary_is_json() -> None:
    space = Space.load("resnet9", **CIFAR)
    found = summarise(space, n=64)
    data = json.loads(json.dumps(found.to_json()))
    assert data["costs"]["macs"] == {
        "smallest": found.costs["macs"].smallest,
        "median": found.costs["macs"].median,
        "largest": found.costs["macs"].largest,
    }
    assert isinstance(data["costs"]["macs"]["smallest"], int)
    assert set(data["knobs"]["architecture"]) == {knob.name for knob in space.knobs[: space.n_architecture]}


# ------------------------------------------------------------------------------------------------------------ example


def test_the_example_lies_in_the_middle_of_every_range() -> None:
    space = space_of(
        "a = {low = 0, high = 10}\nb = {low = 1.0, high = 100.0, log = true}\nc = {values = ['s', 'm', 'l']}\nd = 7",
        "e = {low = 0, high = 4, when = {c = 'm'}}\nf = {low = 0, high = 4, when = {c = 'l'}}",
    )
    assert summarise(space).example == {
        "architecture": {"a": 5, "b": pytest.approx(10), "c": "m", "d": 7},
        "recipe": {"e": 2},
    }


def test_the_example_is_a_candidate_and_its_costs_are_its_own() -> None:
    space = Space.load("senet", **CIFAR)
    found = summarise(space, n=64)
    space.validate(found.example)
    assert found.example_costs == space.cost(found.example)
    for metric, reach in found.costs.items():
        assert reach.smallest <= found.example_costs[metric] <= reach.largest
        assert reach.smallest <= reach.median <= reach.largest


# -------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        ("resnet9", Fixed, "always resnet9"),
        (False, Fixed, "always false"),
        ({"low": 1e-5, "high": 0.1, "log": True}, Continuous, "1e-05 to 0.1, logarithmic"),
        ({"low": 0.0, "high": 1.0}, Continuous, "0.0 to 1.0"),
        (
            {"low": 1e-5, "high": 0.1, "log": True, "off": 0},
            Switchable,
            "1e-05 to 0.1, logarithmic, or 0.0",
        ),
        ({"low": 4, "high": 64, "step": 2, "log": True}, Ordered, "4 to 64 in steps of 2, logarithmic"),
        ({"low": 0, "high": 2}, Ordered, "0 to 2 in steps of 1"),
        ({"values": [0.5, 1.0, 2.0]}, Ordered, "0.5, 1.0 or 2.0, in this order"),
        ({"choices": ["relu", True]}, Choice, "relu or true"),
        ({"choices": ["relu"]}, Choice, "relu"),
        (
            {"values": [1, 2], "when": {"a": "x", "b": [1, 2, 3]}},
            Ordered,
            "1 or 2, in this order, when a is x and b is 1, 2 or 3",
        ),
    ],
)
def test_a_range_in_words(spec: Any, kind: type[Knob], words: str) -> None:
    knob = parse_knob("k", spec)
    assert isinstance(knob, kind)
    assert in_words(knob) == words
