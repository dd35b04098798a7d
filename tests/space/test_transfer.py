"""Candidates of one space in another: what stays, what moves to the nearest value, and what takes its default."""

import numpy as np
import pytest

from jointnas.campaign.candidate_file import built_in_recipes, find_candidate
from jointnas.errors import CandidateError
from jointnas.space.space import Space
from jointnas.space.toml import GROUPS
from jointnas.space.transfer import nearest_candidate, translate
from jointnas.training.recipe import Recipe
from jointnas.training.recipe_columns import effective
from jointnas.training.trained_blueprint import trained_blueprint

SHAPE = (3, 32, 32)


def space(architecture: str, recipe: str) -> Space:
    text = f"format = 1\n[architecture]\nnetwork = 'resnet9'\n{architecture}\n[recipe]\n{recipe}"
    return Space.from_toml(text, SHAPE, 10)


def test_the_same_knobs_are_the_same_codes() -> None:
    source, target = Space.load("resnet9", (1, 8, 8), 3), Space.load("resnet9", SHAPE, 10)
    codes = source.to_codes(source.sample(20))
    assert translate(codes, source, target) is codes


@pytest.mark.parametrize("target", ["resnet9-basic", "autotrain", "joint", "fbnet"])
def test_a_batch_is_brought_over_as_its_candidates_are_one_by_one(target: str) -> None:
    source = Space.load("resnet9", SHAPE, 10).fix(
        {"optimizer": "sgd", "policy": "none", "schedule": "linear", "flip": True}
    )
    there = Space.load(target, SHAPE, 10)
    candidates = source.sample(30)
    brought = there.to_candidates(translate(source.to_codes(candidates), source, there))
    for candidate, found in zip(candidates, brought, strict=True):
        there.validate(found)
        same_network = candidate["architecture"]["network"] == found["architecture"]["network"]
        if same_network:
            assert found == nearest_candidate(there, candidate)[0]


def test_numbers_move_to_the_nearest_and_words_that_are_not_there_to_the_default() -> None:
    source = space(
        "width = { low = 4, high = 64, step = 2 }",
        'learning_rate = { low = 0.01, high = 2.0 }\noptimizer = { choices = ["sgd", "muon"] }',
    )
    target = space(
        "width = { values = [8, 16] }",
        'learning_rate = { low = 0.1, high = 1.0 }\noptimizer = { choices = ["sgd", "adam"] }',
    )
    given = [
        {"architecture": {"network": "resnet9", "width": width}, "recipe": {"learning_rate": rate, "optimizer": word}}
        for width, rate, word in ((4, 0.05, "sgd"), (40, 0.5, "muon"), (10, 1.9, "sgd"))
    ]
    found = target.to_candidates(translate(source.to_codes(given), source, target))
    assert [c["architecture"]["width"] for c in found] == [8, 16, 8]
    assert [c["recipe"]["learning_rate"] for c in found] == [0.1, 0.5, 1.0]
    assert [c["recipe"]["optimizer"] for c in found] == ["sgd", "sgd", "sgd"]


def test_a_number_that_is_off_stays_off_where_it_can() -> None:
    with_off = space("width = 8", "weight_decay = { low = 1e-4, high = 1.0, log = true, off = 0.0 }")
    without = space("width = 8", "weight_decay = { low = 1e-5, high = 0.1, log = true }")
    wider = space("width = 8", "weight_decay = { low = 1e-3, high = 1.0, log = true, off = 0.0 }")

    def brought(decays: list[float], source: Space, target: Space) -> list[float]:
        given = [{"architecture": {"network": "resnet9", "width": 8}, "recipe": {"weight_decay": d}} for d in decays]
        found = target.to_candidates(translate(source.to_codes(given), source, target))
        return [float(c["recipe"]["weight_decay"]) for c in found]

    assert brought([0.0, 1e-4, 1.0], with_off, without) == [1e-5, 1e-4, 0.1]
    assert brought([0.0, 1e-4, 9e-4, 0.5], with_off, wider) == [0.0, 0.0, 1e-3, 0.5]
    assert brought([1e-5, 9e-5, 0.1], without, with_off) == [0.0, 1e-4, 0.1]


def test_another_network_leaves_the_recipe() -> None:
    source, target = Space.load("fbnet", SHAPE, 10), Space.load("resnet9", SHAPE, 10)
    codes = translate(source.to_codes(source.sample(40)), source, target)
    n = target.n_architecture
    assert len(np.unique(codes[:, :n], axis=0)) == 1
    rates = [c["recipe"]["learning_rate"] for c in source.sample(40)]
    low, high = 0.02, 2.0
    assert [c["recipe"]["learning_rate"] for c in target.to_candidates(codes)] == pytest.approx(
        np.clip(rates, low, high)
    )


