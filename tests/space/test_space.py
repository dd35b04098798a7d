"""Spaces and their knobs: files, sampling, encoding, mutation, identities, costs and errors."""

import tomllib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jointnas.errors import CandidateError, SpaceError
from jointnas.network.cost import METRICS, blueprint_cost, scoring_cost
from jointnas.network.families import make_blueprint
from jointnas.network.module import build
from jointnas.resources import resource_folder
from jointnas.space.continuous import OFF_SHARE, Continuous, Switchable
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Choice, Fixed, Ordered
from jointnas.space.space import Space, built_in_spaces
from jointnas.space.toml import GROUPS, parse_knob
from jointnas.training.recipe import QUANTISATION_KNOBS, Recipe, knob_fields
from jointnas.training.trained_blueprint import trained_blueprint

CIFAR = {"input_shape": (3, 32, 32), "classes": 10}
BUILT_IN = [
    "autotrain",
    "chain",
    "fbnet",
    "fbnetv3-imagenet",
    "joint",
    "mobilenet",
    "nomad-hpo",
    "nomad-nas",
    "resnet",
    "resnet9",
    "resnet9-basic",
    "resnet9-quantised",
    "senet",
]
POLICY_SPACES = ["augmentation-policy", "randaugment"]  # they have no networks
SETTINGS = settings(max_examples=25, deadline=None)
SEEDS = st.integers(min_value=0, max_value=2**32 - 1)


def from_knobs(architecture: str, recipe: str = "", **binding: Any) -> Space:
    """Return the space of lines such as `a = {low = 0, high = 1}`; abstract unless one of them is `network`."""
    return Space.from_toml(f"format = 1\n[architecture]\n{architecture}\n[recipe]\n{recipe}", **binding)


@cache
def load(name: str) -> Space:
    return Space.load(name, **CIFAR)


# ------------------------------------------------------------------------------------- random spaces, as TOML files

words = st.text("abcxyz -_.'\"", min_size=1, max_size=5)
numbers = st.one_of(st.integers(-50, 50), st.integers(-5000, 5000).map(lambda n: n / 100))
scalars = st.one_of(st.booleans(), words, numbers)


