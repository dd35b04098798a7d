"""Published augmentation policies, drawn for each image of a batch.

AutoAugment (Cubuk et al. 2019, arXiv:1805.09501), RandAugment (Cubuk et al. 2020, arXiv:1909.13719) and TrivialAugment
Wide (Müller & Hutter 2021, arXiv:2103.10158), with the magnitudes, signs and probabilities of torchvision's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from jointnas.errors import RecipeError, suggest
from jointnas.training.augmentation.operations import OPERATIONS
from jointnas.training.recipe import POLICIES

Draws = list[tuple[Tensor, Tensor]]
"""For each round, the number of each image's operation (n,) and its magnitude (n,)."""


class Policy(ABC):
    """Changes each image of a batch by draws of its own.

    All draws come from a generator on the CPU, so that they are the same wherever the images lie.
    """

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the changed images, (n, H, W, C) uint8 like those given, which stay as they are."""
        n, height, width, _ = images.shape
        return applied(images, self.draw(n, height, width, generator))

    @abstractmethod
    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> Draws:
        """Return for each round the number of each image's operation (n,), and its magnitude (n,)."""


NAMES = tuple(OPERATIONS)
"""The name of each number by which an operation is drawn."""

IDENTITY = NAMES.index("identity")
SIGNED = torch.tensor([name in {
    "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast", "sharpness",
} for name in NAMES])  # fmt: skip
"""Whether an operation's magnitude is negated with probability one half, (operations,)."""

SPACE = torch.tensor([NAMES.index(name) for name in NAMES if name != "invert"])
"""The 14 operations of RandAugment and TrivialAugment."""

PART_PIXELS = 128 * 32 * 32
"""Images go through an operation in parts of about this many pixels, so that what is in between stays in the cache."""


@lru_cache(maxsize=64)
def magnitudes(bins: int, height: int, width: int, wide: bool = False) -> Tensor:
    """Return (operations, bins): each operation's magnitudes on images of this size, zero where it takes none.

    Wide is TrivialAugment's table. Its translations, up to 32 pixels, go to the image's side at most.
    """
    shear, turn, blend, bits = (0.99, 135.0, 0.99, 6) if wide else (0.3, 30.0, 0.9, 4)
    reach_x, reach_y = (min(32, width), min(32, height)) if wide else (150 / 331 * width, 150 / 331 * height)
    top = {"shear_x": shear, "shear_y": shear, "translate_x": reach_x, "translate_y": reach_y, "rotate": turn}
    top |= dict.fromkeys(("brightness", "color", "contrast", "sharpness"), blend)
    table = {name: torch.linspace(0, value, bins) for name, value in top.items()}
    table["posterize"] = (8 - torch.arange(bins) / ((bins - 1) / bits)).round()
    table["solarize"] = 255 * torch.linspace(1, 0, bins)
    return torch.stack([table.get(name, torch.zeros(bins)) for name in NAMES])


class AutoAugment(Policy):
    """One of 25 sub-policies for each image: two operations, each with its probability and magnitude bin of 10."""

    def __init__(self, sub_policies: str) -> None:
        steps = [[_step(words) for words in line.split(",")] for line in sub_policies.strip().splitlines()]
        self.operations = torch.tensor([[NAMES.index(name) for name, _, _ in pair] for pair in steps])  # (25, 2)
        self.probabilities = torch.tensor([[probability for _, probability, _ in pair] for pair in steps])
        self.bins = torch.tensor([[place for _, _, place in pair] for pair in steps])

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> Draws:
        """Return two rounds of draws; an operation that its probability spares an image is the identity."""
        table = magnitudes(10, height, width)
        chosen = torch.randint(len(self.operations), (n,), generator=generator)
        rounds = []
        for operations, probabilities, bins in zip(
            self.operations[chosen].T, self.probabilities[chosen].T, self.bins[chosen].T, strict=True
        ):
            spared = torch.rand(n, generator=generator) >= probabilities
            strengths = table[operations, bins] * _signs(operations, generator)
            rounds.append((operations.masked_fill(spared, IDENTITY), strengths))
        return rounds


