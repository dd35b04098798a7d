"""ResNet-9 as the winners of HAET 2021 used it (FACTS of the seed report; after Page, "How to train your ResNet")."""

from __future__ import annotations

from functools import cache

from jointnas.blueprint import Block, BlockBuilder, Blueprint, Shape
from jointnas.errors import BlueprintError
from jointnas.networks.parts import activate, open_block, positive, resized

LOGIT_SCALE = 1 / 16


def resnet9(
    input_shape: Shape,
    classes: int,
    /,
    *,
    width: int = 64,
    depth1: int = 1,
    depth3: int = 1,
    resolution: float = 1.0,
    activation: str = "celu",
    whitening: bool = True,
) -> Blueprint:
    """Return the blueprint of a ResNet-9.

    width: channels of the stem; the three stages have 2, 4 and 8 times as many (the winners: 64).
    depth1, depth3: residual blocks after the first and the third stage (the winners: 1 and 1).
    resolution: multiplier of the data's size, or pixels; see `parts.resized`.
    activation: relu, celu (α = 0.3), gelu or silu.
    whitening: a fixed 3×3 patch-whitening filter and a trained 1×1 convolution instead of a trained 3×3 one.
    Batch-norm scales stay at 1. A stage whose image has a side of one pixel leaves its pooling out.
    """
    positive("width", width)
    if min(depth1, depth3) < 0:
        raise BlueprintError(f"depth1 and depth3 are 0 or more, got {depth1} and {depth3}: raise them")
    blocks = [_stem(input_shape, width, resolution, activation, whitening)]
    side = min(resized(input_shape, resolution)[1:])
    for stage, residuals in ((1, depth1), (2, 0), (3, depth3)):
        channels = width * 2**stage
        blocks.append(_pooled(channels, activation, side >= 2))
        side = max(1, side // 2)
        blocks.extend([_residual(channels, activation)] * residuals)
    blocks.append(_head(classes))
    return Blueprint.chain(input_shape, blocks)


@cache
def _stem(input_shape: Shape, width: int, resolution: float, activation: str, whitening: bool) -> Block:
    block = open_block("stem", input_shape, resolution)
    if whitening:
        block.add("whiten", kernel=3)
        block.conv(channels=width, kernel=1)
    else:
        block.conv(channels=width)
    block.add("batch_norm", scale=False)
    activate(block, activation)
    return block.build()


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


@cache
def _head(classes: int) -> Block:
    block = BlockBuilder("head")
    block.add("global_max_pool")
    block.add("flatten")
    block.add("linear", features=classes, bias=False)
    block.add("scale", factor=LOGIT_SCALE)
    return block.build()
