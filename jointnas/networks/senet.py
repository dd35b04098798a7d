"""SENet-18 with the NOMAD team's depth, width and resolution multipliers (HAET 2021, second place)."""

from __future__ import annotations

from functools import cache

from jointnas.blueprint import Block, BlockBuilder, Blueprint, Shape
from jointnas.errors import BlueprintError
from jointnas.networks.parts import open_block, positive

STAGE_CHANNELS = (64, 128, 256, 512)
BLOCKS_PER_STAGE = 2
SQUEEZE = 16


def senet(
    input_shape: Shape,
    classes: int,
    /,
    *,
    depth: float = 1.0,
    width: float = 1.0,
    resolution: float = 1.0,
) -> Blueprint:
    """Return the blueprint of a SENet-18 of pre-activation blocks, each with squeeze and excitation.

    depth: blocks per stage are int(round(2·depth)). width: channels are int(round(c·width)) for c = 64, 128, 256, 512;
    the squeeze has channels // 16 units, one at least. resolution: multiplier of the data's size, or pixels.
    """
    positive("width", width)
    count = round(BLOCKS_PER_STAGE * depth)
    if count < 1:
        raise BlueprintError(f"depth leaves a block in every stage (0.3 or more), got {depth!r}: raise it")
    channels = [round(c * width) for c in STAGE_CHANNELS]
    if channels[0] < 1:
        raise BlueprintError(f"width leaves a channel in every stage (0.01 or more), got {width!r}: raise it")
    blocks = [_stem(input_shape, channels[0], resolution)]
    previous = channels[0]
    for stage, planes in enumerate(channels):
        for i in range(count):
            blocks.append(_pre_activation(previous, planes, 2 if stage > 0 and i == 0 else 1))
            previous = planes
    blocks.append(_head(classes))
    return Blueprint.chain(input_shape, blocks)


@cache
def _stem(input_shape: Shape, channels: int, resolution: float) -> Block:
    block = open_block("stem", input_shape, resolution)
    block.conv(channels=channels)
    block.add("batch_norm", scale=True)
    block.add("relu")
    return block.build()


@cache
def _pre_activation(previous: int, planes: int, stride: int) -> Block:
    block = BlockBuilder("pre_activation")
    block.add("batch_norm", scale=True)
    active = block.add("relu")
    projected = stride != 1 or previous != planes
    shortcut = block.conv(active, channels=planes, kernel=1, stride=stride) if projected else 0
    block.conv(active, channels=planes, stride=stride)
    block.add("batch_norm", scale=True)
    block.add("relu")
    out = block.conv(channels=planes)
    block.add("global_avg_pool")
    block.conv(channels=max(1, planes // SQUEEZE), kernel=1, bias=True)
    block.add("relu")
    block.conv(channels=planes, kernel=1, bias=True)
    weight = block.add("sigmoid")
    block.add("add", shortcut, block.add("multiply", out, weight))
    return block.build()


@cache
def _head(classes: int) -> Block:
    block = BlockBuilder("head")
    block.add("global_avg_pool")
    block.add("flatten")
    block.add("linear", features=classes, bias=True)
    return block.build()
