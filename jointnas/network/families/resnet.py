"""ResNet (He et al., CVPR 2016) of basic or bottleneck blocks, in its first order or with pre-activation (He et al., ECCV 2016)."""

from __future__ import annotations

from functools import cache

from jointnas.errors import BlueprintError, suggest
from jointnas.network.blueprint import Block, BlockBuilder, Blueprint
from jointnas.network.families.family import Family, Part
from jointnas.network.families.parts import classifier, open_block, positive
from jointnas.network.operations.operation import Shape

STAGE_CHANNELS = (64, 128, 256, 512)
STAGES = range(1, len(STAGE_CHANNELS) + 1)
LAST = STAGES[-1]  # the stage that may be left out
BOTTLENECK = 4  # times a bottleneck's inner channels are its outer ones
BLOCKS = ("basic", "bottleneck")
STEMS = ("cifar", "imagenet")


def _stem(
    input_shape: Shape, classes: int, *, width: float, resolution: float, stem: str, pre_activation: bool
) -> Blueprint:
    positive("width", width)
    channels = round(STAGE_CHANNELS[0] * width)
    if channels < 1:
        raise BlueprintError(f"width must leave a channel in every stage (0.01 or more), got {width!r}: raise it")
    if stem not in STEMS:
        raise BlueprintError(f"no stem is called {stem!r}: {suggest(stem, STEMS)}")
    block = open_block("stem", input_shape, resolution)
    kernel, stride = (3, 1) if stem == "cifar" else (7, 2)
    value = block.conv(channels=channels, kernel=kernel, stride=stride)
    if not pre_activation:
        value = _norm_relu(block, value)
    if stem == "imagenet":
        block.add("max_pool", value, kernel=3, stride=2, padding=1)
    return Blueprint.chain(input_shape, [block.build()])


def _first(number: int) -> Part:
    """Return the part of a stage's first block, which changes width and size."""

    def make(
        input_shape: Shape,
        classes: int,
        *,
        width: float,
        block: str,
        pre_activation: bool,
        blocks: int = 1,
    ) -> Blueprint:
        if number == LAST and blocks == 0:  # a network of three stages
            return Blueprint.chain(input_shape, [])
        if block not in BLOCKS:
            raise BlueprintError(f"no block is called {block!r}: {suggest(block, BLOCKS)}")
        planes = round(STAGE_CHANNELS[number - 1] * width)
        stride = 1 if number == 1 else 2
        return Blueprint.chain(input_shape, [_residual(block, input_shape[0], planes, stride, pre_activation)])

    knobs = {name: name for name in ("width", "block", "pre_activation")}
    return Part(make, {**knobs, "blocks": f"depth{number}"} if number == LAST else knobs)


def _rest(number: int) -> Part:
    """Return the part of a stage's further blocks, which keep width and size."""

    def make(
        input_shape: Shape, classes: int, *, depth: float, blocks: int, block: str, pre_activation: bool
    ) -> Blueprint:
        if number == LAST and blocks == 0:
            return Blueprint.chain(input_shape, [])
        count = round(blocks * depth)
        if count < 1:
            raise BlueprintError(
                f"every stage needs a block, got depth{number} = {blocks} times depth = {depth:g}: raise one"
            )
        channels = input_shape[0]
        planes = channels // BOTTLENECK if block == "bottleneck" else channels
        return Blueprint.chain(input_shape, [_residual(block, channels, planes, 1, pre_activation)] * (count - 1))

    return Part(
        make, {"depth": "depth", "blocks": f"depth{number}", "block": "block", "pre_activation": "pre_activation"}
    )


@cache
def _residual(kind: str, previous: int, planes: int, stride: int, pre_activation: bool) -> Block:
    layers = (  # channels, kernel, stride
        ((planes, 3, stride), (planes, 3, 1))
        if kind == "basic"
        else ((planes, 1, 1), (planes, 3, stride), (planes * BOTTLENECK, 1, 1))
    )
    block = BlockBuilder(kind)
    source = value = _norm_relu(block, 0) if pre_activation else 0
    out = layers[-1][0]
    for i, (channels, kernel, step) in enumerate(layers):
        value = block.conv(_norm_relu(block, value) if i else value, channels=channels, kernel=kernel, stride=step)
    shortcut = 0
    if not pre_activation:
        value = block.add("batch_norm", value, scale=True)
    if stride != 1 or previous != out:
        shortcut = block.conv(source, channels=out, kernel=1, stride=stride)
        if not pre_activation:
            shortcut = block.add("batch_norm", shortcut, scale=True)
    block.add("add", shortcut, value)
    if not pre_activation:
        block.add("relu")
    return block.build()


def _norm_relu(block: BlockBuilder, value: int) -> int:
    block.add("batch_norm", value, scale=True)
    return block.add("relu")


def _head(input_shape: Shape, classes: int, *, pre_activation: bool) -> Blueprint:
    head = classifier(input_shape, classes)
    if not pre_activation:
        return head
    last = BlockBuilder("norm")
    _norm_relu(last, 0)
    return Blueprint.in_a_row([Blueprint.chain(input_shape, [last.build()]), head])


RESNET = Family(
    {
        "block": "basic",
        "depth": 1.0,
        **{f"depth{i}": 2 for i in STAGES},
        "width": 1.0,
        "resolution": 1.0,
        "stem": "cifar",
        "pre_activation": False,
    },
    (
        Part(_stem, {name: name for name in ("width", "resolution", "stem", "pre_activation")}),
        *(part for i in STAGES for part in (_first(i), _rest(i))),
        Part(_head, {"pre_activation": "pre_activation"}),
    ),
)
"""ResNet, by default the 18 layers for small images.

block: "basic" (two 3×3 convolutions) or "bottleneck" (1×1, 3×3, 1×1 to four times the channels, the stride in the 3×3).
depth1 … depth4: blocks of a stage: 2, 2, 2, 2 basic ones are ResNet-18, 3, 4, 6, 3 basic ones ResNet-34 and as many
bottlenecks ResNet-50. Without the last stage (depth4 = 0), 3, 3, 3 basic ones of width 0.25 are ResNet-20. depth: multiplies
them: int(round(depth1 · depth)) and so on.
width: channels are int(round(c·width)) for c = 64, 128, 256, 512. resolution: multiplier of the data's size, or pixels.
stem: "cifar" (3×3) or "imagenet" (7×7 with stride 2, then 3×3 max pooling with stride 2).
pre_activation: batch norm and ReLU before each convolution, and once more before the head, instead of after it.
"""
