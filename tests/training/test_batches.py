"""Batches: every image's own crop, mirror and cut-out, against a twin that tries every crop of one image; turns and tasks."""

from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jointnas.data.dataset import Split
from jointnas.errors import RecipeError
from jointnas.training.batches import Batches, Normalise
from jointnas.training.recipe import Recipe

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
    classes = int(split.labels.max()) + 1
    return Batches(split, classes, recipe, normalise(split.images.shape[3]), torch.Generator().manual_seed(seed), CPU)


def crops(image: Tensor, pad_y: int, pad_x: int) -> dict[bytes, tuple[int, int, bool]]:
    """Return every crop of the reflected image, mirrored and not, with its offsets."""
    height, width, _ = image.shape
    padded = np.pad(image.numpy(), ((pad_y, pad_y), (pad_x, pad_x), (0, 0)), mode="reflect")
    offsets = {}
    for top in range(2 * pad_y + 1):
        for left in range(2 * pad_x + 1):
            cut = padded[top : top + height, left : left + width]
            offsets[cut.tobytes()] = (top, left, False)
            offsets[cut[:, ::-1].tobytes()] = (top, left, True)
    return offsets


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
    offsets = [crops(image, 2, 2) for image in split.images]
    seen = []
    for _ in range(300):
        rows = torch.tensor([0, 1, 2])
        images = loader.gather(rows)
        seen.append([offsets[i][image.numpy().tobytes()] for i, image in zip(rows, images, strict=True)])
    assert {draw for draws in seen for draw in draws} == {
        (top, left, mirrored) for top in range(5) for left in range(5) for mirrored in {False, flip}
    }


def test_each_image_of_a_batch_gets_its_own_draw() -> None:
    split = random_split(2)
    images = batches(split, 2, crop=0.25, flip=True).gather(torch.zeros(64, dtype=torch.long))
    offsets = crops(split.images[0], 2, 2)
    draws = [offsets[image.numpy().tobytes()] for image in images]
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
    with pytest.raises(RecipeError, match=r"batch_size = 11 is larger than the training set of 10 images"):
        batches(random_split(10), 11)
    assert batches(random_split(10), 10).batch_size == 10


# ---------------------------------------------------------------------------------------------- alternating flips, tasks


