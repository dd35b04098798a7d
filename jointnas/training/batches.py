"""Training batches: decoded images stay on the device, and each one is augmented by its own random draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from jointnas.data.dataset import Split
from jointnas.errors import RecipeError
from jointnas.training.augmentation import make_policy
from jointnas.training.mixing import Mixing
from jointnas.training.recipe import Recipe

CHUNK_PIXELS = 512 * 32 * 32
"""Small batches are read and augmented together in chunks of about this many pixels, which needs fewer calls."""


class Normalise:
    """Turns uint8 (n, H, W, C) images into float (n, C, H, W), channels last, with mean 0 and deviation 1 per channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        deviation = torch.tensor(std, device=device)
        self.scale = 1 / (255 * deviation)  # (C,)
        self.shift = -torch.tensor(mean, device=device) / deviation  # (C,)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the normalised images."""
        return images.float().mul_(self.scale).add_(self.shift).permute(0, 3, 1, 2)


class Batches:
    """An endless sequence of augmented training batches: shuffled epochs without their last, smaller batch.

    All draws come from `generator` on the CPU, so that the sequence is the same on every device.
    Raises `RecipeError` when a batch is larger than the training set.
    """

    def __init__(
        self,
        split: Split,
        classes: int,
        recipe: Recipe,
        normalise: Normalise,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        n, self.height, self.width, channels = split.images.shape
        if recipe.batch_size > n:
            raise RecipeError(
                f"batch_size = {recipe.batch_size} is larger than the training set of {n} images: lower the batch size"
            )
        self.recipe, self.normalise, self.generator, self.device = recipe, normalise, generator, device
        self.n, self.batch_size = n, int(recipe.batch_size)
        self.pad_y, self.pad_x = recipe.crop_pixels(self.height), recipe.crop_pixels(self.width)
        self.pixels = split.images.to(device).reshape(-1, channels)  # (n·H·W, C)
        self.labels = split.labels.to(device)
        self.ys = torch.arange(self.height, device=device)
        self.xs = torch.arange(self.width, device=device)
        self.policy = make_policy(recipe.policy, operations=recipe.policy_operations, magnitude=recipe.policy_magnitude)
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        self.mixing = Mixing(recipe, classes, rng) if recipe.mixup or recipe.cutmix else None
        self.mirrored = self._draw(n, 2).bool()  # in this epoch, of an alternating flip
        self.tasks = _two_tasks(split.labels) if recipe.gradient == "mltp" else None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised images (b, C, H, W) with labels (b,), or with class probabilities (b, classes) under mixing."""
        chunk = self.batch_size * max(1, CHUNK_PIXELS // (self.height * self.width * self.batch_size))
        while True:
            for rows in torch.split(self._epoch(), chunk):
                pixels, labels = self.transformed(rows), self.labels[rows]
                for start in range(0, len(rows), self.batch_size):
                    batch = slice(start, start + self.batch_size)
                    yield self.finished(pixels[batch], labels[batch])

    def augmented(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images at these rows and their targets as one batch."""
        return self.finished(self.transformed(rows), self.labels[rows])

    def finished(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (b, H, W, C) uint8 normalised, cut out and mixed within their task, with their targets."""
        images = self.normalise_and_cut(pixels)
        if self.mixing is None:
            return images, labels
        if self.tasks is None:
            return self.mixing(images, labels)
        first = len(images) - len(images) // 2
        halves = [self.mixing(images[task], labels[task]) for task in (slice(first), slice(first, None))]
        return torch.cat([half[0] for half in halves]), torch.cat([half[1] for half in halves])

    def _epoch(self) -> Tensor:
        """Return the rows of one epoch, a whole number of batches; with two tasks, each has half of every batch."""
        self.mirrored = ~self.mirrored
        size = self.batch_size
        if self.tasks is None:
            order = torch.randperm(self.n, generator=self.generator)
            return order[: self.n - self.n % size].to(self.device)
        halves = (size - size // 2, size // 2)
        count = min(len(task) // half for task, half in zip(self.tasks, halves, strict=True))
        parts = [
            task[torch.randperm(len(task), generator=self.generator)[: count * half]].view(count, half)
            for task, half in zip(self.tasks, halves, strict=True)
        ]
        return torch.cat(parts, dim=1).flatten().to(self.device)

    def transformed(self, rows: Tensor) -> Tensor:
        """Return (b, H, W, C) uint8: each image cropped, flipped and changed by the policy."""
        pixels = self.gather(rows)
        return self.policy(pixels, self.generator) if self.policy else pixels

    def gather(self, rows: Tensor) -> Tensor:
        """Return (b, H, W, C) uint8: a random crop and flip of each image, read in one gather.

        The reflection padding is never stored: a position beyond the border maps to the position as far inside it.
        """
        b = len(rows)
        top = self._draw(b, 2 * self.pad_y + 1)
        left = self._draw(b, 2 * self.pad_x + 1)
        xs = self.xs.expand(b, -1)
        if self.recipe.flip:
            mirrored = self.mirrored[rows] if self.recipe.flip == "alternating" else self._draw(b, 2).bool()
            xs = torch.where(mirrored[:, None], self.width - 1 - xs, xs)
        ys = _reflected(self.ys + top[:, None] - self.pad_y, self.height)  # (b, H)
        xs = _reflected(xs + left[:, None] - self.pad_x, self.width)  # (b, W)
        lines = rows[:, None] * self.height + ys
        index = lines[:, :, None] * self.width + xs[:, None, :]  # (b, H, W)
        return self.pixels.index_select(0, index.view(-1)).view(b, self.height, self.width, -1)

    def normalise_and_cut(self, images: Tensor) -> Tensor:
        """Return normalised images, each with one square at the mean colour, centred anywhere (DeVries & Taylor 2017)."""
        x = self.normalise(images)
        size = self.recipe.cutout_pixels(self.height, self.width)
        if size:
            inside_y = _interval(self.ys, self._draw(len(x), self.height), size)
            inside_x = _interval(self.xs, self._draw(len(x), self.width), size)
            x.masked_fill_((inside_y[:, :, None] & inside_x[:, None, :])[:, None], 0.0)
        return x

    def _draw(self, count: int, high: int) -> Tensor:
        return torch.randint(high, (count,), generator=self.generator).to(self.device, non_blocking=True)


def _interval(positions: Tensor, centre: Tensor, size: int) -> Tensor:
    """Return (b, n) booleans: whether each of n positions lies in the interval of `size` around each of b centres."""
    offset = positions - (centre[:, None] - size // 2)
    return (offset >= 0) & (offset < size)


def _reflected(positions: Tensor, side: int) -> Tensor:
    """Return positions in [0, side), reflected at the outermost pixels, for positions at most side − 1 outside."""
    last = side - 1
    return last - (last - positions.abs()).abs()


def _two_tasks(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of two tasks with half of each class each; the first task may have one image more."""
    order = labels.argsort(stable=True)
    return order[0::2], order[1::2]
