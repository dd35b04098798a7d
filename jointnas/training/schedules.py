"""What changes over a training, as functions of the fraction of its budget: the learning rate and the images' size."""

from __future__ import annotations

import math
from itertools import accumulate

import numpy as np

from jointnas.training.recipe import Recipe

ONE_CYCLE_START = 1 / 25  # of the peak, and where a one-cycle schedule ends: a 10,000th of its start
ONE_CYCLE_END = ONE_CYCLE_START / 10_000
PIECEWISE_END = 0.1
RESIZE_GRID = 4  # pixels: sides that pooling halves twice, and few different ones
SMALLEST_SIDE = 16  # pixels that training images keep, so that a network's poolings fit


def learning_rate_factor(recipe: Recipe, fraction: float) -> float:
    """Return the share of the peak learning rate at a fraction of the budget.

    All rise linearly in the warm-up, one-cycle by a cosine from a 25th (Smith & Topin 2018, torch's OneCycleLR). Then
    linear and cosine fall to 0, one-cycle by a cosine to 4e-6, piecewise linearly to a tenth (the ResNet-9 team, HAET 2021),
    and sgdr falls by a cosine to 0 in each of its cycles, starting again from 1 (Loshchilov & Hutter 2017).
    """
    warmup = recipe.warmup
    if fraction < warmup:
        rise = fraction / warmup
        return _cosine(ONE_CYCLE_START, 1.0, rise) if recipe.schedule == "one-cycle" else rise
    fall = (fraction - warmup) / (1 - warmup)
    match recipe.schedule:
        case "linear":
            return 1 - fall
        case "cosine":
            return _cosine(1.0, 0.0, fall)
        case "one-cycle":
            return _cosine(1.0, ONE_CYCLE_END, fall)
        case "piecewise":
            return 1 - (1 - PIECEWISE_END) * fall
        case _:
            return _cosine(1.0, 0.0, _place_in_cycle(recipe.cycles, recipe.cycle_growth, fall))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _place_in_cycle(cycles: int, growth: float, share: float) -> float:
    """Return how much of its cycle is over, where each cycle is `growth` times as long as the one before."""
    ends = np.array(list(accumulate(growth**i for i in range(cycles))))
    ends /= ends[-1]
    i = min(int(np.searchsorted(ends, share, side="right")), cycles - 1)
    start = float(ends[i - 1]) if i else 0.0
    return (share - start) / (float(ends[i]) - start)


def training_side(recipe: Recipe, fraction: float, side: int) -> int:
    """Return the side of the training images at a fraction of the budget.

    It grows linearly, in steps of 4 pixels, from 16 on at the least; smaller images keep their size.
    """
    if recipe.start_resolution >= 1 or fraction >= recipe.resize_until:
        return side
    share = recipe.start_resolution + (1 - recipe.start_resolution) * fraction / recipe.resize_until
    return min(side, max(SMALLEST_SIDE, RESIZE_GRID * round(share * side / RESIZE_GRID)))
