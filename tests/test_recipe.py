"""The recipe: its knobs, their ranges, and what counts as the same training."""

import math

import pytest

from jointnas.errors import RecipeError
from jointnas.recipe import EXPECTED_LEARNING_RATE, Recipe, check_value, knob, knob_fields


def test_knobs_that_are_not_given_stand_at_their_defaults() -> None:
    assert Recipe.from_knobs({}) == Recipe()
    assert Recipe.from_knobs({"batch_size": 64}).learning_rate == Recipe().learning_rate


def test_every_knob_says_what_it_is_and_has_a_default_inside_its_range() -> None:
    for name, spec in knob_fields().items():
        assert spec.metadata["about"]
        check_value(name, spec.default)


def test_every_bound_belongs_to_the_range() -> None:
    for name, spec in knob_fields().items():
        for value in spec.metadata.get("choices") or (spec.metadata["low"], spec.metadata["high"]):
            assert getattr(Recipe.from_knobs({name: value}), name) == value


def test_every_number_beyond_its_bounds_is_refused() -> None:
    for name, spec in knob_fields().items():
        if "low" in spec.metadata:
            for value in (spec.metadata["low"] - 1, spec.metadata["high"] + 1, math.nan, math.inf, True, "1"):
                with pytest.raises(RecipeError, match=f"the recipe knob {name} lies in"):
                    Recipe.from_knobs({name: value})


def test_an_unknown_knob_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="a recipe has no knob 'learning_rte': did you mean 'learning_rate'"):
        Recipe.from_knobs({"learning_rte": 0.1})
    with pytest.raises(RecipeError, match="did you mean 'cutout'"):
        knob("cutuot")


def test_an_unknown_choice_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="optimizer is one of sgd, adam, adamw, got 'lamb'"):
        Recipe(optimizer="lamb")


@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_a_truth_value_is_neither_number_nor_word(value: object) -> None:
    with pytest.raises(RecipeError, match="flip is one of False, True"):
        Recipe.from_knobs({"flip": value})


def test_a_batch_has_a_whole_number_of_images() -> None:
    with pytest.raises(RecipeError, match=r"batch_size is a whole number, got 32\.5"):
        Recipe(batch_size=32.5)  # type: ignore[arg-type]


def test_a_whole_number_written_with_a_point_is_a_whole_number() -> None:
    assert isinstance(Recipe(batch_size=64.0).batch_size, int)  # type: ignore[arg-type]


def test_momentum_changes_a_training_with_sgd_alone() -> None:
    def effective(optimizer: str, momentum: float) -> dict[str, object]:
        return Recipe(optimizer=optimizer, momentum=momentum).effective(32, 32)

    assert effective("adam", 0.8) == effective("adam", 0.95)
    assert effective("adamw", 0.8) == effective("adamw", 0.95)
    assert effective("sgd", 0.8) != effective("sgd", 0.95)


def test_every_other_knob_changes_a_training() -> None:
    for name, spec in knob_fields().items():
        options = spec.metadata.get("choices") or (spec.metadata["low"], spec.metadata["high"])
        assert len({str(Recipe.from_knobs({name: value}).effective(32, 32)) for value in options}) == len(options)


def test_a_number_means_the_same_with_and_without_a_point() -> None:
    assert Recipe(learning_rate=1).effective(32, 32) == Recipe(learning_rate=1.0).effective(32, 32)
    assert str(Recipe(batch_size=64).effective(32, 32)) == str(Recipe(batch_size=64.0).effective(32, 32))  # type: ignore[arg-type]


@pytest.mark.parametrize(("optimizer", "given"), [("sgd", 0.2), ("adam", 0.02), ("adamw", 0.02)])
def test_each_optimizer_is_given_the_learning_rate_in_its_own_scale(optimizer: str, given: float) -> None:
    assert EXPECTED_LEARNING_RATE[optimizer] / EXPECTED_LEARNING_RATE["sgd"] == pytest.approx(given / 0.2)
    assert Recipe(optimizer=optimizer, learning_rate=0.2).optimizer_learning_rate == pytest.approx(given)
