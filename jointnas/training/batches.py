"""Training batches: images stay decoded on the device, and each is cropped, flipped and cut out by draws of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from jointnas.data import Split
from jointnas.errors import RecipeError
from jointnas.recipe import Recipe


class Normalise:
    """uint8 (n, H, W, C) images to float (n, C, H, W), in channels-last memory, mean 0 and deviation 1 by channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        deviation = torch.tensor(std, device=device)
        self.scale = 1 / (255 * deviation)  # (C,)
        self.shift = -torch.tensor(mean, device=device) / deviation  # (C,)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the normalised images."""
        return images.float().mul_(self.scale).add_(self.shift).permute(0, 3, 1, 2)


class Batches:
    """An unending sequence of augmented training batches: shuffled passes, a last part smaller than a batch left out.

    All draws come from `generator` (on the CPU), so that the sequence is the same on every device.
    Raises `RecipeError` when a batch is larger than the training set.
    """

    def __init__(
        self, split: Split, recipe: Recipe, normalise: Normalise, generator: torch.Generator, device: torch.device
    ) -> None:
        n, self.height, self.width, channels = split.images.shape
        if recipe.batch_size > n:
            raise RecipeError(
                f"a batch is at most the {n} training images, got batch_size = {recipe.batch_size}: lower it"
            )
        self.recipe, self.normalise, self.generator, self.device = recipe, normalise, generator, device
        self.n, self.batch_size = n, int(recipe.batch_size)
        self.pad_y, self.pad_x = recipe.crop_pixels(self.height), recipe.crop_pixels(self.width)
        self.pixels = split.images.to(device).reshape(-1, channels)  # (n·H·W, C)
        self.labels = split.labels.to(device)
        self.ys = torch.arange(self.height, device=device)
        self.xs = torch.arange(self.width, device=device)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images (b, C, H, W) normalised, labels (b,))."""
        while True:
            order = torch.randperm(self.n, generator=self.generator).to(self.device)
            for start in range(0, self.n - self.batch_size + 1, self.batch_size):
                rows = order[start : start + self.batch_size]
                yield self.normalise_and_cut(self.gather(rows)), self.labels[rows]

    def gather(self, rows: Tensor) -> Tensor:
        """Return (b, H, W, C) uint8: each image's own crop of its padded self, mirrored or not, read in one pass.

        The padding is a reflection, so it is never stored: a place beyond the border is the place as far inside it.
        """
        b = len(rows)
        top = self._draw(b, 2 * self.pad_y + 1)
        left = self._draw(b, 2 * self.pad_x + 1)
        xs = self.xs.expand(b, -1)
        if self.recipe.flip:
            xs = torch.where(self._draw(b, 2).bool()[:, None], self.width - 1 - xs, xs)
        ys = _reflected(self.ys + top[:, None] - self.pad_y, self.height)  # (b, H)
        xs = _reflected(xs + left[:, None] - self.pad_x, self.width)  # (b, W)
        line = rows[:, None] * self.height + ys
        index = line[:, :, None] * self.width + xs[:, None, :]  # (b, H, W)
        return self.pixels.index_select(0, index.view(-1)).view(b, self.height, self.width, -1)

    def normalise_and_cut(self, images: Tensor) -> Tensor:
        """Return normalised images with a square at the mean colour, centred anywhere (DeVries & Taylor 2017)."""
        x = self.normalise(images)
        size = self.recipe.cutout_pixels(self.height, self.width)
        if size:
            inside_y = self._near(self.ys, self._draw(len(x), self.height), size)
            inside_x = self._near(self.xs, self._draw(len(x), self.width), size)
            x.masked_fill_((inside_y[:, :, None] & inside_x[:, None, :])[:, None], 0.0)
        return x

    @staticmethod
    def _near(line: Tensor, centre: Tensor, size: int) -> Tensor:
        """Return (b, len(line)) truth values: the `size` places around each centre, those past the border lost."""
        offset = line - (centre[:, None] - size // 2)
        return (offset >= 0) & (offset < size)

    def _draw(self, count: int, high: int) -> Tensor:
        return torch.randint(high, (count,), generator=self.generator).to(self.device, non_blocking=True)


def _reflected(places: Tensor, side: int) -> Tensor:
    """Return places in [0, side) for places at most side − 1 beyond it, mirrored at the outermost pixels."""
    last = side - 1
    return last - (last - places.abs()).abs()
