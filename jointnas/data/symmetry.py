"""Whether mirrored images of a data set still look like their classes: photos do, letters do not."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from jointnas.data.dataset import Data

FITTED, SCORED = 3000, 2000  # images, at most
SIDE = 12  # pixels of the images that a linear classifier reads
PENALTY = 100.0
CHUNK = 100  # images that are floats at a time


def mirror_symmetry(data: Data) -> float:
    """Return how much of a linear classifier's accuracy is left on mirrored images, from 0 to 1: about 1 for photos, 0.3 for letters.

    It is fitted to small training images and scored on validation images, by its balanced accuracy above that of chance. The fewer the
    images, the more the share is shrunk towards 1.
    """
    from sklearn.linear_model import RidgeClassifier
    from sklearn.metrics import balanced_accuracy_score

    model = RidgeClassifier(PENALTY, class_weight="balanced")
    model.fit(_pixels(data.train.images[:FITTED]), data.train.labels[:FITTED].numpy())
    images, labels = data.val.images[:SCORED], data.val.labels[:SCORED].numpy()
    noise = 0.5 / np.sqrt(len(labels))
    upright, mirrored = (
        max(0.0, balanced_accuracy_score(labels, model.predict(_pixels(own)), adjusted=True)) + noise
        for own in (images, images.flip(2))
    )
    return min(1.0, float(mirrored / upright))


def _pixels(images: Tensor) -> NDArray[np.float32]:
    """Return the (n, d) pixels of (n, H, W, C) uint8 images, `SIDE` pixels wide and high at most, each image of mean 0 and deviation 1."""
    _, height, width, _ = images.shape
    size = (min(SIDE, height), min(SIDE, width))
    parts = [adaptive_avg_pool2d(part.permute(0, 3, 1, 2).float(), size) for part in torch.split(images, CHUNK)]
    small = torch.cat(parts).flatten(1)
    centred = small - small.mean(1, keepdim=True)
    scaled: NDArray[np.float32] = (centred / centred.std(1, keepdim=True).clamp_min(1)).numpy()
    return scaled
