"""Mixup and cutmix: an image's share in the pixels is its share in the target, and the draws have their distributions."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jointnas.training.mixing import Mixing
from jointnas.training.recipe import Recipe

HEIGHT, WIDTH = 8, 12


def mixing(classes: int, seed: int = 0, **knobs: Any) -> Mixing:
    return Mixing(Recipe(**{"mix_probability": 1.0, **knobs}), classes, np.random.default_rng(seed))


def constants(n: int, height: int = HEIGHT, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    """Return n images, the i-th of them i everywhere, each of a different class."""
    values = torch.arange(n, dtype=torch.float32)
    return values[:, None, None, None].expand(n, 3, height, width).clone(), torch.arange(n)


def shares(targets: Tensor) -> Tensor:
    """Return (n,) how much of each target is its own image's class, where each image has a different class."""
    return targets.diagonal()


def assert_two_classes(targets: Tensor) -> None:
    """Check that each target is shared by its own image and the one before it, and sums to 1."""
    n = len(targets)
    torch.testing.assert_close(targets.sum(1), torch.ones(n))
    own = shares(targets)
    expected = torch.diag(own) + torch.diag(1 - own).roll(-1, 1)
    torch.testing.assert_close(targets, expected)
    assert ((targets >= 0) & (targets <= 1)).all()


@pytest.mark.parametrize("alpha", [0.1, 1.0, 5.0])
def test_mixup_blends_pixels_and_targets_in_the_same_shares(alpha: float) -> None:
    n = 40
    images, labels = constants(n)
    mixed, targets = mixing(n, mixup=alpha)(images, labels)
    assert_two_classes(targets)
    assert mixed.shape == images.shape
    values = mixed[:, 0, 0, 0]
    assert torch.equal(mixed, values[:, None, None, None].expand_as(mixed))
    before = torch.arange(n).roll(1).float()
    observed = (values - before) / (torch.arange(n) - before)  # λ in the pixels
    torch.testing.assert_close(observed, shares(targets), rtol=1e-4, atol=1e-4)
    assert len(set(observed.tolist())) > n / 2  # one draw per image


def test_mixup_takes_a_share_of_each_pixel_of_the_image_before() -> None:
    images = torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    mixed, targets = mixing(6, mixup=1.0)(images, torch.arange(6))
    for i in range(6):
        share = float(targets[i, i])
        torch.testing.assert_close(mixed[i], share * images[i] + (1 - share) * images[i - 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(8, 12), (12, 8), (5, 5), (1, 6)])
def test_cutmix_pastes_one_box_whose_area_is_the_others_share_of_the_target(height: int, width: int) -> None:
    n = 30
    mixer = mixing(n, cutmix=1.0)
    for _ in range(5):
        images, labels = constants(n, height, width)
        mixed, targets = mixer(images, labels)
        assert_two_classes(targets)
        for i in range(n):
            other = mixed[i, 0] == (i - 1) % n
            assert torch.equal(mixed[i], mixed[i, :1].expand(3, -1, -1))
            assert bool(((mixed[i, 0] == i) | other).all())
            ys, xs = other.any(1).nonzero()[:, 0], other.any(0).nonzero()[:, 0]
            if len(ys):
                assert int(other.sum()) == len(ys) * len(xs) == (ys[-1] - ys[0] + 1) * (xs[-1] - xs[0] + 1)
            assert float(1 - targets[i, i]) == pytest.approx(float(other.float().mean()), abs=1e-6)