def turns(split: Split, loader: Batches, passes: int) -> list[dict[int, bool]]:
    """Return, for each epoch, whether each of its images is mirrored."""
    stream = iter(loader)
    plain = normalise(split.images.shape[3])(split.images)
    epochs: list[dict[int, bool]] = []
    for _ in range(passes):
        epochs.append({})
        for images, labels in islice(stream, len(split) // loader.batch_size):
            for image, row in zip(images, labels.tolist(), strict=True):
                as_it_is, mirrored = torch.equal(image, plain[row]), torch.equal(image, plain[row].flip(2))
                assert as_it_is is not mirrored
                epochs[-1][row] = mirrored
    return epochs


@pytest.mark.parametrize("n", [12, 14])  # with and without a last part that is left out
def test_an_alternating_flip_mirrors_each_image_in_every_second_pass_exactly(n: int) -> None:
    split = random_split(n)
    passes = turns(split, batches(split, 4, flip="alternating"), 6)
    for row in range(n):
        shown = [(i % 2, turned[row]) for i, turned in enumerate(passes) if row in turned]
        assert len({place == turned for place, turned in shown}) == 1  # one side in even passes, the other in odd ones
    assert 0 < sum(passes[0].values()) < len(passes[0])  # not all on one side at once


def test_a_random_flip_has_no_turns() -> None:
    split = random_split(64)
    first, second = turns(split, batches(split, 64, flip=True), 2)
    assert 0.2 < sum(first[row] == second[row] for row in range(64)) / 64 < 0.8


def classed_split(counts: list[int]) -> Split:
    """Return images that hold their own place as their colour, so many of each class, in mixed order."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    places = torch.arange(len(labels), dtype=torch.uint8)
    return Split(places[:, None, None, None].expand(-1, 4, 4, 1).contiguous(), labels)


@pytest.mark.parametrize("counts", [[20, 20, 20], [7, 10, 15], [1, 1, 30]])
@pytest.mark.parametrize("batch_size", [6, 7])
def test_the_two_tasks_hold_half_of_each_class_and_every_batch_half_of_each_task(
    counts: list[int], batch_size: int
) -> None:
    split = classed_split(counts)
    loader = batches(split, batch_size, gradient="mltp")
    assert loader.tasks is not None
    first, second = (set(task.tolist()) for task in loader.tasks)
    assert first | second == set(range(len(split)))
    assert not first & second
    assert 0 <= len(first) - len(second) <= 1
    for label in range(len(counts)):
        ours = [sum(int(split.labels[row]) == label for row in task) for task in (first, second)]
        assert abs(ours[0] - ours[1]) <= 1
    middle = batch_size - batch_size // 2
    colours = normalise(1)(split.images)[:, 0, 0, 0]
    seen: list[int] = []
    for images, labels in islice(iter(loader), 40):
        rows = [int((colours == image[0, 0, 0]).nonzero()) for image in images]
        assert len(set(rows)) == len(rows) == batch_size
        assert set(rows[:middle]) <= first
        assert set(rows[middle:]) <= second
        assert torch.equal(labels, split.labels[rows])
        seen += rows
    assert set(seen) == first | second


def test_a_batch_of_two_tasks_may_hold_the_whole_training_set() -> None:
    for n in (2, 5, 8):
        images, labels = next(iter(batches(classed_split([n]), n, gradient="mltp")))
        assert images.shape[0] == labels.shape[0] == n


def test_without_two_tasks_a_batch_may_hold_any_images() -> None:
    assert batches(classed_split([20, 20]), 4).tasks is None


# ------------------------------------------------------------------------------------------------- policies and mixtures


@pytest.mark.parametrize("policy", ["autoaugment-cifar10", "randaugment", "trivialaugment"])
def test_a_policy_changes_images_on_their_way_and_leaves_the_stored_ones_alone(policy: str) -> None:
    split = random_split(32, 3)
    before = split.images.clone()
    loader = batches(split, 16, policy=policy)
    plain = normalise(3)(split.images)
    changed = [
        not torch.equal(x, plain[row])
        for images, labels in islice(loader, 4)
        for x, row in zip(images, labels, strict=True)
    ]
    assert sum(changed) > len(changed) / 4
    assert torch.equal(split.images, before)
    assert torch.equal(loader.pixels, before.reshape(-1, 3))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_mixed_batches_come_with_class_probabilities(channels: int) -> None:
    split = random_split(16, channels)
    images, targets = next(iter(batches(split, 8, mixup=1.0, mix_probability=1.0)))
    assert targets.shape == (8, 16)
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    expected = torch.einsum("nk,kchw->nchw", targets, normalise(channels)(split.images))
    torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("knobs", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_images_of_one_task_are_mixed_with_each_other_alone(knobs: dict[str, Any]) -> None:
    loader = batches(random_split(32), 8, gradient="mltp", mix_probability=1.0, **knobs)
    assert loader.tasks is not None
    first, second = loader.tasks  # each image has a different class, so rows are classes
    for _, targets in islice(iter(loader), 8):
        assert not targets[:4, second].any()
        assert not targets[4:, first].any()


@pytest.mark.parametrize(
    "knobs", [{"flip": "alternating"}, {"mixup": 1.0, "cutmix": 1.0}, {"policy": "randaugment"}, {"gradient": "mltp"}]
)
def test_every_draw_comes_from_the_generator(knobs: dict[str, Any]) -> None:
    split = random_split(32, 3)
    state = torch.get_rng_state()
    first, again, other = (list(islice(batches(split, 8, seed, **knobs), 6)) for seed in (3, 3, 4))
    assert torch.equal(state, torch.get_rng_state())
    for (x, a), (y, b) in zip(first, again, strict=True):
        assert torch.equal(x, y)
        assert torch.equal(a, b)
    assert not any(torch.equal(x, y) for (x, _), (y, _) in zip(first, other, strict=True))
