"""Batches: every image's own crop, mirror and cut-out, against a twin that tries every crop of one image."""

from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jointnas.data import Split
from jointnas.errors import RecipeError
from jointnas.recipe import Recipe
from jointnas.training.batches import Batches, Normalise

CPU = torch.device("cpu")
PLAIN: dict[str, Any] = {"crop": 0.0, "flip": False, "cutout": 0.0}


def normalise(channels: int) -> Normalise:
    return Normalise([0.5, 0.4, 0.3][:channels], [0.25, 0.2, 0.1][:channels], CPU)


def random_split(n: int, channels: int = 1, height: int = 8, width: int = 6) -> Split:
    """Return n images of noise, each labelled with its place."""
    generator = torch.Generator().manual_seed(0)
    shape = (n, height, width, channels)
    return Split(torch.randint(256, shape, generator=generator, dtype=torch.uint8), torch.arange(n))


def batches(split: Split, batch_size: int, seed: int = 1, **knobs: Any) -> Batches:
    recipe = Recipe(batch_size=batch_size, **{**PLAIN, **knobs})
    return Batches(split, recipe, normalise(split.images.shape[3]), torch.Generator().manual_seed(seed), CPU)


def crops(image: Tensor, pad_y: int, pad_x: int) -> dict[bytes, tuple[int, int, bool]]:
    """Return every crop of the reflected image, mirrored and not, with its offsets."""
    height, width, _ = image.shape
    padded = np.pad(image.numpy(), ((pad_y, pad_y), (pad_x, pad_x), (0, 0)), mode="reflect")
    found = {}
    for top in range(2 * pad_y + 1):
        for left in range(2 * pad_x + 1):
            cut = padded[top : top + height, left : left + width]
            found[cut.tobytes()] = (top, left, False)
            found[cut[:, ::-1].tobytes()] = (top, left, True)
    return found


@pytest.mark.parametrize("channels", [1, 3])
def test_normalising_is_subtracting_the_mean_and_dividing_by_the_deviation(channels: int) -> None:
    images = random_split(5, channels).images
    out = normalise(channels)(images)
    for c, (mean, std) in enumerate([(0.5, 0.25), (0.4, 0.2), (0.3, 0.1)][:channels]):
        expected = (images[..., c].double() / 255 - mean) / std
        torch.testing.assert_close(out[:, c].double(), expected, rtol=1e-5, atol=1e-5)
    assert out.shape == (5, channels, 8, 6)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_every_image_is_a_crop_of_its_own_reflection_and_every_crop_occurs(channels: int, flip: bool) -> None:
    split = random_split(3, channels)
    loader = batches(split, 2, crop=0.25, flip=flip)  # 2 pixels of 8 and of 6
    known = [crops(image, 2, 2) for image in split.images]
    seen = []
    for _ in range(300):
        rows = torch.tensor([0, 1, 2])
        images = loader.gather(rows)
        seen.append([known[i][image.numpy().tobytes()] for i, image in zip(rows, images, strict=True)])
    assert {draw for draws in seen for draw in draws} == {
        (top, left, mirrored) for top in range(5) for left in range(5) for mirrored in {False, flip}
    }


def test_each_image_of_a_batch_gets_its_own_draw() -> None:
    split = random_split(2)
    images = batches(split, 2, crop=0.25, flip=True).gather(torch.zeros(64, dtype=torch.long))
    known = crops(split.images[0], 2, 2)
    draws = [known[image.numpy().tobytes()] for image in images]
    assert len(set(draws)) > 20
    for part in range(3):  # top, left and mirror vary within one batch
        assert len({draw[part] for draw in draws}) > 1


def test_a_mirror_is_as_likely_as_none() -> None:
    split = random_split(2)
    images = batches(split, 2, flip=True).gather(torch.zeros(4000, dtype=torch.long))
    mirrored = (images == split.images[0].flip(1)).flatten(1).all(1).double().mean()
    assert float(mirrored) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("channels", [1, 3])
def test_without_augmentation_batches_are_the_normalised_images(channels: int) -> None:
    split = random_split(12, channels)
    plain = normalise(channels)(split.images)
    for images, labels in islice(batches(split, 4), 6):
        torch.testing.assert_close(images, plain[labels], rtol=0, atol=0)


def test_a_pass_shows_no_image_twice_and_leaves_a_last_part_out() -> None:
    stream = iter(batches(random_split(10), 4))
    passes = [torch.cat([next(stream)[1], next(stream)[1]]).tolist() for _ in range(6)]
    assert all(len(set(rows)) == 8 for rows in passes)
    assert {row for rows in passes for row in rows} == set(range(10))
    assert len({tuple(rows) for rows in passes}) == 6


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_a_cutout_is_one_square_of_the_mean_colour_that_may_cross_the_border(share: float) -> None:
    white = Split(torch.full((64, 8, 10, 3), 255, dtype=torch.uint8), torch.arange(64))
    side = round(share * 8)
    full = partial = 0
    centres = set()
    for images, _ in islice(batches(white, 64, cutout=share), 8):
        erased = images == 0
        assert torch.equal(erased[:, 0], erased.all(1))
        assert torch.equal(erased[:, 0], erased.any(1))
        for hole in erased[:, 0]:
            ys, xs = hole.any(1).nonzero()[:, 0], hole.any(0).nonzero()[:, 0]
            height, width = len(ys), len(xs)
            assert int(hole.sum()) == height * width
            assert int(ys[-1] - ys[0]) == height - 1  # no gap
            assert int(xs[-1] - xs[0]) == width - 1
            assert side // 2 <= min(height, width)
            assert max(height, width) <= side
            full += height == width == side
            partial += min(height, width) < side
            centres.add((int(ys[0]), int(xs[0]), height, width))
    assert partial > 0
    assert full > 0 or share == 1
    assert len(centres) > 10


def test_the_same_generator_gives_the_same_batches_and_another_gives_others() -> None:
    split = random_split(32)
    knobs = {"crop": 0.25, "flip": True, "cutout": 0.5}
    first, again, other = (next(iter(batches(split, 16, seed, **knobs)))[0] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_padding_stays_below_the_side_of_a_tiny_image() -> None:
    images, _ = next(iter(batches(random_split(4, 1, 1, 2), 4, crop=0.5, flip=True)))
    assert images.shape == (4, 1, 1, 2)


def test_a_batch_larger_than_the_training_set_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"10 training images.*batch_size = 11"):
        batches(random_split(10), 11)
    assert batches(random_split(10), 10).batch_size == 10
