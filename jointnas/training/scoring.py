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
INVERSE_TEMPERATURES = np.geomspace(1 / 8, 8, 61)  # that a network's logits are calibrated with
CALIBRATION_IMAGES = 2048  # at most


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


def vote(logits: Sequence[Tensor]) -> Tensor:
    """Return the (n, classes) logarithms of the mean of several networks' probabilities; the logits themselves of a single network."""
    if len(logits) == 1:
        return logits[0]
    return torch.stack([own.log_softmax(dim=1) for own in logits]).logsumexp(dim=0) - math.log(len(logits))


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of (n, classes) logits that are largest at their label; `Confusion` has scores by class."""
    return float((logits.argmax(1) == labels).double().mean())


def smoothed_accuracy(logits: Tensor, labels: Tensor) -> float | None:
    """Return the mean probability that an image's true class beats its strongest rival, of (n, classes) logits and (n,) labels.

    An accuracy counts an image as 0 or 1, however close it was. This is σ(the true logit − the highest other one), with logits calibrated
    by one temperature (Guo et al., ICML 2017): that of the least log-loss on these images. It ranks trainings about as well as the
    accuracy on twice the images does (`benchmarks.search.smoothed`). The smoothing is ours. None where a logit is not finite.
    """
    if not logits.isfinite().all():
        return None
    part = slice(CALIBRATION_IMAGES)
    losses = [F.cross_entropy(logits[part] * float(own), labels[part]).item() for own in INVERSE_TEMPERATURES]
    true = logits.gather(1, labels[:, None])
    rival = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1, keepdim=True)
    margins = float(INVERSE_TEMPERATURES[int(np.argmin(losses))]) * (true - rival)
    return float(torch.sigmoid(margins.double()).mean())


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