def test_the_box_covers_what_lambda_leaves_unless_the_border_cuts_it() -> None:
    n, side = 400, 64
    mixer = mixing(n, cutmix=1.0, seed=3)
    twin = np.random.default_rng(3)
    images, labels = constants(n, side, side)
    mixed, targets = mixer(images, labels)
    twin.random(n)  # which images mix: all
    drawn = 1 - twin.beta(1.0, 1.0, n)
    whole = cut = 0
    for i in range(n):
        other = mixed[i, 0] == (i - 1) % n
        ys, xs = other.any(1).nonzero()[:, 0], other.any(0).nonzero()[:, 0]
        area = float(1 - targets[i, i])
        length = side * drawn[i] ** 0.5
        inside = len(ys) > 0 and min(int(ys[0]), int(xs[0])) > 0 and max(int(ys[-1]), int(xs[-1])) < side - 1
        if inside:  # the border did not cut it: a square of area 1 − λ, in whole pixels
            assert len(ys) == len(xs) == round(length)
            assert area == pytest.approx(drawn[i], abs=(length + 0.25) / side**2)
            whole += 1
        else:
            assert area <= drawn[i] + (length + 0.25) / side**2
            cut += area < 0.9 * drawn[i]
    assert whole > n / 10
    assert cut > n / 4


def test_a_box_has_its_centre_anywhere() -> None:
    n, side = 3000, 8
    mixed, _ = mixing(n, cutmix=5.0)(*constants(n, side, side))
    pasted = (mixed[:, 0] != torch.arange(n)[:, None, None]).double().mean(0)  # how often each place is
    torch.testing.assert_close(pasted, pasted.flip(0), rtol=0.25, atol=0.02)
    torch.testing.assert_close(pasted, pasted.flip(1), rtol=0.25, atol=0.02)
    assert pasted.min() > 0.1


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("probability", [0.0, 0.25, 0.5, 1.0])
def test_the_mix_probability_is_the_share_of_mixed_images(kind: str, probability: float) -> None:
    n = 2000
    images, labels = constants(n, 16, 16)
    knobs: dict[str, Any] = {kind: 5.0, "mix_probability": probability}
    mixed, targets = mixing(n, **knobs)(images, labels)
    touched = (mixed != images).flatten(1).any(1)
    assert torch.equal(touched, shares(targets) < 1)
    assert float(touched.double().mean()) == pytest.approx(probability, abs=0.04 if 0 < probability < 1 else 0.02)
    if probability == 0:
        assert torch.equal(mixed, images)
        assert torch.equal(targets, torch.eye(n))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixups_shares_have_the_mean_and_variance_of_a_beta_distribution(alpha: float) -> None:
    n = 4000
    _, targets = mixing(n, mixup=alpha)(torch.zeros(n, 1, 1, 1), torch.arange(n))
    observed = shares(targets).double()
    assert float(observed.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(observed.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_with_both_knobs_each_batch_is_of_one_kind_with_even_odds() -> None:
    mixer = mixing(16, mixup=1.0, cutmix=1.0)
    kinds = []
    for _ in range(200):
        images, labels = constants(16)
        mixed, targets = mixer(images, labels)
        assert_two_classes(targets)
        kinds.append(bool((mixed == mixed.round()).all()))  # a box leaves whole numbers, a blend does not
        if not kinds[-1]:
            assert bool((mixed == mixed[:, :, :1, :1]).all())  # a blend and no box
    assert sum(kinds) / 200 == pytest.approx(0.5, abs=0.12)


def test_images_of_one_class_keep_it_whole() -> None:
    images, _ = constants(10)
    _, targets = mixing(4, mixup=1.0)(images, torch.full((10,), 2))
    torch.testing.assert_close(targets, torch.eye(4)[[2] * 10])


@pytest.mark.parametrize("knobs", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_the_same_generator_gives_the_same_mixtures_and_another_gives_others(knobs: dict[str, Any]) -> None:
    def three(seed: int) -> list[tuple[Tensor, Tensor]]:
        mixer = mixing(12, seed, **knobs)
        return [mixer(*constants(12)) for _ in range(3)]

    first, again, other = three(1), three(1), three(2)
    assert all(torch.equal(a, b) for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True))
    assert not any(torch.equal(x[1], y[1]) for x, y in zip(first, other, strict=True))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_the_given_images_stay_as_they_are(kind: str) -> None:
    images, labels = constants(10)
    before = images.clone()
    knobs: dict[str, Any] = {kind: 1.0}
    mixing(10, **knobs)(images, labels)
    assert torch.equal(images, before)
