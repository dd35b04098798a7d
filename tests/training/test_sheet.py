"""The contact sheet: its size, the untouched first column, and data that has not three channels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from jointnas.data.dataset import Data, Split, load_data
from jointnas.data.spec import DataSpec
from jointnas.errors import RecipeError
from jointnas.training.recipe import Recipe
from jointnas.training.sheet import GAP, contact_sheet

WILD = Recipe(batch_size=8, crop=0.25, flip=True, cutout=0.5, mixup=1.0, policy="randaugment")
PLAIN = Recipe(batch_size=8, crop=0.0, flip=False)


def data_of(channels: int, height: int = 8, width: int = 8) -> Data:
    """Return the digits with other images: noise, of so many channels."""
    digits = load_data(DataSpec("digits", train_images=40, val_images=20))
    shape = (40, height, width, channels)
    images = torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mean, std = tuple(0.4 + 0.02 * c for c in range(channels)), tuple(0.2 + 0.05 * c for c in range(channels))
    return replace(digits, train=Split(images, digits.train.labels), mean=mean, std=std)


def cells(data: Data, recipe: Recipe, images: int, views: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return (images, 1 + views, H, W, 3): the sheet cut into its images, enlarging undone."""
    height, width = data.input_shape[1:]
    factor = -(-64 // min(height, width))
    sheet = np.asarray(contact_sheet(data, recipe, images, views, seed))
    small = sheet[::factor, ::factor]
    assert np.array_equal(sheet, small.repeat(factor, 0).repeat(factor, 1))  # enlarged by whole pixels
    assert small.shape == (images * (height + GAP) + GAP, (1 + views) * (width + GAP) + GAP, 3)
    rows = [slice(GAP + i * (height + GAP), GAP + i * (height + GAP) + height) for i in range(images)]
    columns = [slice(GAP + j * (width + GAP), GAP + j * (width + GAP) + width) for j in range(1 + views)]
    white = np.ones(small.shape[:2], dtype=bool)
    for row in rows:
        for column in columns:
            white[row, column] = False
    assert (small[white] == 255).all()
    return np.array([[small[row, column] for column in columns] for row in rows])


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 10), (64, 70), (40, 80)])
def test_a_sheet_has_a_row_for_each_image_and_a_column_for_each_view(height: int, width: int) -> None:
    sheet = cells(data_of(3, height, width), WILD, images=3, views=2)
    assert sheet.shape == (3, 3, height, width, 3)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_first_column_is_untouched_images_of_the_training_set(channels: int) -> None:
    data = data_of(channels)
    sheet = cells(data, WILD, images=6, views=3)
    originals = data.train.images if channels == 3 else data.train.images[..., :1].expand(-1, -1, -1, 3)
    matches = [[np.array_equal(cell, image) for image in originals.numpy()] for cell in sheet[:, 0]]
    assert [sum(row) for row in matches] == [1] * 6
    assert len({row.index(True) for row in matches}) == 6  # no image twice
    assert not any(np.array_equal(sheet[i, 0], sheet[i, j]) for i in range(6) for j in range(1, 4))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_without_augmentation_every_view_is_the_image(channels: int) -> None:
    sheet = cells(data_of(channels), PLAIN, images=4, views=2)
    assert (sheet == sheet[:, :1]).all()


def test_an_alternating_flip_mirrors_every_second_view() -> None:
    recipe = replace(PLAIN, flip="alternating")
    sheet = cells(data_of(3), recipe, images=8, views=4)
    mirrored = sheet[:, 0, :, ::-1]
    for i in range(8):
        turned = [np.array_equal(sheet[i, j], mirrored[i]) for j in range(1, 5)]
        assert turned in ([True, False, True, False], [False, True, False, True])
        assert [np.array_equal(sheet[i, j], sheet[i, 0]) for j in range(1, 5)] == [not t for t in turned]


def test_the_same_seed_gives_the_same_sheet_and_another_gives_another() -> None:
    data = data_of(3)
    first, again, other = (contact_sheet(data, WILD, 4, 3, seed).tobytes() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_sheet_shows_what_there_is_and_refuses_a_batch_larger_than_that() -> None:
    data = data_of(3)
    assert cells(data, PLAIN, images=40, views=1).shape[0] == 40
    with pytest.raises(RecipeError, match="batch_size = 64"):
        contact_sheet(data, Recipe(batch_size=64), 4, 3, 0)
