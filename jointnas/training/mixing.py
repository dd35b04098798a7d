"""Mixup and cutmix: two images of a batch become one, and its target mixes their classes in the same shares."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from jointnas.training.recipe import Recipe

Shares = NDArray[np.float64]


class Mixing:
    """Mixes each image x with the previous one of its batch, x', with λ ~ Beta(α, α) per image.

    Mixup (Zhang et al. 2018): λ·x + (1 − λ)·x'. Cutmix (Yun et al. 2019): a box of x' with area 1 − λ, centred anywhere; where
    the border cuts it, the target follows the remaining area. With both, each batch takes one of them with equal probability.
    """

    def __init__(self, recipe: Recipe, classes: int, rng: np.random.Generator) -> None:
        self.recipe, self.classes, self.rng = recipe, classes, rng

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mixed images (n, C, H, W), and targets as class probabilities (n, classes)."""
        cut = self.recipe.cutmix > 0 and (self.recipe.mixup == 0 or self.rng.random() < 0.5)
        alpha = self.recipe.cutmix if cut else self.recipe.mixup
        n = len(images)
        share = np.where(self.rng.random(n) < self.recipe.mix_probability, self.rng.beta(alpha, alpha, n), 1.0)
        weight = self._outside_boxes(share, *images.shape[2:]) if cut else share[:, None, None]
        weights = torch.from_numpy(weight).float().to(images.device)  # (n, H, W) or (n, 1, 1): of x in each pixel
        mixed = torch.lerp(images.roll(1, 0), images, weights[:, None])
        targets = F.one_hot(labels, self.classes).float()
        return mixed, torch.lerp(targets.roll(1, 0), targets, weights.mean(dim=(1, 2))[:, None])

    def _outside_boxes(self, share: Shares, height: int, width: int) -> Shares:
        """Return (n, H, W): 0 in a box whose uncut area is 1 − share of the image, 1 outside."""
        n = len(share)
        inside = []
        for side in (height, width):
            length = np.rint(side * np.sqrt(1 - share)).astype(int)
            start = self.rng.integers(side, size=n) - length // 2
            positions = np.arange(side)
            inside.append((positions >= start[:, None]) & (positions < (start + length)[:, None]))  # (n, side)
        outside: Shares = 1.0 - (inside[0][:, :, None] & inside[1][:, None, :])
        return outside
