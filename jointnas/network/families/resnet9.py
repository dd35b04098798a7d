"""ResNet-9 (after Page 2018, "How to train your ResNet") as the winners of the HAET 2021 competition used it."""

from __future__ import annotations

from functools import cache

from jointnas.errors import BlueprintError
from jointnas.network.blueprint import Block, BlockBuilder, Blueprint
from jointnas.network.families.family import Family, Part
from jointnas.network.families.parts import activate, open_block, positive
from jointnas.network.operations.operation import Shape

LOGIT_SCALE = 1 / 16


def _stem(
    input_shape: Shape, classes: int, *, width: int, resolution: float, activation: str, whitening: bool
) -> Blueprint:
    positive("width", width)
    block = open_block("stem", input_shape, resolution)
    if whitening:
        block.add("whiten", kernel=3)
        block.conv(channels=width, kernel=1)
    else:
        block.conv(channels=width)
    block.add("batch_norm", scale=False)
    activate(block, activation)
    return Blueprint.chain(input_shape, [block.build()])


def _stage(number: int, residuals: str | None) -> Part:
    """Return the part of one stage, which has residual blocks where a knob says how many."""

    def make(input_shape: Shape, classes: int, *, width: int, activation: str, depth: int = 0) -> Blueprint:
        if depth < 0:
            raise BlueprintError(f"{residuals} must be 0 or more, got {depth}: raise it")
        channels = width * 2**number
        pooled = _pooled(channels, activation, min(input_shape[1:]) >= 2)
        return Blueprint.chain(input_shape, [pooled, *[_residual(channels, activation)] * depth])

    return Part(make, {"width": "width", "activation": "activation", **({"depth": residuals} if residuals else {})})


@cache
def _pooled(channels: int, activation: str, pool: bool) -> Block:
    block = BlockBuilder("pooled")
    block.conv(channels=channels)
    if pool:
        block.add("max_pool", kernel=2, stride=2)
    block.add("batch_norm", scale=False)
    activate(block, activation)
    return block.build()


@cache
def _residual(channels: int, activation: str) -> Block:
    block = BlockBuilder("residual")
    for _ in range(2):
        block.conv(channels=channels)
        block.add("batch_norm", scale=False)
        last = activate(block, activation)
    block.add("add", 0, last)
    return block.build()


def _head(input_shape: Shape, classes: int) -> Blueprint:
    block = BlockBuilder("head")
    block.add("global_max_pool")
    block.add("flatten")
    block.add("linear", features=classes, bias=False)
    block.add("scale", factor=LOGIT_SCALE)
    return Blueprint.chain(input_shape, [block.build()])


RESNET9 = Family(
    {"width": 64, "depth1": 1, "depth3": 1, "resolution": 1.0, "activation": "celu", "whitening": True},
    (
        Part(_stem, {name: name for name in ("width", "resolution", "activation", "whitening")}),
        _stage(1, "depth1"),
        _stage(2, None),
        _stage(3, "depth3"),
        Part(_head, {}),
    ),
)
"""ResNet-9.

width: channels of the stem; the three stages have 2, 4 and 8 times as many (the winners: 64).
depth1, depth3: residual blocks after the first and the third stage (the winners: 1 and 1).
resolution: multiplier of the data's size, or pixels; see `parts.resized`.
activation: see `parts.ACTIVATIONS`; CELU's α is 0.3.
whitening: a fixed 3×3 patch-whitening filter and a trained 1×1 convolution instead of a trained 3×3 one.
Batch-norm scales stay at 1. A stage whose image has a side of one pixel leaves its pooling out.
"""
