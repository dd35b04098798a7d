"""A trained model's predictions on labelled images, by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from jointnas.campaign.winner_file import Model
from jointnas.data.dataset import Split, labelled_images
from jointnas.data.images import decode_file
from jointnas.errors import DataError
from jointnas.training.confusion import Confusion
from jointnas.training.scoring import SCORING_BATCH


@torch.inference_mode()
def probabilities_of(model: Model, images: Tensor) -> Tensor:
    """Return the (n, classes) probabilities of (n, H, W, C) uint8 images."""
    batches = torch.split(images, SCORING_BATCH)
    return torch.cat([model(batch.permute(0, 3, 1, 2).contiguous()) for batch in batches])


def classify_files(model: Model, paths: Sequence[Path]) -> Tensor:
    """Return the (n, classes) probabilities of image files, which are brought to the model's input size a batch at a time."""
    parts = [paths[start : start + SCORING_BATCH] for start in range(0, len(paths), SCORING_BATCH)]
    pixels = ([torch.tensor(decode_file(path, model.input_shape, model.fit)) for path in part] for part in parts)
    return torch.cat([probabilities_of(model, torch.stack(images)) for images in pixels])


def confusion_of(model: Model, split: Split) -> Confusion:
    """Return the confusion matrix of a split whose labels are the model's."""
    return Confusion.of(probabilities_of(model, split.images), split.labels, model.classes)


def evaluate(model: Model, source: str, split: str | None = None) -> tuple[Confusion, str]:
    """Return the confusion matrix of a model on a split of labelled images, and the name of the split.

    source: as for a search; image files are brought to the model's input size as its training images were. split: "train", "val" or
    "test" as the source divides its images; by default test where there is one, else all images. Classes are matched by name.
    Raises `DataError` for a class that the model does not have, or images of another shape.
    """
    channels, height, width = model.input_shape
    images, name, classes = labelled_images(source, model.input_shape, model.fit, split)
    if tuple(images.images.shape[1:]) != (height, width, channels):
        shape = "×".join(map(str, images.images.shape[1:]))
        raise DataError(
            f"the model takes images of {height}×{width}×{channels}, got {shape} in {source!r}: convert them"
        )
    unknown = [c for c in classes if c not in model.classes]
    if unknown:
        raise DataError(
            f"the images must have classes of the model ({', '.join(model.classes[:10])}), got {unknown[0]!r}: rename the folder"
        )
    places = torch.tensor([model.classes.index(c) for c in classes])
    return confusion_of(model, Split(images.images, places[images.labels])), name
