"""Training batches: images stay decoded on the device, and each one is augmented by draws of its own."""

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
"""Images are read and go through the policy in chunks of several small batches, so that calls are few."""


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
                f"a batch is at most the {n} training images, got batch_size = {recipe.batch_size}: lower it"
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
        self.mirrored = self._draw(n, 2).bool()  # each image's side in the present pass, when they alternate
        self.tasks = _two_tasks(split.labels) if recipe.gradient == "mltp" else None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (b, C, H, W), normalised, with labels (b,), or class probabilities (b, classes) where they mix."""
        chunk = self.batch_size * max(1, CHUNK_PIXELS // (self.height * self.width * self.batch_size))
        while True:
            for rows in torch.split(self._pass(), chunk):
                pixels, labels = self.pixels_of(rows), self.labels[rows]
                for part in range(0, len(rows), self.batch_size):
                    here = slice(part, part + self.batch_size)
                    yield self.finished(pixels[here], labels[here])

    def augmented(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images at these rows and their labels as a batch of their own."""
        return self.finished(self.pixels_of(rows), self.labels[rows])

    def finished(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised images from (b, H, W, C) uint8, cut out and mixed within their task, with their targets."""
        images = self.normalise_and_cut(pixels)
        if self.mixing is None:
            return images, labels
        if self.tasks is None:
            return self.mixing(images, labels)
        first = len(images) - len(images) // 2
        halves = [self.mixing(images[task], labels[task]) for task in (slice(first), slice(first, None))]
        return torch.cat([half[0] for half in halves]), torch.cat([half[1] for half in halves])

    def _pass(self) -> Tensor:
        """Return the order of one pass, a whole number of batches; with two tasks, half of each batch is of each."""
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

    def pixels_of(self, rows: Tensor) -> Tensor:
        """Return (b, H, W, C) uint8: each image cropped, mirrored, and changed by the policy."""
        pixels = self.gather(rows)
        return self.policy(pixels, self.generator) if self.policy else pixels

    def gather(self, rows: Tensor) -> Tensor:
        """Return (b, H, W, C) uint8: each image's own crop of its padded self, mirrored or not, read in one pass.

        The padding is a reflection, so it is never stored: a place beyond the border is the place as far inside it.
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


def _two_tasks(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of two tasks, the images of each class going to one and the other in turn; the first may have one more."""
    order = labels.argsort(stable=True)
    return order[0::2], order[1::2]
