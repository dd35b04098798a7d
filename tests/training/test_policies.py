"""Augmentation policies: tables and frequencies of torchvision's, and the batch against a twin image by image."""

from collections import Counter
from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from jointnas.errors import RecipeError
from jointnas.training.augmentation import OPERATIONS, make_policy
from jointnas.training.augmentation.operations import GREY, PLACED
from jointnas.training.augmentation.policies import (
    AUTOAUGMENT,
    NAMES,
    PART_PIXELS,
    SIGNED,
    Policy,
    Round,
    apply,
    magnitude_table,
)
from jointnas.training.policy_text import OPERATION_NAMES, format_policy, parse_policy
from jointnas.training.recipe import POLICIES, Recipe
from jointnas.training.recipe_columns import effective_rows
from tests.training.test_operations import pictures, torchvisions

TABLES = {
    "autoaugment-cifar10": v2.AutoAugmentPolicy.CIFAR10,
    "autoaugment-svhn": v2.AutoAugmentPolicy.SVHN,
    "autoaugment-imagenet": v2.AutoAugmentPolicy.IMAGENET,
}
DRAWN = [name for name in POLICIES if name != "none"]
Key = tuple[tuple[str, float], ...]


def policy_of(name: str, **knobs: int) -> Policy:
    policy = make_policy(name, **knobs)
    assert policy is not None
    return policy


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ours(torchvisions_name: str) -> str:
    """Return our name of an operation from torchvision's, such as ShearX."""
    spaced = {"ShearX": "shear_x", "ShearY": "shear_y", "TranslateX": "translate_x", "TranslateY": "translate_y"}
    return spaced.get(torchvisions_name, torchvisions_name.lower())


def their_magnitudes(space: dict[str, Any], name: str, bins: int, height: int, width: int) -> list[float]:
    """Return torchvision's magnitudes of one operation in our unit: levels, where torchvision has shares of 255."""
    values = space[name][0](bins, height, width)
    if values is None:
        return [0.0] * bins
    return [float(v) * (255 if name == "Solarize" else 1) for v in values]


def keys(policy: Policy, n: int, side: int, seed: int = 0) -> Counter[Key]:
    """Return how often each sequence of operations with unsigned magnitudes is drawn."""
    rounds = [
        [
            (NAMES[k], round(abs(m), 3) if NAMES[k] != "identity" else 0.0)
            for k, m in zip(r.operations.tolist(), r.magnitudes.tolist(), strict=True)
        ]
        for r in policy.draw(n, side, side, seeded(seed))
    ]
    return Counter(zip(*rounds, strict=True))


def assert_frequencies(counts: Counter[Key], expected: dict[Key, float]) -> None:
    """Check every count within five deviations of its binomial (and one), and that nothing else occurs."""
    n = counts.total()
    assert set(counts) <= set(expected)
    for key, p in expected.items():
        assert abs(counts[key] - n * p) <= 5 * sqrt(n * p * (1 - p)) + 1, key


@pytest.mark.parametrize("name", TABLES)
def test_sub_policies_are_those_published(name: str) -> None:
    policy: Any = policy_of(name)
    sub_policies = [
        tuple((NAMES[k], round(p, 6), b) for k, p, b in zip(*row, strict=True))
        for row in zip(policy.operations.tolist(), policy.probabilities.tolist(), policy.bins.tolist(), strict=True)
    ]
    table = v2.AutoAugment(TABLES[name])._policies
    assert sub_policies == [tuple((ours(k), p, b or 0) for k, p, b in pair) for pair in table]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 40), (224, 192)])
def test_magnitudes_are_torchvisions(height: int, width: int) -> None:
    for space, bins, wide in (
        (v2.AutoAugment._AUGMENTATION_SPACE, 10, False),
        (v2.RandAugment._AUGMENTATION_SPACE, 31, False),
        (v2.TrivialAugmentWide._AUGMENTATION_SPACE, 31, True),
    ):
        table = magnitude_table(bins, height, width, wide)
        for name in space:
            expected = their_magnitudes(space, name, bins, height, width)
            if wide and name == "TranslateY":
                expected = [v * min(1, height / 32) for v in expected]  # ours stay within the image
            assert table[NAMES.index(ours(name))].tolist() == pytest.approx(expected, rel=1e-5)
            assert bool(SIGNED[NAMES.index(ours(name))]) is space[name][1]


