"""MobileNetV2 (Sandler et al., CVPR 2018), for small images and for the published 224 pixels."""

from __future__ import annotations

import math
from functools import cache

from jointnas.errors import BlueprintError
from jointnas.network.blueprint import BlockBuilder, Blueprint
from jointnas.network.families.family import Family, Part
from jointnas.network.families.fbnet import inverted_residual
from jointnas.network.families.parts import activate, classifier, divisible, open_block, positive
from jointnas.network.operations.operation import Shape

STEM = 32
STAGES = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
"""Channels, blocks and stride of each stage: table 2 of the paper, but stage 2 keeps the size, as the stem does here."""

_block = cache(inverted_residual)


def _stem(
    input_shape: Shape, classes: int, *, width: float, stride: int, resolution: float, activation: str
) -> Blueprint:
    positive("width", width)
    block = open_block("stem", input_shape, resolution)
    block.conv(channels=divisible(STEM * width), stride=stride)
    block.add("batch_norm", scale=True)
    activate(block, activation)
    return Blueprint.chain(input_shape, [block.build()])


def _first(number: int, channels: int) -> Part:
    """Return the part of a stage's first block, which changes width and size."""

    def make(
        input_shape: Shape,
        classes: int,
        *,
        width: float,
        stride: int,
        kernel: int,
        activation: str,
        expand: float = 1.0,
    ) -> Blueprint:
        positive("expand", expand)
        if kernel % 2 == 0:
            raise BlueprintError(f"kernel must be odd, got {kernel}: use 3 or 5")
        out = divisible(channels * width)
        block = _block(f"stage{number}", input_shape[0], out, expand, kernel, False, stride, activation)
        return Blueprint.chain(input_shape, [block])

    return Part(make, {"width": "width", "stride": f"stride{number}", **_shared(number)})


def _rest(number: int, blocks: int) -> Part:
    """Return the part of a stage's further blocks, which keep width and size."""

    def make(
        input_shape: Shape, classes: int, *, depth: float, kernel: int, activation: str, expand: float = 1.0
    ) -> Blueprint:
        positive("depth", depth)
        count = math.ceil(blocks * depth - 1e-9)
        channels = input_shape[0]
        block = _block(f"stage{number}", channels, channels, expand, kernel, False, 1, activation)
        return Blueprint.chain(input_shape, [block] * (count - 1))

    return Part(make, {"depth": "depth", **_shared(number)})


def _shared(number: int) -> dict[str, str]:
    """Return what every block of a stage reads; the first stage does not expand."""
    names = ("kernel", "activation") if number == 1 else ("kernel", "activation", "expand")
    return {name: name for name in names}


def _head(input_shape: Shape, classes: int, *, head: int, width: float, activation: str) -> Blueprint:
    positive("head", head)
    block = BlockBuilder("widen")
    block.conv(channels=divisible(head * max(1.0, width)), kernel=1)
    block.add("batch_norm", scale=True)
    activate(block, activation)
    widened = Blueprint.chain(input_shape, [block.build()])
    return Blueprint.in_a_row([widened, classifier(widened.output_shape, classes)])


MOBILENET = Family(
    {
        "width": 1.0,
        "depth": 1.0,
        "expand": 6.0,
        "kernel": 3,
        "activation": "relu6",
        "resolution": 1.0,
        "stem_stride": 1,
        **{f"stride{i}": stride for i, (_, _, stride) in enumerate(STAGES, 1)},
        "head": 1280,
    },
    (
        Part(
            _stem, {"width": "width", "stride": "stem_stride", "resolution": "resolution", "activation": "activation"}
        ),
        *(
            part
            for i, (channels, blocks, _) in enumerate(STAGES, 1)
            for part in (_first(i, channels), _rest(i, blocks))
        ),
        Part(_head, {name: name for name in ("head", "width", "activation")}),
    ),
)
"""MobileNetV2, by default with the strides for images of about 32 pixels.

width: channels are multiples of 8 near c·width for c = 32 (stem), 16, 24, 32, 64, 96, 160, 320.
depth: blocks of a stage are ⌈n·depth⌉ for n = 1, 2, 3, 4, 3, 3, 1.
expand: how many times its input's channels a block works on, from the second stage on. kernel: of the depthwise filters.
stem_stride, stride1 … stride7: of the stem and of each stage's first block. Stages 3, 4 and 6 halve the image; for 224 pixels
as published, stem_stride = 2 and stride2 = 2 do so too.
head: channels of the last 1×1 convolution; a width above 1 multiplies them. activation: see `parts.ACTIVATIONS`.
resolution: multiplier of the data's size, or pixels; see `parts.resized`.
"""
