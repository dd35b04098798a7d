"""The learning rate and the size of the training images as functions of the fraction of the budget."""

from __future__ import annotations

import math
from contextlib import suppress
from itertools import accumulate

import numpy as np

from jointnas.errors import BlueprintError
from jointnas.network.blueprint import Blueprint
from jointnas.network.cost import blueprint_cost
from jointnas.training.recipe import Recipe

ONE_CYCLE_START = 1 / 25  # of the peak; torch's OneCycleLR has the same defaults
ONE_CYCLE_END = ONE_CYCLE_START / 10_000
PIECEWISE_END = 0.1
RESIZE_GRID = 4  # pixels: sides that two poolings halve exactly, and few distinct sizes
SMALLEST_SIDE = 16  # pixels: large enough for the poolings of most networks


def learning_rate_factor(recipe: Recipe, fraction: float) -> float:
    """Return the learning rate at a fraction of the budget, relative to its peak.

    The warm-up is linear from 0; one-cycle's is a cosine from 1/25 (Smith & Topin 2018, torch's OneCycleLR). Then linear and
    cosine decay to 0, one-cycle decays by a cosine to 4e-6, piecewise linearly to 0.1 (the ResNet-9 team, HAET 2021), and sgdr
    restarts from 1 in each cycle and decays by a cosine to 0 (Loshchilov & Hutter 2017).
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
            return _cosine(1.0, 0.0, _cycle_fraction(recipe.cycles, recipe.cycle_growth, fall))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _cycle_fraction(cycles: int, growth: float, share: float) -> float:
    """Return the fraction of the current cycle, where each cycle is `growth` times as long as the previous one."""
    ends = np.array(list(accumulate(growth**i for i in range(cycles))))
    ends /= ends[-1]
    i = min(int(np.searchsorted(ends, share, side="right")), cycles - 1)
    start = float(ends[i - 1]) if i else 0.0
    return (share - start) / (float(ends[i]) - start)


def smallest_side(network: Blueprint, size: tuple[int, int]) -> int:
    """Return the least side of training images that a network can read with the same weights: 16 pixels, or more where it needs them.

    size: (height, width) that it reads at the end.
    """
    weights = blueprint_cost(network)["params"]
    for side in range(SMALLEST_SIDE, max(size), RESIZE_GRID):
        with suppress(BlueprintError):
            if blueprint_cost(network.reading(*(min(full, side) for full in size)))["params"] == weights:
                return side
    return max(size)


def training_side(recipe: Recipe, fraction: float, side: int, smallest: int = SMALLEST_SIDE) -> int:
    """Return the side of the training images at a fraction of the budget.

    It grows linearly in steps of 4 pixels and is no less than `smallest`; smaller images keep their size.
    """
    if recipe.start_resolution >= 1 or fraction >= recipe.resize_until:
        return side
    share = recipe.start_resolution + (1 - recipe.start_resolution) * fraction / recipe.resize_until
    return min(side, max(smallest, RESIZE_GRID * round(share * side / RESIZE_GRID)))
