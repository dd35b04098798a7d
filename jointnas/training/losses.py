"""The loss of a training step: cross-entropy, with weights of the classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def class_weights(labels: Tensor, classes: int, exponent: float) -> Tensor | None:
    """Return the (classes,) weights images^-exponent, scaled so that the mean weight of an image is 1; None for the exponent 0.

    labels: (n,) of the training images. A class without images has the weight of one image.
    """
    if exponent == 0:
        return None
    counts = torch.bincount(labels, minlength=classes).double()
    weights = counts.clamp_min(1) ** -exponent
    return (weights * len(labels) / (weights * counts).sum()).float()


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float, weights: Tensor | None) -> Tensor:
    """Return the mean loss of (n, classes) logits for (n,) labels or (n, classes) probabilities."""
    if weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    total = F.cross_entropy(logits, targets, weights, label_smoothing=label_smoothing, reduction="sum")
    return total / len(logits)