class RandAugment(Policy):
    """N operations for each image, any of 14 at a time, all at magnitude M of 0…30."""

    def __init__(self, operations: int, magnitude: int) -> None:
        self.operations, self.magnitude = operations, magnitude

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> Draws:
        """Return N rounds of draws."""
        strengths = magnitudes(31, height, width)[:, self.magnitude]
        rounds = []
        for _ in range(self.operations):
            drawn = SPACE[torch.randint(len(SPACE), (n,), generator=generator)]
            rounds.append((drawn, strengths[drawn] * _signs(drawn, generator)))
        return rounds


class TrivialAugment(Policy):
    """One operation of 14 for each image, at any of 31 magnitudes of the wide table."""

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> Draws:
        """Return one round of draws."""
        table = magnitudes(31, height, width, wide=True)
        drawn = SPACE[torch.randint(len(SPACE), (n,), generator=generator)]
        bins = torch.randint(31, (n,), generator=generator)
        return [(drawn, table[drawn, bins] * _signs(drawn, generator))]


def applied(images: Tensor, rounds: Draws) -> Tensor:
    """Return the images after each round in turn; in a round, images with the same operation go through it together."""
    changed = images.clone(memory_format=torch.contiguous_format)
    part = max(1, PART_PIXELS // (images.shape[1] * images.shape[2]))
    for drawn, strengths in rounds:
        order = drawn.argsort(stable=True)
        counts = drawn.bincount(minlength=len(NAMES)).tolist()
        groups = torch.split(order.to(images.device, non_blocking=True), counts)
        group_strengths = torch.split(strengths[order].to(images.device, non_blocking=True), counts)
        for name, group, those in zip(NAMES, groups, group_strengths, strict=True):
            if name == "identity" or not len(group):
                continue
            for rows, each in zip(torch.split(group, part), torch.split(those, part), strict=True):
                result = OPERATIONS[name](changed.index_select(0, rows), each)
                _words(changed).index_copy_(0, rows, _words(result))
    return changed


def _words(images: Tensor) -> Tensor:
    """Return each image as one row, in words of eight bytes where they fit, which torch copies faster than bytes."""
    rows = images.flatten(1)
    return rows.view(torch.int64) if rows.shape[1] % 8 == 0 else rows


def _signs(operations: Tensor, generator: torch.Generator) -> Tensor:
    """Return −1 or 1 for each drawn operation, always 1 for those without a sign."""
    negated = torch.rand(len(operations), generator=generator) < 0.5
    return 1.0 - 2.0 * (negated & SIGNED[operations])


def _step(words: str) -> tuple[str, float, int]:
    """Return the operation, probability and magnitude bin of a step; the bin is 0 for those that take none."""
    name, probability, *rest = words.split()
    return name, float(probability), int(rest[0]) if rest else 0


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
"""The best policy found on each data set (AutoAugment, appendix A): operation, probability, magnitude bin; twice."""


def make_policy(name: str, *, operations: int = 2, magnitude: int = 9) -> Policy | None:
    """Return the policy of one of the recipe's names, None for "none".

    `operations` (N) and `magnitude` (M, 0…30) are RandAugment's. Raises `RecipeError` for an unknown name.
    """
    makers: dict[str, Callable[[], Policy | None]] = {
        "none": lambda: None,
        "randaugment": lambda: RandAugment(operations, magnitude),
        "trivialaugment": TrivialAugment,
    }
    kind, _, found = name.partition("-")
    if name in makers:
        return makers[name]()
    if kind == "autoaugment" and found in AUTOAUGMENT:
        return AutoAugment(AUTOAUGMENT[found])
    raise RecipeError(f"an augmentation policy is a published one, got {name!r}: {suggest(name, POLICIES)}")
