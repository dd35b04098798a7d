"""The recipe: its knobs, their ranges, and what counts as the same training."""

import math
from typing import Any

import pytest

from jointnas.errors import RecipeError
from jointnas.training.recipe import (
    EXPECTED_LEARNING_RATE,
    POLICIES,
    QUANTISERS,
    SCHEDULES,
    Recipe,
    check_value,
    knob,
    knob_fields,
)
from jointnas.training.recipe_columns import effective


def test_omitted_knobs_have_their_defaults() -> None:
    assert Recipe.from_knobs({}) == Recipe()
    assert Recipe.from_knobs({"batch_size": 64}).learning_rate == Recipe().learning_rate


def test_every_knob_has_a_description_and_a_default_inside_its_range() -> None:
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
                with pytest.raises(RecipeError, match=f"the recipe knob {name} must be between"):
                    Recipe.from_knobs({name: value})


def test_an_unknown_knob_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="a recipe has no knob 'learning_rte': did you mean 'learning_rate'"):
        Recipe.from_knobs({"learning_rte": 0.1})
    with pytest.raises(RecipeError, match="did you mean 'cutout'"):
        knob("cutuot")


def test_an_unknown_choice_is_refused_with_the_valid_ones() -> None:
    nine = "sgd, adam, adamw, adamax, adadelta, adagrad, asgd, rmsprop, muon"
    with pytest.raises(RecipeError, match=f"optimizer must be one of {nine}, got 'lamb'"):
        Recipe(optimizer="lamb")
    for name in nine.split(", "):
        assert Recipe(optimizer=name).optimizer == name


@pytest.mark.parametrize("value", [0, 1, 0.0, "true", "Alternating", None])
def test_a_boolean_is_neither_a_number_nor_a_word(value: object) -> None:
    with pytest.raises(RecipeError, match="flip must be one of False, True, alternating"):
        Recipe.from_knobs({"flip": value})
    with pytest.raises(RecipeError, match="test_flip must be one of False, True"):
        Recipe.from_knobs({"test_flip": value})


@pytest.mark.parametrize("value", [False, True, "alternating"])
def test_a_flip_is_off_or_random_or_takes_turns(value: object) -> None:
    assert Recipe.from_knobs({"flip": value}).flip is value


def test_a_batch_has_a_whole_number_of_images() -> None:
    with pytest.raises(RecipeError, match=r"batch_size must be a whole number, got 32\.5"):
        Recipe(batch_size=32.5)  # type: ignore[arg-type]


def test_a_whole_number_written_with_a_point_is_a_whole_number() -> None:
    assert isinstance(Recipe(batch_size=64.0).batch_size, int)  # type: ignore[arg-type]


SWITCHES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "momentum": ([{"optimizer": "sgd"}, {"optimizer": "muon"}], [{"optimizer": "adam"}, {"optimizer": "rmsprop"}]),
    "sam_rho": ([{"gradient": "sam"}], [{"gradient": "plain"}, {"gradient": "mltp"}]),
    "sam_every": ([{"gradient": "sam"}], [{"gradient": "plain"}, {"gradient": "mltp"}]),
    "mltp_rate": ([{"gradient": "mltp"}], [{"gradient": "plain"}, {"gradient": "sam"}]),
    "lookahead_rate": ([{"lookahead": 1}, {"lookahead": 1000}], [{"lookahead": 0}]),
    "cycles": ([{"schedule": "sgdr"}], [{"schedule": s} for s in SCHEDULES if s != "sgdr"]),
    "cycle_growth": ([{"schedule": "sgdr", "cycles": 2}], [{"schedule": "sgdr", "cycles": 1}, {"schedule": "linear"}]),
    "resize_until": ([{"start_resolution": 0.9}], [{"start_resolution": 1.0}]),
    "mix_probability": ([{"mixup": 0.1}, {"cutmix": 0.1}, {"mixup": 1.0, "cutmix": 1.0}], [{}]),
    "policy_operations": ([{"policy": "randaugment"}], [{"policy": p} for p in POLICIES if p != "randaugment"]),
    **{
        name: ([{"quantiser": q} for q in QUANTISERS[1:]], [{}])
        for name in ("weight_bits", "level_scales", "scales_from", "quantised_layers", "int8_activations")
    },
    "weight_levels": (
        [{"quantiser": "proxquant", "weight_bits": bits} for bits in (2, 3, 4)],
        [{"weight_bits": 2}, *({"quantiser": "proxquant", "weight_bits": bits} for bits in (1, 8))],
    ),
    **{
        name: ([{"quantiser": q} for q in QUANTISERS[2:]], [{}, {"quantiser": "binaryconnect"}])
        for name in ("prox_rho", "prox_varrho", "prox_until")
    },
    "policy_magnitude": ([{"policy": "randaugment"}], [{"policy": p} for p in POLICIES if p != "randaugment"]),
}
"""Where the other knobs switch a knob on, and where off."""


def effects(name: str, beside: dict[str, Any]) -> int:
    """Return how many trainings a knob's values make beside these others; each value is another recipe."""
    options = options_of(name)
    return len({str(effective(Recipe.from_knobs({**beside, name: value}), 32, 32)) for value in options})


def options_of(name: str) -> tuple[Any, ...]:
    metadata = knob(name).metadata
    return tuple(metadata.get("choices") or (metadata["low"], metadata["high"]))


@pytest.mark.parametrize("name", SWITCHES)
def test_a_knob_that_others_switch_changes_a_training_where_they_do_and_nowhere_else(name: str) -> None:
    on, off = SWITCHES[name]
    assert [effects(name, beside) for beside in on] == [len(options_of(name))] * len(on)
    assert [effects(name, beside) for beside in off] == [1] * len(off)


def test_a_ghost_batch_is_smaller_than_the_batch() -> None:
    def acting(ghost: int) -> dict[str, object]:
        return effective(Recipe(batch_size=64, ghost_batch=ghost), 32, 32)

    assert acting(0) == acting(64) == acting(65) == acting(1000)
    assert len({str(acting(ghost)) for ghost in (0, 1, 32, 63)}) == 4


def test_every_other_knob_changes_a_training() -> None:
    switched = {name for name, spec in knob_fields().items() if spec.metadata["when"]}
    assert switched == {*SWITCHES, "ghost_batch"}
    for name in knob_fields():
        if name not in switched:
            assert effects(name, {}) == len(options_of(name)), name


def test_a_number_means_the_same_with_and_without_a_point() -> None:
    assert effective(Recipe(learning_rate=1), 32, 32) == effective(Recipe(learning_rate=1.0), 32, 32)
    whole, real = Recipe(batch_size=64), Recipe(batch_size=64.0)  # type: ignore[arg-type]
    assert str(effective(whole, 32, 32)) == str(effective(real, 32, 32))


@pytest.mark.parametrize(
    ("optimizer", "given"),
    [("sgd", 0.2), ("adam", 0.02), ("adamw", 0.02), ("adamax", 0.004), ("adadelta", 2.0), ("muon", 0.04)],
)
def test_each_optimizer_is_given_the_learning_rate_in_its_own_scale(optimizer: str, given: float) -> None:
    assert EXPECTED_LEARNING_RATE[optimizer] / EXPECTED_LEARNING_RATE["sgd"] == pytest.approx(given / 0.2)
    assert Recipe(optimizer=optimizer, learning_rate=0.2).optimizer_learning_rate == pytest.approx(given)
