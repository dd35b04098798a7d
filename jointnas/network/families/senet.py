"""SENet-18 with the NOMAD team's depth, width and resolution multipliers (HAET 2021, second place)."""

from __future__ import annotations

from functools import cache

from jointnas.errors import BlueprintError
from jointnas.network.blueprint import Block, BlockBuilder, Blueprint
from jointnas.network.families.family import Family, Part
from jointnas.network.families.parts import classifier, open_block, positive
from jointnas.network.operations.operation import Shape

STAGE_CHANNELS = (64, 128, 256, 512)
BLOCKS_PER_STAGE = 2
SQUEEZE = 16


def _stem(input_shape: Shape, classes: int, *, width: float, resolution: float) -> Blueprint:
    positive("width", width)
    channels = round(STAGE_CHANNELS[0] * width)
    if channels < 1:
        raise BlueprintError(f"width must leave a channel in every stage (0.01 or more), got {width!r}: raise it")
    block = open_block("stem", input_shape, resolution)
    block.conv(channels=channels)
    block.add("batch_norm", scale=True)
    block.add("relu")
    return Blueprint.chain(input_shape, [block.build()])


def _stage(number: int) -> Part:
    """Return the part of one stage."""

    def make(input_shape: Shape, classes: int, *, depth: float, width: float) -> Blueprint:
        count = round(BLOCKS_PER_STAGE * depth)
        if count < 1:
            raise BlueprintError(f"depth must leave a block in every stage (0.3 or more), got {depth!r}: raise it")
        planes = round(STAGE_CHANNELS[number] * width)
        first = _pre_activation(input_shape[0], planes, 2 if number > 0 else 1)
        return Blueprint.chain(input_shape, [first, *[_pre_activation(planes, planes, 1)] * (count - 1)])

    return Part(make, {"depth": "depth", "width": "width"})


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


SENET = Family(
    {"depth": 1.0, "width": 1.0, "resolution": 1.0},
    (
        Part(_stem, {"width": "width", "resolution": "resolution"}),
        *(_stage(number) for number in range(len(STAGE_CHANNELS))),
        Part(classifier, {}),
    ),
)
"""SENet-18 of pre-activation blocks, each with squeeze and excitation.

depth: blocks per stage are int(round(2·depth)). width: channels are int(round(c·width)) for c = 64, 128, 256, 512;
the squeeze has channels // 16 units, one at least. resolution: multiplier of the data's size, or pixels.
"""
