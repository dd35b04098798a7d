"""Published augmentation policies, sampled for each image of a batch.

AutoAugment (Cubuk et al. 2019, arXiv:1805.09501), RandAugment (Cubuk et al. 2020, arXiv:1909.13719) and TrivialAugment
Wide (Müller & Hutter 2021, arXiv:2103.10158), with torchvision's magnitudes, signs and probabilities.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from jointnas.errors import RecipeError, suggest
from jointnas.training.augmentation.operations import OPERATIONS, PLACED
from jointnas.training.policy_text import OPERATION_NAMES, parse_policy
from jointnas.training.recipe import POLICIES, TEXT


class Round(NamedTuple):
    """What happens to each of n images at once: the index of its operation (n,), and its magnitude (n,).

    places: (n, 2) numbers in [0, 1), for operations at a random place or with a random other image; None where there is none.
    """

    operations: Tensor
    magnitudes: Tensor
    places: Tensor | None = None


Draws = list[Round]
"""The rounds of a batch."""


class Policy(ABC):
    """Samples operations and magnitudes for each image of a batch, and applies them.

    All draws come from a generator on the CPU, so that they are the same on every device.
    """

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return changed copies of images (n, H, W, C) uint8."""
        n, height, width, _ = images.shape
        return apply(images, self.draw(n, height, width, generator))

    @abstractmethod
    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> Draws:
        """Return the draws of each round."""


NAMES = OPERATION_NAMES
"""The operation of each index."""

IDENTITY = NAMES.index("identity")
SIGNED = torch.tensor([name in {
    "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast", "sharpness",
} for name in NAMES])  # fmt: skip
"""Whether an operation's magnitude is negated with probability one half, (operations,)."""

UNIFORM = torch.tensor([i for i, name in enumerate(NAMES) if name != "invert" and name not in PLACED])
"""The 14 operations that RandAugment and TrivialAugment sample uniformly."""

PART_PIXELS = 128 * 32 * 32
"""An operation takes about this many pixels at a time, so that its intermediate results fit into the cache."""


@lru_cache(maxsize=64)
def magnitude_table(bins: int, height: int, width: int, wide: bool = False) -> Tensor:
    """Return (operations, bins): each operation's magnitudes on images of this size, zero for operations without one.

    wide: TrivialAugment's table; its translations of up to 32 pixels are limited to the image's side.
    """
    shear, degrees, blend, bits = (0.99, 135.0, 0.99, 6) if wide else (0.3, 30.0, 0.9, 4)
    x, y = (min(32, width), min(32, height)) if wide else (150 / 331 * width, 150 / 331 * height)
    highest = {"shear_x": shear, "shear_y": shear, "translate_x": x, "translate_y": y, "rotate": degrees}
    highest |= dict.fromkeys(("brightness", "color", "contrast", "sharpness"), blend)
    table = {name: torch.linspace(0, value, bins) for name, value in highest.items()}
    table["posterize"] = (8 - torch.arange(bins) / ((bins - 1) / bits)).round()
    table["solarize"] = 255 * torch.linspace(1, 0, bins)
    table["cutout"] = torch.linspace(0, 60 / 331 * min(height, width), bins)
    table["sample_pairing"] = torch.linspace(0, 0.4, bins)
    return torch.stack([table.get(name, torch.zeros(bins)) for name in NAMES])


class AutoAugment(Policy):
    """One of its sub-policies (25, as published) per image: two operations, each with a probability and one of 10 magnitude bins."""

    def __init__(self, text: str) -> None:
        """text: see `policy_text`."""
        steps = parse_policy(text)
        self.operations = torch.tensor([[NAMES.index(step.operation) for step in pair] for pair in steps])  # (25, 2)
        self.probabilities = torch.tensor([[step.probability for step in pair] for pair in steps])
        self.bins = torch.tensor([[step.magnitude for step in pair] for pair in steps])
        self.is_placed = any(step.operation in PLACED for pair in steps for step in pair)

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> Draws:
        """Return two rounds; an operation that is not applied is the identity."""
        table = magnitude_table(10, height, width)
        chosen = torch.randint(len(self.operations), (n,), generator=generator)
        rounds = []
        for operations, probabilities, bins in zip(
            self.operations[chosen].T, self.probabilities[chosen].T, self.bins[chosen].T, strict=True
        ):
            skipped = torch.rand(n, generator=generator) >= probabilities
            strengths = table[operations, bins] * _signs(operations, generator)
            places = torch.rand(n, 2, generator=generator) if self.is_placed else None
            rounds.append(Round(operations.masked_fill(skipped, IDENTITY), strengths, places))
        return rounds


class RandAugment(Policy):
    """N operations per image, each sampled from 14, all at magnitude M (0…30)."""

    def __init__(self, operations: int, magnitude: int) -> None:
        self.operations, self.magnitude = operations, magnitude

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> Draws:
        """Return N rounds."""
        strengths = magnitude_table(31, height, width)[:, self.magnitude]
        rounds = []
        for _ in range(self.operations):
            drawn = UNIFORM[torch.randint(len(UNIFORM), (n,), generator=generator)]
            rounds.append(Round(drawn, strengths[drawn] * _signs(drawn, generator)))
        return rounds


class TrivialAugment(Policy):
    """One operation per image, sampled from 14, at one of 31 magnitudes of the wide table."""

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> Draws:
        """Return one round."""
        table = magnitude_table(31, height, width, wide=True)
        drawn = UNIFORM[torch.randint(len(UNIFORM), (n,), generator=generator)]
        bins = torch.randint(31, (n,), generator=generator)
        return [Round(drawn, table[drawn, bins] * _signs(drawn, generator))]


