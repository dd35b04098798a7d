"""A trained network's predictions on a split, and their accuracy and log-loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jointnas.data.dataset import Split
from jointnas.training.batches import Normalise

SCORING_BATCH = 512
INVERSE_TEMPERATURES = np.geomspace(1 / 8, 8, 31).tolist()  # among which logits are calibrated
CALIBRATION_IMAGES = 2048  # at most
SHARPENING = 1.5  # factor of calibrated logits: the smoothed accuracy then changes by as much as the accuracy


def logits_of(network: nn.Module, images: Tensor, flip: bool) -> Tensor:
    """Return (n, classes) logits of (n, C, H, W) images; with `flip`, averaged over each image and its mirror image."""
    logits: Tensor = network(images)
    return (logits + network(images.flip(3))) / 2 if flip else logits


@torch.inference_mode()
def predict(
    network: nn.Module,
    split: Split,
    normalise: Normalise,
    device: torch.device,
    flip: bool = False,
    on_batch: Callable[[], None] = lambda: None,
) -> Tensor:
    """Return the (n, classes) logits of a split, on the CPU, and leave the network in evaluation mode.

    flip: see `logits_of`. on_batch: called after each batch, to report progress.
    """
    network.eval()
    parts = []
    for i in range(0, len(split), SCORING_BATCH):
        images = normalise(split.images[i : i + SCORING_BATCH].to(device))
        parts.append(logits_of(network, images, flip))
        on_batch()
    return torch.cat(parts).cpu()


def ensemble_logits(logits: Sequence[Tensor]) -> Tensor:
    """Return the (n, classes) logarithms of the mean of several networks' probabilities; the logits themselves of a single network."""
    if len(logits) == 1:
        return logits[0]
    return torch.stack([own.log_softmax(dim=1) for own in logits]).logsumexp(dim=0) - math.log(len(logits))


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of (n, classes) logits that are largest at their label; `Confusion` has scores by class."""
    return float((logits.argmax(1) == labels).double().mean())


def smoothed_accuracy(logits: Tensor, labels: Tensor) -> float | None:
    """Return the mean sharpened probability of the true class, of (n, classes) logits and (n,) labels; None where a logit is not finite.

    An accuracy counts an image as 0 or 1, however close it was. This counts the probability of the true class, from logits calibrated by one
    temperature (Guo et al., ICML 2017), that of the least log-loss on these images, and then sharpened to about the level of the accuracy. It
    ranks trainings as the accuracy on more images does (`benchmarks.search.smoothed`). The sharpening is ours.
    """
    if not logits.isfinite().all():
        return None
    part = slice(CALIBRATION_IMAGES)
    losses = [_calibration_loss(logits[part] * scale, labels[part]) for scale in INVERSE_TEMPERATURES]
    scale = SHARPENING * INVERSE_TEMPERATURES[losses.index(min(losses))]
    return float((logits.double() * scale).softmax(1).gather(1, labels[:, None]).mean())


def _calibration_loss(logits: Tensor, labels: Tensor) -> float:
    """Return the sum of the images' log-losses and that of one more image of any class: else a network without errors has no best scale."""
    logarithms = logits.log_softmax(1)
    return float(F.nll_loss(logarithms, labels, reduction="sum") - logarithms.mean())


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished all work in its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def log_loss(logits: Tensor, labels: Tensor) -> float | None:
    """Return the mean cross-entropy in nats of (n, classes) logits, None where it is not finite."""
    loss = float(F.cross_entropy(logits.double(), labels))
    return loss if math.isfinite(loss) else None