@pytest.mark.parametrize("name", TABLES)
def test_sub_policies_occur_with_the_product_of_their_probabilities(name: str) -> None:
    theirs = v2.AutoAugment(TABLES[name])
    space = theirs._AUGMENTATION_SPACE
    expected: Counter[Key] = Counter()
    for pair in theirs._policies:
        for taken in [(a, b) for a in (0, 1) for b in (0, 1)]:
            p, key = 1 / 25, []
            for on, (operation, probability, place) in zip(taken, pair, strict=True):
                p *= probability if on else 1 - probability
                value = their_magnitudes(space, operation, 10, 32, 32)[place or 0]
                key.append((ours(operation), round(value, 3)) if on else ("identity", 0.0))
            expected[tuple(key)] += p
    assert_frequencies(keys(policy_of(name), 50_000, 32), {key: p for key, p in expected.items() if p > 0})


@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_randaugment_draws_every_pair_of_14_operations_at_its_magnitude(magnitude: int) -> None:
    space = v2.RandAugment._AUGMENTATION_SPACE
    single = [
        (ours(k), round(their_magnitudes(space, k, 31, 32, 32)[magnitude], 3) if k != "Identity" else 0.0)
        for k in space
    ]
    assert len(single) == 14
    counts = keys(policy_of("randaugment", magnitude=magnitude), 50_000, 32)
    assert_frequencies(counts, {(a, b): 1 / 196 for a in single for b in single})


def test_trivialaugment_draws_any_operation_at_any_of_31_magnitudes() -> None:
    space = v2.TrivialAugmentWide._AUGMENTATION_SPACE
    expected: Counter[Key] = Counter()
    for k in space:
        for value in their_magnitudes(space, k, 31, 32, 32):
            expected[((ours(k), round(value, 3)),)] += 1 / (14 * 31)
    assert_frequencies(keys(policy_of("trivialaugment"), 50_000, 32), dict(expected))


@pytest.mark.parametrize("name", DRAWN)
def test_signs_are_even_where_torchvision_negates_and_positive_elsewhere(name: str) -> None:
    signs: dict[str, Counter[bool]] = {}
    for drawn, strengths, _ in policy_of(name).draw(50_000, 32, 32, seeded(1)):
        for k, m in zip(drawn.tolist(), strengths.tolist(), strict=True):
            if m:
                signs.setdefault(NAMES[k], Counter())[m < 0] += 1
    for operation, count in signs.items():
        n = count.total()
        if SIGNED[NAMES.index(operation)]:
            assert abs(count[True] - n / 2) <= 2.5 * sqrt(n) + 1  # five deviations
        elif operation != "identity":
            assert count[True] == 0
    assert any(SIGNED[NAMES.index(operation)] for operation in signs)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "operations"), [(n, 2) for n in DRAWN] + [("randaugment", 3)])
def test_a_batch_is_what_torchvision_makes_of_each_image_by_the_same_draws(
    name: str, operations: int, channels: int
) -> None:
    policy = policy_of(name, operations=operations)
    images = pictures(200, 24, 20, channels)
    rounds = policy.draw(200, 24, 20, seeded(3))
    assert len(rounds) == {"randaugment": operations, "trivialaugment": 1}.get(name, 2)
    results = policy(images, seeded(3))
    for i, result in enumerate(results):
        expected, sheared = images[i], False
        for drawn, strengths, _ in rounds:
            operation = NAMES[int(drawn[i])]
            expected = torchvisions(operation, expected, float(strengths[i]))
            sheared |= operation in ("shear_x", "shear_y", "rotate")
        off = ((result.int() - expected.int()).abs() > 1).float().mean()
        assert float(off) <= (0.15 if sheared else 0.01)  # a pixel half-way between two may be either


