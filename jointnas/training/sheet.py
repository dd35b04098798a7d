"""A contact sheet of augmented training images: one row per image, the original first."""

from __future__ import annotations

import torch
from PIL import Image

from jointnas.data.dataset import Data
from jointnas.training.batches import Batches, Normalise
from jointnas.training.recipe import Recipe

GAP = 2  # pixels between images, before scaling
SMALLEST_SIDE = 64  # pixels: images are scaled by a whole factor to at least this


def contact_sheet(data: Data, recipe: Recipe, images: int, views: int, seed: int) -> Image.Image:
    """Return a picture of `images` training images, each followed by `views` augmented versions.

    A column is one batch, so mixing blends an image with the previous one of its column. Raises `RecipeError` for a batch
    larger than the training set.
    """
    generator = torch.Generator().manual_seed(seed)
    device = torch.device("cpu")
    normalise = Normalise(data.mean, data.std, device)
    batches = Batches(data.train, len(data.classes), recipe, normalise, generator, device)
    rows = torch.randperm(len(data.train), generator=generator)[:images]
    columns = [normalise(data.train.images[rows])]
    for _ in range(views):
        columns.append(batches.augmented(rows)[0])
        batches.mirrored = ~batches.mirrored  # the next view is of the next epoch
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    pixels = torch.stack(columns, dim=1) * std + mean  # (images, 1 + views, C, H, W)
    pixels = pixels.mul(255).round().clamp(0, 255).byte()
    if pixels.shape[2] != 3:
        pixels = pixels[:, :, :1].expand(-1, -1, 3, -1, -1)  # the first channel as grey
    _, count, _, height, width = pixels.shape
    sheet = torch.full((3, len(rows) * (height + GAP) + GAP, count * (width + GAP) + GAP), 255, dtype=torch.uint8)
    for i, row in enumerate(pixels):
        for j, image in enumerate(row):
            top, left = GAP + i * (height + GAP), GAP + j * (width + GAP)
            sheet[:, top : top + height, left : left + width] = image
    factor = -(-SMALLEST_SIDE // min(height, width))
    picture = Image.fromarray(sheet.permute(1, 2, 0).numpy())
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
