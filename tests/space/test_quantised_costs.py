"""Costs of batches of networks with weights of few bits."""

from __future__ import annotations

import pytest

from jointnas.errors import ConstraintError
from jointnas.network.cost import blueprint_cost, scoring_cost
from jointnas.search.search import Search
from jointnas.space.space import Space
from jointnas.training.recipe import QUANTISATION_KNOBS, Recipe
from jointnas.training.trained_blueprint import trained_blueprint

SHAPE, CLASSES = (3, 16, 16), 5


@pytest.mark.parametrize("name", ["resnet9-quantised", "chain", "resnet", "fbnet", "senet", "mobilenet", "joint"])
def test_a_batch_costs_what_its_networks_cost_one_by_one(name: str) -> None:
    space = Space.load(name, SHAPE, CLASSES)
    samples = [
        space,
        space.fix(
            {"quantiser": "binaryconnect", "weight_bits": 1, "quantised_layers": "all", "level_scales": "tensor"}
        ),
        space.fix(
            {"quantiser": "proxconnect", "weight_bits": 3, "quantised_layers": "inner", "int8_activations": True}
        ),
    ]
    for own in samples:
        for candidate in own.sample(12, seed=3):
            network = trained_blueprint(candidate, SHAPE, CLASSES)
            expected = scoring_cost(blueprint_cost(network), Recipe.from_knobs(candidate["recipe"]).views)
            assert own.cost(candidate) == expected
            assert own.blueprint(candidate) == network


def test_recipes_without_a_quantiser_keep_their_identities_whatever_its_other_knobs_are() -> None:
    space = Space.load("resnet9", SHAPE, CLASSES)
    (candidate,) = space.sample(1, seed=0)
    plain = space.identity(candidate)
    same = space.fix({"quantiser": "none", "weight_bits": 1})
    recipe = {**candidate["recipe"], "quantiser": "none", "weight_bits": 1}
    assert same.identity({**candidate, "recipe": recipe}) == plain
    few = space.fix({"quantiser": "binaryconnect"})
    assert few.identity({**candidate, "recipe": {**candidate["recipe"], "quantiser": "binaryconnect"}}) != plain


def test_a_bound_on_the_size_is_met_by_few_bits_and_a_small_one_is_refused_with_the_smallest() -> None:
    space = Space.load("resnet9-quantised", SHAPE, CLASSES)
    search = Search(space, ["size<20KB"], seed=0, pool_size=256)
    batch = search.ask(16)
    assert all(space.cost(candidate)["size"] < 20_000 for candidate in batch)
    assert any(candidate["recipe"]["quantiser"] != "none" for candidate in batch)
    with pytest.raises(ConstraintError, match="size"):
        Search(space, ["size<100"], seed=0, pool_size=256)


def test_few_bits_are_knobs_of_recipes() -> None:
    space = Space.load("resnet9-quantised", SHAPE, CLASSES)
    assert {knob.name for knob in space.knobs[space.n_architecture :]} >= set(QUANTISATION_KNOBS)