def apply(images: Tensor, rounds: Draws) -> Tensor:
    """Return the images after all rounds; in each round, images with the same operation are changed together."""
    changed = images.clone(memory_format=torch.contiguous_format)
    part = max(1, PART_PIXELS // (images.shape[1] * images.shape[2]))
    for drawn, strengths, places in rounds:
        order = drawn.argsort(stable=True)
        counts = drawn.bincount(minlength=len(NAMES)).tolist()
        groups = torch.split(order.to(images.device, non_blocking=True), counts)
        group_strengths = torch.split(strengths[order].to(images.device, non_blocking=True), counts)
        for name, group, magnitudes in zip(NAMES, groups, group_strengths, strict=True):
            if name == "identity" or not len(group):
                continue
            for rows, values in zip(torch.split(group, part), torch.split(magnitudes, part), strict=True):
                own = changed.index_select(0, rows)
                if name in PLACED:
                    assert places is not None
                    result = PLACED[name](own, values, places[rows.cpu()].to(images.device), images)
                else:
                    result = OPERATIONS[name](own, values)
                _as_words(changed).index_copy_(0, rows, _as_words(result))
    return changed


def _as_words(images: Tensor) -> Tensor:
    """Return each image as a row, if possible of 8-byte words, which torch copies faster than bytes."""
    rows = images.flatten(1)
    return rows.view(torch.int64) if rows.shape[1] % 8 == 0 else rows


def _signs(operations: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random sign for each drawn operation that has one, 1 for the others."""
    negated = torch.rand(len(operations), generator=generator) < 0.5
    return 1.0 - 2.0 * (negated & SIGNED[operations])


AUTOAUGMENT = {
    "cifar10": """
        invert .1, contrast .2 6
        rotate .7 2, translate_x .3 9
        sharpness .8 1, sharpness .9 3
        shear_y .5 8, translate_y .7 9
        autocontrast .5, equalize .9
        shear_y .2 7, posterize .3 7
        color .4 3, brightness .6 7
        sharpness .3 9, brightness .7 9
        equalize .6, equalize .5
        contrast .6 7, sharpness .6 5
        color .7 7, translate_x .5 8
        equalize .3, autocontrast .4
        translate_y .4 3, sharpness .2 6
        brightness .9 6, color .2 8
        solarize .5 2, invert 0
        equalize .2, autocontrast .6
        equalize .2, equalize .6
        color .9 9, equalize .6
        autocontrast .8, solarize .2 8
        brightness .1 3, color .7 0
        solarize .4 5, autocontrast .9
        translate_y .9 9, translate_y .7 9
        autocontrast .9, solarize .8 3
        equalize .8, invert .1
        translate_y .7 9, autocontrast .9
        """,
    "svhn": """
        shear_x .9 4, invert .2
        shear_y .9 8, invert .7
        equalize .6, solarize .6 6
        invert .9, equalize .6
        equalize .6, rotate .9 3
        shear_x .9 4, autocontrast .8
        shear_y .9 8, invert .4
        shear_y .9 5, solarize .2 6
        invert .9, autocontrast .8
        equalize .6, rotate .9 3
        shear_x .9 4, solarize .3 3
        shear_y .8 8, invert .7
        equalize .9, translate_y .6 6
        invert .9, equalize .6
        contrast .3 3, rotate .8 4
        invert .8, translate_y 0 2
        shear_y .7 6, solarize .4 8
        invert .6, rotate .8 4
        shear_y .3 7, translate_x .9 3
        shear_x .1 6, invert .6
        solarize .7 2, translate_y .6 7
        shear_y .8 4, invert .8
        shear_x .7 9, translate_y .8 3
        shear_y .8 5, autocontrast .7
        shear_x .7 2, invert .1
        """,
    "imagenet": """
        posterize .4 8, rotate .6 9
        solarize .6 5, autocontrast .6
        equalize .8, equalize .6
        posterize .6 7, posterize .6 6
        equalize .4, solarize .2 4
        equalize .4, rotate .8 8
        solarize .6 3, equalize .6
        posterize .8 5, equalize 1
        rotate .2 3, solarize .6 8
        equalize .6, posterize .4 6
        rotate .8 8, color .4 0
        rotate .4 9, equalize .6
        equalize 0, equalize .8
        invert .6, equalize 1
        color .6 4, contrast 1 8
        rotate .8 8, color 1 2
        color .8 8, solarize .8 7
        sharpness .4 7, invert .6
        shear_x .6 5, equalize 1
        color .4 0, equalize .6
        equalize .4, solarize .2 4
        solarize .6 5, autocontrast .6
        invert .6, equalize 1
        color .6 4, contrast 1 8
        equalize .8, equalize .6
        """,
}
"""AutoAugment's policies (appendix A): each line is a sub-policy of two operations with probability and magnitude bin."""


def make_policy(name: str, *, operations: int = 2, magnitude: int = 9) -> Policy | None:
    """Return the policy of this name or text (`policy_text`), None for "none". Raises `RecipeError` for what is neither.

    operations, magnitude: RandAugment's N and M (0…30).
    """
    makers: dict[str, Callable[[], Policy | None]] = {
        "none": lambda: None,
        "randaugment": lambda: RandAugment(operations, magnitude),
        "trivialaugment": TrivialAugment,
    }
    kind, _, data_set = name.partition("-")
    if name in makers:
        return makers[name]()
    if kind == "autoaugment" and data_set in AUTOAUGMENT:
        return AutoAugment(AUTOAUGMENT[data_set])
    if TEXT.search(name):
        return AutoAugment(name)
    raise RecipeError(f"there is no augmentation policy {name!r}: {suggest(name, POLICIES)}")
