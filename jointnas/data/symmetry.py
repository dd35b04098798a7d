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
ERRORS = 2.0  # standard errors
CHUNK = 100  # images that are floats at a time


def mirror_symmetry(data: Data) -> float:
    """Return how much of a linear classifier's accuracy is left on mirrored images, from 0 to 1: about 1 for photos, 0.3 for letters.

    It is fitted to small training images and scored on validation images, by its balanced accuracy above that of chance. Only a loss of more
    than two standard errors counts: a few hundred photos of which some look better one way round are no letters.
    """
    from sklearn.linear_model import RidgeClassifier
    from sklearn.metrics import balanced_accuracy_score

    model = RidgeClassifier(PENALTY, class_weight="balanced")
    model.fit(_pixels(data.train.images[:FITTED]), data.train.labels[:FITTED].numpy())
    images, labels = data.val.images[:SCORED], data.val.labels[:SCORED].numpy()
    if len(np.unique(labels)) < 2:  # there is no accuracy above chance
        return 1.0
    answers = [model.predict(_pixels(own)) for own in (images, images.flip(2))]
    upright, mirrored = (balanced_accuracy_score(labels, own, adjusted=True) for own in answers)
    lost = (answers[0] == labels).astype(np.float64) - (answers[1] == labels)
    chance = 1 / len(data.classes)
    error = float(lost.std()) / np.sqrt(len(labels)) / (1 - chance)
    loss = upright - mirrored - ERRORS * error
    if upright <= 0 or loss <= 0:
        return 1.0
    return float(max(0.0, 1 - loss / upright))


def _pixels(images: Tensor) -> NDArray[np.float32]:
    """Return the (n, d) pixels of (n, H, W, C) uint8 images, `SIDE` pixels wide and high at most, each image of mean 0 and deviation 1."""
    _, height, width, _ = images.shape
    size = (min(SIDE, height), min(SIDE, width))
    parts = [adaptive_avg_pool2d(part.permute(0, 3, 1, 2).float(), size) for part in torch.split(images, CHUNK)]
    small = torch.cat(parts).flatten(1)
    centred = small - small.mean(1, keepdim=True)
    scaled: NDArray[np.float32] = (centred / centred.std(1, keepdim=True).clamp_min(1)).numpy()
    return scaled