def kind_and_value(value: object) -> tuple[str, object]:
    """What makes two values the same: 1 and 1.0 are, 1 and true are not."""
    return ("number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__, value)


def lists(of: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(of, min_size=1, max_size=6, unique_by=kind_and_value)


@st.composite
def ranges(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a range: real or whole, linear or logarithmic, stepped or not, or one that can be off."""
    log = draw(st.booleans())
    scale = draw(st.sampled_from([1, 10, 1000]))
    low = draw(st.integers(1 if log else -200, 200))
    high = low + draw(st.integers(0, 300))
    spec: dict[str, Any] = {"low": low, "high": high} if scale == 1 else {"low": low / scale, "high": high / scale}
    if draw(st.booleans()):
        spec["step"] = draw(st.integers(1, 40)) if scale == 1 else draw(st.integers(1, 40)) / scale
    elif scale > 1 and low < high and draw(st.booleans()):
        spec["off"] = draw(st.sampled_from([spec["low"] - 1.0, spec["high"] + 1.0]))
    return {**spec, "log": True} if log else spec


KNOBS = st.one_of(
    ranges(),
    st.builds(lambda v: {"values": v}, lists(scalars)),
    st.builds(lambda c: {"choices": c}, lists(scalars)),
    st.builds(lambda v: {"value": v}, scalars),
)


def countable(spec: dict[str, Any]) -> tuple[Any, ...]:
    """Return the values a condition may name; none for a continuous knob."""
    knob = parse_knob("knob", spec)
    if isinstance(knob, Ordered):
        return knob.values
    if isinstance(knob, Choice):
        return knob.choices
    return (knob.only,) if isinstance(knob, Fixed) else ()


@st.composite
def space_files(draw: st.DrawFn) -> str:
    """Draw the TOML of an abstract space: conditions lead from any knob to any earlier one, in chains, across groups."""
    specs = draw(st.lists(KNOBS, min_size=1, max_size=7))
    for i, spec in enumerate(specs):
        parents = [j for j in range(i) if countable(specs[j])]
        for j in draw(st.sets(st.sampled_from(parents), max_size=2)) if parents else ():
            wanted = draw(lists(st.sampled_from(countable(specs[j]))))
            if len(wanted) == 1 and draw(st.booleans()):
                wanted = wanted[0]
            spec.setdefault("when", {})[f"knob{j}"] = wanted
    tables: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    for i in draw(st.permutations(range(len(specs)))):
        bare = set(specs[i]) == {"value"} and draw(st.booleans())
        tables[draw(st.sampled_from(GROUPS))][f"knob{i}"] = specs[i]["value"] if bare else specs[i]
    return tomli_w.dumps({"format": 1, "name": "random", **tables})


SPACES = st.one_of(space_files().map(Space.from_toml), st.sampled_from(BUILT_IN).map(load))


def flat(candidate: Candidate) -> dict[str, Any]:
    return {**candidate["architecture"], **candidate["recipe"]}


def conditional(space: Space) -> set[str]:
    return {k.name for k in space.knobs if k.when}


def assert_same(one: Candidate, other: Candidate, space: Space) -> None:
    """Fail unless both have the same knobs and values, real numbers to 1e-9 of themselves or of their range."""
    for group in GROUPS:
        assert list(one[group]) == list(other[group])
    for knob in space.knobs:
        a, b = flat(one).get(knob.name), flat(other).get(knob.name)
        if isinstance(knob, Continuous) and a is not None:
            scale = 0 if knob.log else knob.high - knob.low
            assert a == pytest.approx(b, rel=1e-9, abs=1e-9 * scale)
        else:
            assert (type(a), a) == (type(b), b)


# --------------------------------------------------------------------------------------------- what holds for all spaces


@SETTINGS
@given(SPACES)
def test_a_space_written_down_and_read_again_is_equal(space: Space) -> None:
    assert Space.from_toml(space.to_toml(), space.input_shape, space.classes) == space


@SETTINGS
@given(SPACES, SEEDS)
def test_every_sample_is_valid(space: Space, seed: int) -> None:
    for candidate in space.sample(16, seed):
        space.validate(candidate)


@SETTINGS
@given(SPACES, SEEDS)
def test_every_knob_is_there_exactly_when_its_condition_holds(space: Space, seed: int) -> None:
    for candidate in space.sample(16, seed):
        values = flat(candidate)
        for knob in space.knobs:
            wanted = all(
                other in values and kind_and_value(values[other]) in map(kind_and_value, options)
                for other, options in knob.when
            )
            assert (knob.name in values) == wanted


@SETTINGS
@given(SPACES, SEEDS)
def test_decoding_undoes_encoding(space: Space, seed: int) -> None:
    candidates = space.sample(16, seed)
    for before, after in zip(candidates, space.decode(*space.encode(candidates)), strict=True):
        assert_same(before, after, space)


@SETTINGS
@given(SPACES, SEEDS)
def test_features_lie_between_zero_and_one(space: Space, seed: int) -> None:
    for features in space.encode(space.sample(16, seed)):
        assert features.dtype == np.float64
        assert ((features >= -1e-12) & (features <= 1 + 1e-12)).all()


@SETTINGS
@given(SPACES, SEEDS)
def test_anything_between_candidates_decodes_to_a_valid_candidate(space: Space, seed: int) -> None:
    shapes = [features.shape[1] for features in space.encode(space.sample(1))]
    rng = np.random.default_rng(seed)
    for candidate in space.decode(*(rng.uniform(-0.5, 1.5, (16, columns)) for columns in shapes)):
        space.validate(candidate)


@SETTINGS
@given(SPACES, SEEDS)
def test_codes_lead_back_to_the_same_candidates(space: Space, seed: int) -> None:
    candidates = space.sample(16, seed)
    assert space.to_candidates(space.to_codes(candidates)) == candidates


@SETTINGS
@given(SPACES, SEEDS)
def test_every_mutation_is_valid_and_different(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for candidate in space.sample(8, seed):
        child = space.mutate(candidate, rng)
        space.validate(child)
        assert (repr(child) != repr(candidate)) == bool(space.neighbours(candidate))  # 1 and true are not the same


@SETTINGS
@given(SPACES, SEEDS)
def test_every_child_is_valid_and_takes_each_knob_from_a_parent(space: Space, seed: int) -> None:
    mothers, fathers = space.sample(8, seed), space.sample(8, seed + 1)
    codes = space.cross_codes(space.to_codes(mothers), space.to_codes(fathers), np.random.default_rng(seed))
    for mother, father, child in zip(mothers, fathers, space.to_candidates(codes), strict=True):
        space.validate(child)
        for name in set(flat(child)) & (set(flat(mother)) | set(flat(father))):
            assert flat(child)[name] in (flat(mother).get(name), flat(father).get(name))


@SETTINGS
@given(SPACES, SEEDS)
def test_every_neighbour_is_valid_and_differs_in_one_knob_apart_from_those_switched(space: Space, seed: int) -> None:
    for candidate in space.sample(4, seed):
        before = flat(candidate)
        neighbours = space.neighbours(candidate)
        for neighbour in neighbours:
            space.validate(neighbour)
            after = flat(neighbour)
            both = set(before) & set(after)
            assert len([k for k in both if kind_and_value(before[k]) != kind_and_value(after[k])]) == 1
            assert set(before) ^ set(after) <= conditional(space)
        assert len({repr(n) for n in neighbours}) == len(neighbours)


@SETTINGS
@given(SPACES, SEEDS)
def test_a_knob_can_be_fixed_at_any_value_it_takes(space: Space, seed: int) -> None:
    wanted = flat(space.sample(1, seed)[0])
    name = sorted(wanted)[seed % len(wanted)] if wanted else None
    assume(name is not None)
    fixed = space.fix({str(name): wanted[str(name)]})
    for candidate in fixed.sample(8, seed):
        space.validate(candidate)
        assert flat(candidate).get(str(name), wanted[str(name)]) == wanted[str(name)]


@SETTINGS
@given(SPACES, SEEDS)
def test_an_identity_does_not_depend_on_the_order_of_the_knobs(space: Space, seed: int) -> None:
    for candidate in space.sample(4, seed):
        backwards: Any = {group: dict(reversed(candidate[group].items())) for group in reversed(GROUPS)}
        assert space.identity(backwards) == space.identity(candidate)


@SETTINGS
@given(space_files(), SEEDS)
def test_candidates_of_an_abstract_space_are_the_same_when_their_knobs_are(text: str, seed: int) -> None:
    space = Space.from_toml(text)
    candidates = space.sample(16, seed)
    assert len({space.identity(c) for c in candidates}) == len({repr(c) for c in candidates})


# ------------------------------------------------------------------------------------------------------ the built-in ones


def test_the_built_in_spaces_are_listed() -> None:
    assert built_in_spaces() == sorted([*BUILT_IN, *POLICY_SPACES])


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 48)])
def test_every_sample_of_a_built_in_space_is_a_network_and_a_recipe(name: str, shape: tuple[int, int, int]) -> None:
    space = Space.load(name, input_shape=shape, classes=7)
    for candidate in space.sample(32, seed=1):
        assert space.blueprint(candidate).shapes()[-1] == (7,)
        assert space.recipe(candidate) == Recipe(**candidate["recipe"])


def test_a_fixed_knob_keeps_its_place_when_a_space_is_written_down() -> None:
    space = from_knobs("a = {low = 0, high = 3}\nb = 1\nc = {value = 2, when = {a = 1}}\nd = 'x'")
    assert [k.name for k in Space.from_toml(space.to_toml()).knobs] == ["a", "b", "c", "d"]


def test_a_space_is_loaded_from_a_file_and_takes_its_name(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("format = 1\n[architecture]\na = { low = 0, high = 9 }\n")
    space = Space.load(tmp_path / "mine.toml")
    assert (space.name, space.is_abstract, space.is_bound) == ("mine", True, True)


def test_the_encoding_has_a_column_a_number_a_category_and_a_condition() -> None:
    architecture, recipe = load("resnet9").encode(load("resnet9").sample(5))
    assert architecture.shape == (5, 4 + 3 + 2)  # numbers, activation, whitening; network is fixed
    file = tomllib.loads((resource_folder("spaces") / "resnet9.toml").read_text())
    knobs = [spec for spec in file["recipe"].values() if isinstance(spec, dict)]  # the others are fixed
    columns = [len(spec.get("choices", "1")) + ("off" in spec) + ("when" in spec) for spec in knobs]
    assert recipe.shape == (5, sum(columns))


def test_the_built_in_spaces_hold_every_recipe_knob() -> None:
    for path in (resource_folder("spaces") / f"{name}.toml" for name in BUILT_IN):
        of_few_bits = set() if path.stem == "resnet9-quantised" else set(QUANTISATION_KNOBS)
        assert set(tomllib.loads(path.read_text())["recipe"]) == set(knob_fields()) - of_few_bits


def test_inactive_knobs_are_neutral_and_flagged() -> None:
    space = from_knobs("a = {choices = ['x', 'y']}\nb = {low = 0, high = 4, when = {a = 'x'}}")
    off, on = ({"architecture": {"a": "y"}, "recipe": {}}, {"architecture": {"a": "x", "b": 4}, "recipe": {}})
    np.testing.assert_array_equal(space.encode([off, on])[0], [[0, 1, 0.5, 0], [1, 0, 1, 1]])


def test_inactive_categories_are_equally_likely() -> None:
    space = from_knobs("a = {values = [1, 2]}\nb = {choices = ['p', 'q', 'r', 's'], when = {a = 1}}")
    features = space.encode([{"architecture": {"a": 2}, "recipe": {}}])[0]
    np.testing.assert_array_equal(features, [[1, 0.25, 0.25, 0.25, 0.25, 0]])


def test_logarithmic_numbers_are_encoded_in_their_logarithm() -> None:
    space = from_knobs("a = {low = 0.01, high = 1.0, log = true}\nb = {low = 1, high = 100, log = true}")
    features = space.encode([{"architecture": {"a": 0.1, "b": 10}, "recipe": {}}])[0]
    np.testing.assert_allclose(features, [[0.5, 0.5]], atol=1e-12)


def test_a_chain_of_conditions_is_cut_at_its_first_link() -> None:
    space = from_knobs(
        "c = {values = [1, 2], when = {b = true}}",
        "b = {choices = [true, false], when = {a = 3}}\na = {low = 1, high = 3}",
    )
    seen = {tuple(sorted(flat(c))) for c in space.sample(64)}
    assert seen == {("a",), ("a", "b"), ("a", "b", "c")}
    assert all(flat(c)["b"] is True for c in space.sample(64) if "c" in flat(c))


# -------------------------------------------------------------------------------------------- numbers that can be off


def decay(low: float = 1e-4, high: float = 1.0, off: float = 0.0) -> Switchable:
    knob = parse_knob("decay", {"low": low, "high": high, "log": True, "off": off})
    assert isinstance(knob, Switchable)
    return knob


def test_an_eighth_of_the_samples_is_off_and_the_rest_spreads_over_the_range() -> None:
    codes = decay().from_unit((np.arange(8000) + 0.5) / 8000)
    assert (codes == 0).sum() == 8000 * OFF_SHARE
    on = np.log10(codes[codes != 0])
    assert np.quantile(on, [0.25, 0.5, 0.75]) == pytest.approx([-3, -2, -1], abs=1e-3)
    assert decay().value(decay().default) == pytest.approx(0.01)


def test_off_is_one_value_outside_of_the_range() -> None:
    knob = decay()
    assert (knob.code(0), knob.code(0.0), knob.code(1e-4)) == (0.0, 0.0, 1e-4)
    for wrong in (1e-5, 2.0, -1.0, False, "off"):
        with pytest.raises(CandidateError, match=r"lies in \[0.0001, 1\] or is 0, got"):
            knob.code(wrong)
    nearest = [knob.nearest(value) for value in (0, 4e-5, 6e-5, 0.5, 7)]
    assert nearest == [0, 0, 1e-4, 0.5, 1]


def test_what_is_off_is_encoded_as_neutral_and_flagged() -> None:
    np.testing.assert_allclose(decay().encode(np.array([0.0, 1e-4, 0.01, 1.0])), [[0.5, 0], [0, 1], [0.5, 1], [1, 1]])


def test_off_lies_beside_the_lower_bound() -> None:
    knob = decay()
    assert knob.neighbours(0.0) == [1e-4]
    assert 0.0 in knob.neighbours(1e-4)
    assert all(0.0 not in knob.neighbours(value) for value in (1e-3, 0.01, 1.0))


def test_a_mutation_switches_numbers_off_and_what_is_off_on() -> None:
    knob, rng = decay(), np.random.default_rng(0)
    assert (knob.mutate(np.zeros(1000), rng) > 0).all()
    children = knob.mutate(np.full(8000, 0.01), rng)
    assert (children == 0).mean() == pytest.approx(OFF_SHARE, abs=0.02)
    assert (children[children != 0] != 0.01).all()


@pytest.mark.parametrize("off", [0.0, 5.0])
def test_points_of_the_unit_interval_lead_back_to_the_codes(off: float) -> None:
    knob = decay(off=off)
    codes = np.array([off, 1e-4, 3e-3, 1.0])
    assert knob.from_unit(knob.to_unit(codes)) == pytest.approx(codes)


# ------------------------------------------------------------------------------------------------------ scored views


def test_a_mirror_image_doubles_what_an_image_costs_and_nothing_that_is_stored() -> None:
    plain, mirrored = (load("resnet9").fix({"test_flip": flip}) for flip in (False, True))
    candidates = plain.sample(8, seed=1)
    for candidate in candidates:
        twin: Candidate = {**candidate, "recipe": {**candidate["recipe"], "test_flip": True}}
        one, two = plain.cost(candidate), mirrored.cost(twin)
        assert {metric: two[metric] / one[metric] for metric in METRICS} == {
            "macs": 2, "params": 1, "activations": 2, "size": 1, "memory": 1, "bitops": 2,
        }  # fmt: skip
        assert load("resnet9").costs(load("resnet9").to_codes([candidate, twin]))["macs"].tolist() == [
            one["macs"],
            two["macs"],
        ]


# --------------------------------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_same_seed_gives_the_same_sample_and_another_seed_another(name: str) -> None:
    space = load(name)
    assert space.sample(20, seed=4) == Space.load(name).sample(20, seed=4)
    assert space.sample(20, seed=4) != space.sample(20, seed=5)


def test_a_short_sample_is_the_beginning_of_a_long_one() -> None:
    space = load("senet")
    assert space.sample(100, seed=2)[:5] == space.sample(5, seed=2)
    assert space.sample(0) == []


def test_samples_are_spread_evenly_as_a_sobol_sequence_is() -> None:
    space = from_knobs(
        "a = {low = -1.0, high = 3.0}\nb = {low = 1.0, high = 10000.0, log = true}\nc = {choices = [1, 2, 3, 4]}"
    )
    values = [flat(c) for c in space.sample(1024, seed=9)]
    in_a, _ = np.histogram([v["a"] for v in values], bins=16, range=(-1, 3))
    in_b, _ = np.histogram([np.log10(v["b"]) for v in values], bins=16, range=(0, 4))
    assert set(in_a) == set(in_b) == {64}
    assert [sum(v["c"] == k for v in values) for k in (1, 2, 3, 4)] == [256] * 4


def test_ordered_values_are_sampled_equally_often_and_logarithmic_grids_by_their_spacing() -> None:
    space = from_knobs("a = {values = [1, 10, 11, 900]}\nb = {low = 1, high = 256, log = true}")
    values = [flat(c) for c in space.sample(4096)]
    assert [sum(v["a"] == k for v in values) for k in (1, 10, 11, 900)] == [1024] * 4
    assert np.mean([v["b"] <= 16 for v in values]) == pytest.approx(0.5, abs=0.08)


# ----------------------------------------------------------------------------------------------------------------- moving


def test_a_neighbour_is_one_step_of_the_range_away() -> None:
    space = from_knobs(
        "a = {low = 0.0, high = 10.0}\nb = {low = 1.0, high = 1024.0, log = true}\nc = {low = 0, high = 6, step = 2}"
    )
    start = {"architecture": {"a": 5.0, "b": 32.0, "c": 0}, "recipe": {}}
    assert [tuple(flat(n).values()) for n in space.neighbours(start)] == [
        pytest.approx(expected) for expected in ((4, 32, 0), (6, 32, 0), (5, 16, 0), (5, 64, 0), (5, 32, 2))
    ]


def test_a_category_neighbours_every_other_one() -> None:
    space = from_knobs("a = {choices = ['p', 'q', 'r']}\nb = 7")
    neighbours = space.neighbours({"architecture": {"a": "q", "b": 7}, "recipe": {}})
    assert [n["architecture"] for n in neighbours] == [{"a": "p", "b": 7}, {"a": "r", "b": 7}]


def test_a_knob_that_is_switched_on_takes_its_middle() -> None:
    space = from_knobs("a = {choices = [false, true]}\nb = {low = 0.0, high = 8.0, when = {a = true}}")
    on, off = {"a": True, "b": 4.0}, {"a": False}
    assert space.neighbours({"architecture": off, "recipe": {}}) == [{"architecture": on, "recipe": {}}]
    assert {"architecture": off, "recipe": {}} in space.neighbours({"architecture": on, "recipe": {}})


def test_mutation_reaches_every_value_and_changes_about_one_knob() -> None:
    space = from_knobs("\n".join(f"k{i} = {{low = 0, high = 9}}" for i in range(6)))
    rng = np.random.default_rng(0)
    start = {"architecture": {f"k{i}": 4 for i in range(6)}, "recipe": {}}
    children = [flat(space.mutate(start, rng)) for _ in range(2000)]
    changes = [sum(v != 4 for v in child.values()) for child in children]
    assert {child["k0"] for child in children} == set(range(10))
    assert min(changes) == 1
    assert np.mean(changes) == pytest.approx(1 + (1 - 1 / 6) ** 6, abs=0.08)


def test_mutation_of_two_values_takes_the_other_one() -> None:
    space = from_knobs("a = {values = [1, 2]}")
    rng = np.random.default_rng(0)
    one, two = ({"architecture": {"a": a}, "recipe": {}} for a in (1, 2))
    assert all(space.mutate(one, rng) == two and space.mutate(two, rng) == one for _ in range(100))


def test_a_space_without_a_free_knob_has_one_candidate_and_no_move() -> None:
    space = from_knobs("a = 1\nb = 'x'")
    (only,) = space.sample(1)
    assert space.neighbours(only) == []
    assert space.mutate(only, np.random.default_rng(0)) == only == {"architecture": {"a": 1, "b": "x"}, "recipe": {}}


# -------------------------------------------------------------------------------------------------------------- identities


def with_knobs(space: Space, **values: Any) -> Candidate:
    """Return a sample of the space with knobs set."""
    return space.fix(values).sample(1)[0]


def test_widths_that_round_to_the_same_channels_are_one_candidate() -> None:
    space = from_knobs("network = 'senet'\nwidth = {values = [0.9, 0.9999, 1.0]}", **CIFAR)
    narrow, almost, full = (space.identity(with_knobs(space, width=w)) for w in (0.9, 0.9999, 1.0))
    assert almost == full != narrow


def test_a_multiplier_and_the_same_pixels_are_one_candidate() -> None:
    space = from_knobs("network = 'resnet9'\nresolution = {values = [0.5, 1.0, 32]}", **CIFAR)
    half, one, pixels = (space.identity(with_knobs(space, resolution=r)) for r in (0.5, 1.0, 32))
    assert one == pixels != half


def test_the_same_candidate_on_images_of_another_size_is_another_network() -> None:
    space = from_knobs("network = 'resnet9'\nresolution = {values = [1.0, 32]}")
    small = space.bind((3, 28, 28), 10)
    assert small.identity(with_knobs(small, resolution=1.0)) != small.identity(with_knobs(small, resolution=32))


def test_momentum_without_effect_does_not_make_another_candidate() -> None:
    space = from_knobs(
        "network = 'senet'", "optimizer = {choices = ['sgd', 'adam']}\nmomentum = {values = [0.8, 0.9]}", **CIFAR
    )
    of = {
        (o, m): space.identity(with_knobs(space, optimizer=o, momentum=m)) for o in ("sgd", "adam") for m in (0.8, 0.9)
    }
    assert of["adam", 0.8] == of["adam", 0.9]
    assert len(set(of.values())) == 3


def test_a_knob_left_out_is_the_same_as_its_default() -> None:
    explicit = from_knobs("network = 'senet'\ndepth = 1.0", "batch_size = 128", **CIFAR)
    implicit = from_knobs("network = 'senet'", "batch_size = 128.0", **CIFAR)
    assert explicit.identity(explicit.sample(1)[0]) == implicit.identity(implicit.sample(1)[0])


# --------------------------------------------------------------------------------------------------------------- costs


@pytest.mark.parametrize("name", BUILT_IN)
def test_costs_of_a_batch_equal_each_networks_own(name: str) -> None:
    space = load(name)
    candidates = space.sample(32, seed=8)
    batch = space.costs(space.to_codes(candidates))
    for i, candidate in enumerate(candidates):
        of_one_view = blueprint_cost(trained_blueprint(candidate, (3, 32, 32), 10))
        expected = scoring_cost(of_one_view, Recipe.from_knobs(candidate["recipe"]).views)
        assert {metric: values[i] for metric, values in batch.items()} == expected == space.cost(candidate)
    assert space.metrics == METRICS


def test_an_abstract_space_has_the_costs_of_its_function() -> None:
    space = from_knobs("a = {low = 1, high = 9}", "b = {choices = ['p', 'q'], when = {a = [1, 2]}}")
    costed = space.with_cost(lambda c: {"steps": 10.5 * c["architecture"]["a"], "on": "b" in c["recipe"]})
    assert costed.metrics == ("steps", "on")
    assert costed.cost({"architecture": {"a": 2}, "recipe": {"b": "p"}}) == {"steps": 21, "on": 1}
    assert costed.cost({"architecture": {"a": 3}, "recipe": {}}) == {"steps": 31.5, "on": 0}
    assert space.metrics == ()


def test_only_an_abstract_space_takes_a_cost_function() -> None:
    with pytest.raises(SpaceError, match="only an abstract space takes a cost function"):
        load("senet").with_cost(lambda c: {"macs": 1})


@pytest.mark.parametrize("action", [Space.cost, Space.identity, Space.blueprint])
def test_a_space_is_bound_before_it_costs(action: Callable[[Space, Candidate], Any]) -> None:
    space = Space.load("resnet9")
    assert not space.is_bound
    with pytest.raises(SpaceError, match=r"has no input shape yet: call Space\.bind"):
        action(space, space.sample(1)[0])


def test_an_abstract_space_has_no_blueprint() -> None:
    space = from_knobs("a = 1")
    with pytest.raises(SpaceError, match="is abstract"):
        space.blueprint(space.sample(1)[0])


def test_a_space_is_bound_to_both_shape_and_classes() -> None:
    with pytest.raises(SpaceError, match="got one of them: give both"):
        Space.load("resnet9", input_shape=(3, 32, 32))
    with pytest.raises(SpaceError, match="got one of them: give both"):
        Space.load("resnet9", classes=10)


def test_a_space_whose_networks_do_not_fit_the_input_is_not_bound() -> None:
    space = from_knobs("network = 'senet'\nresolution = {values = [0.1, 1.0]}")
    with pytest.raises(SpaceError, match=r"no valid network with resolution = 0\.1"):
        space.bind((3, 8, 8), 10)
    with pytest.raises(SpaceError, match="at least two classes"):
        space.bind((3, 32, 32), 1)


def test_a_width_written_with_a_point_costs_and_builds_as_a_whole_one() -> None:
    space = from_knobs("network = 'resnet9'\nwidth = {low = 4.0, high = 8.0, step = 2.0}\ndepth1 = 0", **CIFAR)
    candidate = with_knobs(space, width=6.0)
    assert space.cost(candidate) == blueprint_cost(
        make_blueprint({"network": "resnet9", "width": 6, "depth1": 0}, (3, 32, 32), 10)
    )
    assert build(space.blueprint(candidate)).blueprint.shapes()[-1] == (10,)


# -------------------------------------------------------------------------------------------------------------- fixing


def test_a_fixed_space_keeps_the_rest_free() -> None:
    space = load("resnet9").fix({"width": 16, "optimizer": "sgd"})
    values = [flat(c) for c in space.sample(64)]
    assert {v["width"] for v in values} == {16}
    assert {v["momentum"] for v in values} == {0.8, 0.85, 0.9, 0.95}
    assert space.input_shape == (3, 32, 32)


def test_fixing_a_knob_switches_its_conditional_knobs_off() -> None:
    space = load("resnet9").fix({"optimizer": "adam"})
    assert all("momentum" not in c["recipe"] for c in space.sample(64))


def test_a_condition_on_a_fixed_knob_may_never_hold() -> None:
    space = from_knobs("a = 1\nb = {low = 0, high = 1, when = {a = 2}}")
    assert space.sample(1) == [{"architecture": {"a": 1}, "recipe": {}}]


def test_fixing_refuses_an_unknown_knob_and_an_impossible_value() -> None:
    with pytest.raises(SpaceError, match="has no knob 'widht': did you mean 'width'"):
        load("senet").fix({"widht": 1.0})
    with pytest.raises(CandidateError, match=r"width lies in \[0.05, 1\] in steps of 0.01, got 0.055"):
        load("senet").fix({"width": 0.055})


# ------------------------------------------------------------------------------------------- candidates that do not fit


@pytest.mark.parametrize(
    ("architecture", "recipe", "rule"),
    [
        ({"network": "senet"}, {}, "lacks the active knob depth of the space 'senet': add it"),
        ({"widht": 1.0}, {}, "no architecture knob 'widht': did you mean 'width'"),
        ({"learning_rate": 0.1}, {}, "no architecture knob 'learning_rate'"),
        ({}, {"learning_rte": 0.1}, "no recipe knob 'learning_rte': did you mean 'learning_rate'"),
        ({"width": 2.0}, {}, r"width lies in \[0.05, 1\]"),
        ({"width": True}, {}, r"width lies in \[0.05, 1\]"),
        ({}, {"optimizer": "adm"}, "no choice 'adm': did you mean 'adam'"),
        ({}, {"learning_rate": 7.0}, r"learning_rate lies in \[0.005, 0.6\], got 7.0"),
        ({}, {"learning_rate": float("nan")}, "learning_rate lies in"),
        ({}, {"flip": 1}, "no choice 1"),
        ({"network": "resnet9"}, {}, "network is fixed at 'senet', got 'resnet9'"),
        ({}, {"batch_size": 65}, "batch_size is one of 64, 128, 256, 512, got 65"),
    ],
)
def test_a_candidate_that_does_not_fit_is_refused(architecture: Any, recipe: Any, rule: str) -> None:
    with pytest.raises(CandidateError, match=rule):
        load("senet").validate({"architecture": architecture, "recipe": recipe})


def test_an_inactive_knob_is_refused_with_its_condition() -> None:
    space = load("senet")
    candidate = with_knobs(space, optimizer="sgd")
    candidate["recipe"]["optimizer"] = "adam"
    with pytest.raises(CandidateError, match=r"momentum is active only when optimizer is one of \['sgd'\]"):
        space.validate(candidate)


@pytest.mark.parametrize(
    "candidate",
    [
        None,
        "width",
        [],
        {},
        {"architecture": {}},
        {"architecture": {}, "recipe": {}, "data": {}},
        {"architecture": None, "recipe": {}},
        {"architecture": ["width"], "recipe": {}},
        {"architecture": {}, "recipe": "sgd"},
        {"architecture": {1: 2}, "recipe": {}},
        {"architecture": {"width": [1.0]}, "recipe": {}},
    ],
)
def test_an_invalid_candidate_is_refused(candidate: Any) -> None:
    with pytest.raises(CandidateError):
        load("senet").validate(candidate)


# ------------------------------------------------------------------------------------------------- spaces that are refused


def test_an_unknown_space_is_refused_with_the_nearest() -> None:
    with pytest.raises(SpaceError, match="no space is called 'resnet99': did you mean 'resnet9'"):
        Space.load("resnet99")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="cannot read the space file"):
        Space.load(tmp_path / "none.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(SpaceError, match="cannot read the space file"):
        Space.load(tmp_path / "folder.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpaceError, match="cannot read the space file"):
        Space.load(tmp_path / "binary.toml")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("format = 1\n[architecture", "is not valid TOML"),
        ("[architecture]\na = 1", "has format = None: begin it with format = 1"),
        ("format = 2\n[architecture]\na = 1", "has format = 2: begin it with format = 1"),
        ("format = 1\n[architectur]\na = 1", "no table 'architectur': did you mean 'architecture'"),
        ("format = 1\narchitecture = 3", r"architecture must be a table of knobs, got 3: write \[architecture\]"),
        ("format = 1", "has no knobs"),
        (
            "format = 1\n[architecture]\na = 1\n[recipe]\na = 2",
            r"the knob 'a' is in \[architecture\] and in \[recipe\]",
        ),
    ],
)
def test_a_malformed_file_is_refused(text: str, rule: str) -> None:
    with pytest.raises(SpaceError, match=rule):
        Space.from_toml(text)


@pytest.mark.parametrize(
    ("knob", "rule"),
    [
        ("{low = 3, high = 1}", "the knob a has low = 3 above high = 1: swap them"),
        ("{low = 0, high = 1.0, log = true}", "the logarithmic knob a needs low above 0, got 0"),
        ("{low = -1, high = 4, log = true}", "the logarithmic knob a needs low above 0, got -1"),
        ("{low = 0, high = 1, step = 0}", "step of the knob a must be above 0, got 0"),
        ("{low = 0, high = 1, step = -0.5}", "step of the knob a must be above 0, got -0.5"),
        (
            "{low = 0.0, high = 1.0, step = 1e-9}",
            "the knob a has 100000000[01] values, but at most 100000 are allowed: use a larger step",
        ),
        ("{low = 0, high = 10000000}", "at most 100000 are allowed"),
        ("{low = 1e-3, high = 1.0, off = 0.5}", r"off of the knob a must lie outside \[0.001, 1\], got 0.5"),
        ("{low = 1e-3, high = 1.0, off = true}", "off of the knob a must be a finite number, got True"),
        ("{low = 1e-3, high = 1.0, off = nan}", "off of the knob a must be a finite number, got nan"),
        (
            "{low = 0.1, high = 1.0, step = 0.1, off = 0.0}",
            "is no range of real numbers and cannot have off.*list its values",
        ),
        ("{low = 1, high = 9, off = 0}", "is no range of real numbers and cannot have off"),
        ("{low = 1.0, high = 1.0, off = 0.0}", "is no range of real numbers and cannot have off"),
        ("{values = [1, 2], off = 0}", "the knob a must be {low, high}"),
        ("{low = 'x', high = 1}", "low of the knob a must be a finite number, got 'x'"),
        ("{low = 0, high = true}", "high of the knob a must be a finite number, got True"),
        ("{low = 0.0, high = inf}", "high of the knob a must be a finite number, got inf"),
        ("{low = nan, high = 1.0}", "low of the knob a must be a finite number, got nan"),
        ("{low = 1, high = 2, log = 1}", "log of the knob a must be true or false, got 1"),
        ("{low = 1, high = 2, steps = 1}", "the knob a has no key 'steps': did you mean 'step'"),
        ("{low = 1}", "the knob a must be {low, high}"),
        ("{low = 1, high = 2, values = [1]}", "the knob a must be {low, high}"),
        ("{when = {b = 1}}", "the knob a must be {low, high}"),
        ("{values = []}", "values of the knob a must be a list of one or more"),
        ("{values = 3}", "values of the knob a must be a list of one or more"),
        ("{choices = []}", "choices of the knob a must be a list of one or more"),
        ("{choices = ['x', 'y', 'x']}", "choices of the knob a contain 'x' twice"),
        ("{values = [1, 2, 1.0]}", "values of the knob a contain 1.0 twice"),
        ("{choices = [[1]]}", "a value of the knob a must be a finite number, a string or a boolean"),
        ("[1, 2]", "a value of the knob a must be a finite number, a string or a boolean"),
        ("1979-05-27", "a value of the knob a must be a finite number, a string or a boolean"),
        ("{value = 1, when = 3}", "when of the knob a"),
        ("{choices = [1, 2], when = {b = []}}", "when of the knob a"),
    ],
)
def test_a_malformed_knob_is_refused(knob: str, rule: str) -> None:
    with pytest.raises(SpaceError, match=rule):
        from_knobs(f"a = {knob}\nb = {{values = [1, 2]}}")


@pytest.mark.parametrize("knob", ["nan", "inf", "{values = [1.0, nan]}", "{choices = [inf, 1.0]}", "{value = -inf}"])
def test_a_value_that_is_not_finite_is_refused(knob: str) -> None:
    with pytest.raises(SpaceError, match="finite"):
        from_knobs(f"a = {knob}\nb = {{values = [1, 2]}}")


def test_a_truth_value_and_a_number_are_different_choices() -> None:
    space = from_knobs("a = {choices = [1, true]}")
    assert {repr(flat(c)["a"]) for c in space.sample(16)} == {"1", "True"}


@pytest.mark.parametrize(
    "spec", ["low = 1e-13, high = 1e-12, step = 1e-13", "low = 2e-13, high = 1e-12, step = 2e-13, log = true"]
)
def test_a_grid_of_tiny_numbers_keeps_them_apart(spec: str) -> None:
    (knob,) = from_knobs(f"a = {{{spec}}}").knobs
    assert isinstance(knob, Ordered)
    assert len(set(knob.values)) == len(knob.values)
    assert knob.values[0] == pytest.approx(knob.grid[0] if knob.grid else 0, rel=1e-9, abs=0)


def test_a_grid_has_no_rounding_dust_and_may_stop_short_of_its_end() -> None:
    (knob,) = from_knobs("a = {low = 0.1, high = 0.75, step = 0.1}").knobs
    assert isinstance(knob, Ordered)
    assert knob.values == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def test_whole_bounds_give_whole_numbers() -> None:
    (knob,) = from_knobs("a = {low = 2, high = 5}").knobs
    assert isinstance(knob, Ordered)
    assert [type(v) for v in knob.values] == [int] * 4
    assert isinstance(from_knobs("a = {low = 2.0, high = 5}").knobs[0], Continuous)


@pytest.mark.parametrize(
    ("architecture", "rule"),
    [
        (
            "a = {low = 0, high = 1, when = {c = 1}}\nb = {values = [1, 2]}",
            "the condition of a names the unknown knob 'c'",
        ),
        ("a = {low = 0, high = 1, when = {width_ = 1}}\nwidth = 1", "did you mean 'width'"),
        ("a = {low = 0, high = 1, when = {b = 3}}\nb = {values = [1, 2]}", "the condition of a never holds with b = 3"),
        (
            "a = {low = 0, high = 1, when = {b = [1, 'x']}}\nb = {values = [1, 2]}",
            "the condition of a never holds with b = 'x'",
        ),
        (
            "a = {low = 0, high = 1, when = {b = 1.0}}\nb = {low = 0.0, high = 1.0}",
            "depends on 'b', a range of real numbers: give b a step",
        ),
        ("a = {low = 0, high = 1, when = {a = 1}}", "the conditions of a depend on each other in a circle"),
        (
            "a = {low = 0, high = 1, when = {b = 1}}\nb = {low = 0, high = 1, when = {c = 1}}\n"
            "c = {low = 0, high = 1, when = {a = 1}}\nd = 1",
            "the conditions of a, b, c depend on each other in a circle",
        ),
    ],
)
def test_a_condition_that_cannot_be_followed_is_refused(architecture: str, rule: str) -> None:
    with pytest.raises(SpaceError, match=rule):
        from_knobs(architecture)


@pytest.mark.parametrize(
    ("architecture", "recipe", "rule"),
    [
        ("network = 'resnet99'", "", "no network is called 'resnet99': did you mean 'resnet9'"),
        ("network = {choices = ['senet', 'resnet99']}", "", "no network is called 'resnet99'"),
        ("network = 3", "", "no network is called 3"),
        ("network = {low = 0.0, high = 1.0}", "", "network must be a name or a choice of names"),
        ("network = 'senet'\nwidht = 1.0", "", "the network 'senet' has no knob 'widht': did you mean 'width'"),
        ("network = {choices = ['senet', 'resnet9']}\ndepth = 1.0", "", "the network 'resnet9' has no knob 'depth'"),
        (
            "network = 'senet'",
            "learning_rte = 0.1",
            "a recipe has no knob 'learning_rte': did you mean 'learning_rate'",
        ),
        (
            "network = 'senet'",
            "learning_rate = {low = 0.1, high = 100.0}",
            "learning_rate must be between 1e-05 and 10, got 100.0",
        ),
        (
            "network = 'senet'",
            "optimizer = {choices = ['sgd', 'lamb']}",
            "optimizer must be one of sgd, adam, adamw, adamax, .*, got 'lamb'",
        ),
        ("network = 'senet'", "batch_size = 32.5", "batch_size must be a whole number, got 32.5"),
        ("network = 'senet'", "flip = {values = [0, 1]}", "flip must be one of False, True, alternating, got 0"),
        ("network = 'senet'", "batch_size = {low = 2.0, high = 64.0}", "batch_size takes whole numbers"),
    ],
)
def test_knobs_that_no_network_or_recipe_has_are_refused(architecture: str, recipe: str, rule: str) -> None:
    with pytest.raises(SpaceError, match=rule):
        from_knobs(architecture, recipe)


@pytest.mark.parametrize(
    "width", ["{low = 4.0, high = 8.0}", "'wide'", "{values = [4, 4.5]}", "{choices = [4, 'wide']}"]
)
def test_an_architecture_value_of_another_kind_is_refused_when_the_space_is_bound(width: str) -> None:
    with pytest.raises(SpaceError, match="width"):
        from_knobs(f"network = 'resnet9'\nwidth = {width}", **CIFAR)


def test_a_space_holds_two_networks_whose_knobs_have_conditions() -> None:
    space = from_knobs(
        "network = {choices = ['senet', 'resnet9']}\n"
        "depth = {values = [0.5, 1.0], when = {network = 'senet'}}\n"
        "depth1 = {low = 0, high = 1, when = {network = 'resnet9'}}",
        **CIFAR,
    )
    knobs = {c["architecture"]["network"]: sorted(c["architecture"]) for c in space.sample(32)}
    assert knobs == {"senet": ["depth", "network"], "resnet9": ["depth1", "network"]}
    assert {space.blueprint(c).blocks[1].name for c in space.sample(32)} == {"pre_activation", "pooled"}


@SETTINGS
@given(st.dictionaries(words, st.recursive(scalars, lambda s: st.lists(s) | st.dictionaries(words, s), max_leaves=6)))
def test_any_content_of_a_file_is_a_space_or_a_space_error(table: dict[str, Any]) -> None:
    with suppress(SpaceError):
        Space.from_toml(tomli_w.dumps({"format": 1, "architecture": table})).sample(4)


def test_recipes_that_round_to_the_same_pixels_are_one_candidate_on_small_images_alone():
    def identities(shape):
        space = Space.load("resnet9", shape, 10)
        candidate = space.sample(1, seed=1)[0]
        rows = [{**candidate, "recipe": {**candidate["recipe"], "crop": crop}} for crop in (0.0, 0.0625)]
        return {space.identity(row) for row in rows}

    assert len(identities((1, 8, 8))) == 1
    assert len(identities((3, 32, 32))) == 2


def test_a_knob_that_another_switches_on_is_checked_too() -> None:
    text = """
    format = 1
    [architecture]
    network = { choices = ["resnet9", "senet"] }
    depth1 = { values = [0, 1, 100000], when = { network = "resnet9" } }
    [recipe]
    learning_rate = 0.1
    """
    with pytest.raises(SpaceError, match=r"depth1 = 100000"):
        Space.from_toml(text, (3, 32, 32), 10)