def test_where_the_knob_of_the_network_stands_does_not_matter() -> None:
    knobs = ["width = { low = 4, high = 16 }", 'network = { choices = ["resnet9", "chain"] }']
    target = Space.from_toml(
        'format = 1\n[architecture]\nnetwork = "resnet9"\nwidth = { low = 4, high = 16 }\n', SHAPE, 10
    )
    for order in (knobs, knobs[::-1]):
        source = Space.from_toml("\n".join(["format = 1", "[architecture]", *order]), SHAPE, 10)
        candidates = [{"architecture": {"network": name, "width": 15}, "recipe": {}} for name in ("resnet9", "chain")]
        moved = target.to_candidates(translate(source.to_codes(candidates), source, target))
        assert [c["architecture"]["width"] == 15 for c in moved] == [True, False]


# --------------------------------------------------------------------------------------------------- single candidates


def test_the_nearest_candidate_of_a_space_takes_what_it_can_of_another() -> None:
    space = Space.load("nomad-nas", (3, 32, 32), 10)
    foreign = {
        "architecture": {"network": "resnet", "width": 0.7234, "pre_activation": True},
        "recipe": {"learning_rate": 0.3, "weight_decay": 5e-4},
    }
    nearest, changes = nearest_candidate(space, foreign)
    space.validate(nearest)
    assert nearest["architecture"] == {"network": "resnet", "depth": 1.0, "width": 0.72, "resolution": 1.0}
    assert nearest["recipe"]["learning_rate"] == 0.1  # fixed there
    assert changes == [
        "width 0.72 instead of 0.7234",
        "pre_activation left out instead of True",
        "learning_rate 0.1 instead of 0.3",
    ]
    assert nearest_candidate(space, nearest) == (nearest, [])


def test_the_nearest_candidate_stays_inside_the_ranges() -> None:
    space = Space.load("nomad-hpo", (3, 32, 32), 10)
    found, _ = nearest_candidate(
        space, {"architecture": {"network": "senet"}, "recipe": {"learning_rate": 3.0, "batch_size": 200}}
    )
    assert (found["recipe"]["learning_rate"], found["recipe"]["batch_size"]) == (0.6, 256)
    assert found["architecture"]["width"] == 0.67


@pytest.mark.parametrize(
    ("architecture", "recipe", "message"),
    [
        ({"network": "resnet"}, {}, "fixed at 'senet', got 'resnet'"),
        ({"network": "senet"}, {"optimizer": "rmsprop"}, "no choice 'rmsprop'"),
        ({"network": "senet"}, {"learning_rate": "high"}, "got 'high'"),
    ],
)
def test_there_is_no_nearest_candidate_to_another_network_or_word(architecture, recipe, message) -> None:  # type: ignore[no-untyped-def]
    space = Space.load("nomad-hpo", (3, 32, 32), 10)
    with pytest.raises(CandidateError, match=message):
        nearest_candidate(space, {"architecture": architecture, "recipe": recipe})


def test_a_start_stands_in_the_middle_where_its_default_is_not_in_the_space() -> None:
    space = Space.from_toml(
        """
        format = 1
        [architecture]
        network = "resnet9"
        width = { low = 4, high = 16 }
        [recipe]
        optimizer = { choices = ["adamw", "muon"] }
        """,
        (3, 32, 32),
        10,
    )
    found, _ = nearest_candidate(space, {"architecture": {"network": "resnet9"}, "recipe": {}})
    assert found == {"architecture": {"network": "resnet9", "width": 16}, "recipe": {"optimizer": "muon"}}
    with pytest.raises(CandidateError, match="got None"):
        nearest_candidate(space, {"architecture": {}, "recipe": {}})


# ----------------------------------------------------------------------------------------------------- built-in recipes

FULL_SPACES = {"fbnet": "fbnetv3-imagenet"}  # the other families have a full space of their own name


@pytest.mark.parametrize("name", built_in_recipes())
def test_the_full_space_of_its_family_holds_a_known_recipe(name: str) -> None:
    candidate = find_candidate(name).candidate
    network = str(candidate["architecture"]["network"])
    few_bits = "-quantised" if "quantiser" in candidate["recipe"] else ""
    space = Space.load(FULL_SPACES.get(network, network) + few_bits, input_shape=(3, 224, 224), classes=10)
    nearest, _ = nearest_candidate(space, candidate)
    assert space.blueprint(nearest) == trained_blueprint(candidate, (3, 224, 224), 10)
    assert effective(space.recipe(nearest), 224, 224) == effective(Recipe.from_knobs(candidate["recipe"]), 224, 224)
    for group in GROUPS:
        assert candidate[group].items() <= nearest[group].items()
