"""Spaces restricted to the batch sizes that a training set allows."""

from typing import Any

import numpy as np
import pytest

from jointnas.errors import SpaceError
from jointnas.space.space import Space
from jointnas.training.recipe import Recipe
from tests.spaces import SPACES_OF_NETWORKS


def space(recipe: str, architecture: str = "") -> Space:
    text = f'format = 1\n[architecture]\nnetwork = "resnet9"\n{architecture}\n[recipe]\n{recipe}'
    return Space.from_toml(text, input_shape=(3, 32, 32), classes=10)


def values(restricted: Space, name: str) -> tuple[Any, ...]:
    (knob,) = (knob for knob in restricted.knobs if knob.name == name)
    return knob.extremes


@pytest.mark.parametrize(
    ("sizes", "left"),
    [
        ("{ values = [16, 32, 64, 128] }", (16, 32)),
        ("{ values = [128, 32, 16] }", (32, 16)),
        ("{ choices = [128, 55, 56] }", (55,)),
        ("{ low = 40, high = 90, step = 10 }", (40, 50)),
        ("{ low = 50, high = 90, step = 10 }", (50,)),
        ("{ low = 53, high = 512, log = true }", (53, 54, 55)),
        ("{ values = [55] }", (55,)),
        ("32", (32,)),
    ],
)
def test_no_batch_size_is_above_the_number_of_training_images(sizes: str, left: tuple[int, ...]) -> None:
    restricted = space(f"batch_size = {sizes}").restricted(train_images=55)
    assert values(restricted, "batch_size") == left
    assert {c["recipe"]["batch_size"] for c in restricted.sample(64)} == set(left)
    assert Space.from_toml(restricted.to_toml(), (3, 32, 32), 10) == restricted


@pytest.mark.parametrize(
    ("recipe", "smallest"),
    [("batch_size = { values = [128, 64] }", 64), ("batch_size = 64", 64), ("learning_rate = 0.1", 128)],
)
def test_a_space_without_a_small_enough_batch_size_is_an_error(recipe: str, smallest: int) -> None:
    with pytest.raises(
        SpaceError, match=rf"smallest batch_size .* is {smallest}, but there are only 55 training images"
    ):
        space(recipe).restricted(55)


def test_enough_images_leave_a_space_as_it_is() -> None:
    whole = Space.load("resnet9", (3, 32, 32), 10)
    assert whole.restricted(512) is whole
    assert whole.restricted(511) is not whole
    abstract = Space.from_toml("format = 1\n[recipe]\nbatch_size = { values = [8, 16] }")
    assert abstract.restricted(2) is abstract


def test_knobs_that_only_larger_batches_switch_on_leave_the_space() -> None:
    restricted = space(
        """
        batch_size = { values = [32, 64, 128] }
        ghost_batch = { values = [0, 32], when = { batch_size = [64, 128] } }
        norm_images = { values = [0, 100], when = { ghost_batch = 32 } }
        label_smoothing = { values = [0.1, 0.2], when = { batch_size = [32, 128] } }
        """,
        "width = { values = [4, 8], when = { batch_size = 128 } }\ndepth1 = { low = 0, high = 1 }",
    ).restricted(40)
    assert [knob.name for knob in restricted.knobs] == ["network", "depth1", "batch_size", "label_smoothing"]
    assert restricted.n_architecture == 2
    assert all(c["recipe"]["label_smoothing"] in (0.1, 0.2) for c in restricted.sample(8))


@pytest.mark.parametrize("name", SPACES_OF_NETWORKS)
def test_every_candidate_of_a_restricted_built_in_space_can_be_trained_on_its_images(name: str) -> None:
    whole = Space.load(name, (3, 32, 32), 10)
    smallest = min(int(size) for size in values(whole, "batch_size"))
    restricted = whole.restricted(smallest)
    codes = next(restricted.stream(0, chunk=64))
    for candidate in restricted.to_candidates(codes):
        whole.validate(candidate)
        assert Recipe.from_knobs(candidate["recipe"]).batch_size == smallest
    assert restricted.identities(codes) == whole.identities(whole.to_codes(restricted.to_candidates(codes)))
    assert np.isfinite(restricted.costs(codes)["macs"]).all()


@pytest.mark.parametrize("name", ["resnet9", "mobilenet", "chain", "resnet", "senet"])
def test_large_images_reach_bounds_of_small_devices(name: str) -> None:
    small, large = (Space.load(name, (3, side, side), 10) for side in (47, 224))
    assert values(large, "resolution")[0] == 0.25
    assert set(values(small, "resolution")) < set(values(large, "resolution"))
    assert min(large.cost(candidate)["macs"] for candidate in large.sample(400, seed=0)) < 20e6
    assert Space.from_toml(large.to_toml(), (3, 224, 224), 10).knobs == large.knobs


@pytest.mark.parametrize("large", ['["a"]', "[1.0]", "[]"])
def test_further_values_are_other_numbers(large: str) -> None:
    with pytest.raises(SpaceError, match="large"):
        Space.from_toml(
            f'format = 1\n[architecture]\nnetwork = "resnet9"\nresolution = {{ values = [0.75, 1.0], large = {large} }}\n'
        )
