"""Parts and checks that several families share: input resolution, activations, heads and knob values."""

from __future__ import annotations

import math

from jointnas.errors import BlueprintError, suggest
from jointnas.network.blueprint import BlockBuilder, Blueprint
from jointnas.network.operations.operation import Shape

ACTIVATIONS = ("relu", "relu6", "celu", "gelu", "silu", "hard_swish")
LARGEST_MULTIPLIER = 4.0
SMALLEST_PIXELS = 8


def activate(block: BlockBuilder, activation: str, *inputs: int) -> int:
    """Append an activation; CELU (Barron 2017) has α = 0.3, as the winners of HAET 2021 had it."""
    if activation not in ACTIVATIONS:
        raise BlueprintError(f"no activation is called {activation!r}: {suggest(activation, ACTIVATIONS)}")
    return block.add(activation, *inputs, **({"alpha": 0.3} if activation == "celu" else {}))


def resized(input_shape: Shape, resolution: float) -> Shape:
    """Return the shape the network works on: a multiplier of the data's own size up to 4, pixels from 8 on.

    A multiplied side is truncated to whole pixels, as the NOMAD team's code did: int(32 · 1.18) = 37.
    """
    c, h, w = input_shape
    if resolution >= SMALLEST_PIXELS:
        side = int(resolution)
        return (c, side, side)
    if not 0 < resolution <= LARGEST_MULTIPLIER:
        raise BlueprintError(
            f"resolution must be a multiplier in (0, {LARGEST_MULTIPLIER:g}] or a size of at least {SMALLEST_PIXELS} pixels, "
            f"got {resolution!r}: change it"
        )
    height, width = (math.floor(side * resolution + 1e-9) for side in (h, w))
    if min(height, width) < 1:
        raise BlueprintError(f"resolution {resolution:g} leaves no pixel of an image of {h}×{w}: raise it")
    return (c, height, width)


def open_block(name: str, input_shape: Shape, resolution: float) -> BlockBuilder:
    """Return the builder of a first block, which begins with a resize where the resolution asks for one."""
    block = BlockBuilder(name)
    _, height, width = resized(input_shape, resolution)
    if (height, width) != tuple(input_shape[1:]):
        block.add("resize", height=height, width=width)
    return block


def divisible(channels: float, by: int = 8) -> int:
    """Return the nearest multiple of `by`, one at least, that is not below nine tenths of `channels` (MobileNet's rule)."""
    nearest = max(by, int(channels + by / 2) // by * by)
    return nearest if nearest >= 0.9 * channels else nearest + by


def positive(name: str, value: float) -> None:
    """Raise `BlueprintError` unless a knob is above zero."""
    if value <= 0:
        raise BlueprintError(f"{name} must be above 0, got {value!r}: raise it")


def classifier(input_shape: Shape, classes: int) -> Blueprint:
    """Return the head that most networks end with: the mean over the image, and one linear layer with a bias."""
    block = BlockBuilder("head")
    block.add("global_avg_pool")
    block.add("flatten")
    block.add("linear", features=classes, bias=True)
    return Blueprint.chain(input_shape, [block.build()])