@pytest.mark.parametrize("name", DRAWN)
def test_a_policy_follows_its_generator_and_leaves_its_input(name: str) -> None:
    policy = policy_of(name)
    images = pictures(1, 16, 16, 3).expand(64, -1, -1, -1).contiguous()
    before = images.clone()
    first, again, other = (policy(images, seeded(seed)) for seed in (5, 5, 6))
    assert torch.equal(images, before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({image.numpy().tobytes() for image in first}) > 16  # one picture, different draws per image


@pytest.mark.parametrize("shape", [(16, 16, 1), (10, 7, 5), (1, 1, 1), (1, 1, 3), (1, 6, 2)])
@pytest.mark.parametrize("name", DRAWN)
def test_any_size_and_number_of_channels_is_taken(name: str, shape: tuple[int, int, int]) -> None:
    images = pictures(300, *shape)
    results = policy_of(name)(images, seeded())
    assert results.shape == images.shape
    assert results.dtype == torch.uint8
    assert not torch.equal(results, images)


def test_a_group_that_goes_through_in_parts_is_changed_like_a_small_one() -> None:
    images = pictures(40, 64, 64, 1)
    assert PART_PIXELS < 64 * 64 * 40
    turn = Round(torch.full((40,), NAMES.index("rotate")), torch.linspace(-30, 30, 40))
    expected = OPERATIONS["rotate"](images, turn.magnitudes)
    assert torch.equal(apply(images, [turn]), expected)


def test_none_is_no_policy_and_an_unknown_name_is_refused_with_the_nearest() -> None:
    assert make_policy("none") is None
    with pytest.raises(
        RecipeError, match=r"no augmentation policy 'autoaugment-cifar': did you mean 'autoaugment-cifar10'\?"
    ):
        make_policy("autoaugment-cifar")
    with pytest.raises(RecipeError, match="no augmentation policy 'autoaugment': "):
        make_policy("autoaugment")


# ------------------------------------------------------------------------------------------------- policies as text

MINE = "cutout 1 9, invert 0 0; sample_pairing 1.0 9, identity 1; rotate .5 3, equalize 0.5"


def test_a_policy_is_written_as_text() -> None:
    assert format_policy(parse_policy(MINE)) == (
        "cutout 1 9, invert 0 0; sample_pairing 1 9, identity 1 0; rotate 0.5 3, equalize 0.5 0"
    )
    assert parse_policy(format_policy(parse_policy(MINE))) == parse_policy(MINE)
    for text in AUTOAUGMENT.values():
        assert len(parse_policy(text)) == 25


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rotate 0.5 3, rotat 0.5 3", r"no image operation is called 'rotat'.* did you mean 'rotate'"),
        ("rotate 1.3 3, invert 1", r"a probability lies between 0 and 1, got 1\.3 in"),
        ("rotate 1 10, invert 1", "a magnitude is a whole number from 0 to 9, got 10 in"),
        ("rotate 1 3", "a sub-policy has two operations"),
        ("rotate, invert", "an operation is written as name, probability and magnitude"),
        (" ; ", "a policy needs a sub-policy"),
    ],
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe(policy=text)


def test_recipes_with_other_policies_are_others() -> None:
    texts = ["none", "randaugment", MINE, MINE.replace(".5 3", ".5 4")]
    columns = {"policy": np.array(texts, dtype=object)}
    assert len(np.unique(effective_rows(columns, 4, 32, 32), axis=0)) == 4


def test_a_text_applies_its_operations() -> None:
    images = pictures(64, 32, 32, 3)
    policy = make_policy("posterize 1 9, invert 1")
    assert policy is not None
    expected = OPERATIONS["invert"](OPERATIONS["posterize"](images, torch.full((64,), 4.0)), torch.zeros(64))
    assert torch.equal(policy(images, seeded()), expected)


@pytest.mark.parametrize(("side", "corner"), [(3, 2), (5, 3), (6, 3)])
def test_cutout_erases_a_square_of_its_side_around_a_random_pixel(side: int, corner: int) -> None:
    images = torch.full((2000, 20, 30, 3), 200, dtype=torch.uint8)
    places = torch.rand(2000, 2, generator=seeded())
    erased = (PLACED["cutout"](images, torch.full((2000,), side + 0.2), places, images) == GREY).all(3)
    sizes = erased.flatten(1).sum(1)
    assert int(sizes.max()) == side**2
    assert int(sizes.min()) == corner**2
    assert erased.float().mean(0).gt(0).all()
    assert not (PLACED["cutout"](images, torch.zeros(2000), places, images) == GREY).any()


def test_sample_pairing_mixes_in_another_image_of_the_batch() -> None:
    levels = torch.arange(8, dtype=torch.uint8)[:, None, None, None] * 30
    images = levels.expand(8, 4, 4, 1).contiguous()
    places = torch.tensor([[0.0, 0.0], [0.99, 0.0]])
    mixed = PLACED["sample_pairing"](images[:2], torch.full((2,), 0.25), places, images)
    assert mixed[:, 0, 0, 0].tolist() == [0, int(0.75 * 30 + 0.25 * 210)]


def test_a_policy_at_random_places_is_the_same_for_equal_seeds() -> None:
    policy, images = make_policy(MINE), pictures(90, 16, 16, 3)
    assert policy is not None
    one, same, other = (policy(images, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_names_of_operations_are_those_that_there_are() -> None:
    assert (*OPERATIONS, *PLACED) == OPERATION_NAMES
