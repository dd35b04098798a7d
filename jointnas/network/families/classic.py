"""Networks of one fixed size that no library has for small images: nine of the eighteen baselines of HAET 2021.

Channels, depths and strides are those of the pytorch-cifar collection (github.com/kuangliu/pytorch-cifar), which brought the
networks of the papers named below to 32×32. From 64 pixels on, all but LeNet and VGG halve the image twice before their
first stage. A convolution that a batch norm follows has no bias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from jointnas.errors import BlueprintError, suggest
from jointnas.network.blueprint import Block, BlockBuilder, Blueprint
from jointnas.network.families.family import Family
from jointnas.network.families.parts import classifier, open_block, resized
from jointnas.network.library_networks import SMALL_SIDE
from jointnas.network.operations.operation import Shape

SHUFFLENET_STEM = 24  # channels
SHUFFLENET_GROUPS = 2

Body = Callable[[BlockBuilder, int], list[Block]]
"""Returns a network's blocks without its classifier, from the builder of the first and the image's smaller side."""
Stages = Iterable[tuple[int, int, int]]
"""Channels, how many blocks, and the stride of the first of them."""


def _convolved(
    block: BlockBuilder,
    *inputs: int,
    channels: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    relu: bool = True,
) -> int:
    """Append a convolution that keeps the size at stride 1, its batch norm and, by default, a ReLU."""
    padding = kernel // 2
    block.add(
        "conv", *inputs, channels=channels, kernel=kernel, stride=stride, padding=padding, groups=groups, bias=False
    )
    out = block.add("batch_norm", scale=True)
    return block.add("relu") if relu else out


def _joined(block: BlockBuilder, x: int, out: int, previous: int, channels: int, stride: int) -> int:
    """Append ReLU(x + out), where x passes a 1×1 convolution if its channels or its size differ."""
    if stride != 1 or previous != channels:
        x = _convolved(block, x, channels=channels, kernel=1, stride=stride, relu=False)
    block.add("add", x, out)
    return block.add("relu")


def _opened(stem: BlockBuilder, side: int, *channels: int, kernel: int = 3) -> Block:
    """Return the first block: a convolution for each of `channels`; large images are halved by the first and by a pooling."""
    large = side >= SMALL_SIDE
    for i, count in enumerate(channels):
        size, stride = (3, 2) if large and i == 0 else (kernel, 1)
        _convolved(stem, channels=count, kernel=size, stride=stride)
    if large:
        stem.add("max_pool", kernel=3, stride=2, padding=1)
    return stem.build()


def _staged(make: Callable[[int, int, int], Block], channels: int, stages: Stages) -> list[Block]:
    """Return the blocks of all stages, each from the channels before it, its own, and its stride."""
    blocks = []
    for own, depth, stride in stages:
        for number in range(depth):
            blocks.append(make(channels, own, 1 if number else stride))
            channels = own
    return blocks


# ------------------------------------------------------------------------------------------------- chains of layers


def _lenet(stem: BlockBuilder, side: int) -> list[Block]:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling; its last convolution covers the rest of the image."""
    for channels in (6, 16):
        stem.add("conv", channels=channels, kernel=5, stride=1, padding=0, groups=1, bias=True)
        stem.add("relu")
        stem.add("max_pool", kernel=2, stride=2)
    left = ((side - 4) // 2 - 4) // 2
    for channels, kernel in ((120, max(1, min(5, left))), (84, 1)):
        stem.add("conv", channels=channels, kernel=kernel, stride=1, padding=0, groups=1, bias=True)
        stem.add("relu")
    return [stem.build()]


def _vgg16(stem: BlockBuilder, side: int) -> list[Block]:
    """VGG-16 (Simonyan and Zisserman 2015) with batch norm and one linear layer; a side of one pixel is not pooled."""
    blocks, block = [], stem
    for channels, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            _convolved(block, channels=channels)
        if side > 1:
            block.add("max_pool", kernel=2, stride=2)
            side //= 2
        blocks.append(block.build())
        block = BlockBuilder("stage")
    return blocks


# ---------------------------------------------------------------------------------------------------- residual blocks


def _resnext29(stem: BlockBuilder, side: int) -> list[Block]:
    """ResNeXt-29 2×64d (Xie et al. 2017)."""
    stages = ((256, 3, 1), (512, 3, 2), (1024, 3, 2))
    return [_opened(stem, side, 64, kernel=1), *_staged(lambda p, c, s: _bottleneck(p, c, s, c // 2, 2), 64, stages)]


def _regnetx_200mf(stem: BlockBuilder, side: int) -> list[Block]:
    """RegNetX-200MF (Radosavovic et al. 2020): groups of eight channels."""
    stages = ((24, 1, 1), (56, 1, 1), (152, 4, 2), (368, 7, 2))
    return [_opened(stem, side, 64), *_staged(lambda p, c, s: _bottleneck(p, c, s, c, c // 8), 64, stages)]


def _bottleneck(previous: int, channels: int, stride: int, inner: int, groups: int) -> Block:
    block = BlockBuilder("bottleneck")
    _convolved(block, channels=inner, kernel=1)
    _convolved(block, channels=inner, stride=stride, groups=groups)
    out = _convolved(block, channels=channels, kernel=1, relu=False)
    _joined(block, 0, out, previous, channels, stride)
    return block.build()


# --------------------------------------------------------------------------------------------- channel by channel


def _mobilenet(stem: BlockBuilder, side: int) -> list[Block]:
    """MobileNet (Howard et al. 2017)."""
    stages = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))
    return [_opened(stem, side, 32), *_staged(_separable, 32, stages)]


def _separable(previous: int, channels: int, stride: int) -> Block:
    block = BlockBuilder("separable")
    _convolved(block, channels=previous, stride=stride, groups=previous)
    _convolved(block, channels=channels, kernel=1)
    return block.build()


def _shufflenet(stem: BlockBuilder, side: int) -> list[Block]:
    """ShuffleNet with two groups (Zhang et al. 2018)."""
    stages = ((200, 4, 2), (400, 8, 2), (800, 4, 2))
    return [_opened(stem, side, SHUFFLENET_STEM, kernel=1), *_staged(_shuffled, SHUFFLENET_STEM, stages)]


def _shuffled(previous: int, channels: int, stride: int) -> Block:
    """Return a block that adds its input, or with a stride, sets it beside what it makes."""
    block = BlockBuilder("shuffled")
    made = channels if stride == 1 else channels - previous
    groups = 1 if previous == SHUFFLENET_STEM else SHUFFLENET_GROUPS
    _convolved(block, channels=made // 4, kernel=1, groups=groups)
    if groups > 1:
        block.add("shuffle", groups=groups)
    _convolved(block, channels=made // 4, stride=stride, groups=made // 4)
    out = _convolved(block, channels=made, kernel=1, groups=SHUFFLENET_GROUPS, relu=False)
    if stride == 1:
        block.add("add", 0, out)
    else:
        block.add("concat", out, block.add("avg_pool", 0, kernel=3, stride=stride, padding=1))
    block.add("relu")
    return block.build()


def _pnasnet(stem: BlockBuilder, side: int) -> list[Block]:
    """A network of the simplest cell of progressive search (Liu et al. 2018), eighteen of them and two that halve the image."""
    return [_opened(stem, side, 44), *_staged(_cell, 44, ((44, 6, 1), (88, 7, 2), (176, 7, 2)))]


def _cell(previous: int, channels: int, stride: int) -> Block:
    block = BlockBuilder("cell")
    out = _convolved(block, channels=channels, kernel=7, stride=stride, groups=previous, relu=False)
    pooled = block.add("max_pool", 0, kernel=3, stride=stride, padding=1)
    if stride != 1:
        pooled = _convolved(block, channels=channels, kernel=1, relu=False)
    block.add("add", pooled, out)
    block.add("relu")
    return block.build()


# -------------------------------------------------------------------------------------------- deep layer aggregation

Grow = Callable[[BlockBuilder, int, int, int, int, int], int]
"""Appends a tree to a block: reads value x of `previous` channels, has `channels`, a stride and a level; returns its root."""


def _aggregated(grow: Grow) -> Body:
    """DLA with basic blocks (Yu et al. 2018), four trees on three convolutions."""

    def body(stem: BlockBuilder, side: int) -> list[Block]:
        blocks, previous = [_opened(stem, side, 16, 16, 32)], 32
        for channels, level, stride in ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 1, 2)):
            tree = BlockBuilder("tree")
            grow(tree, 0, previous, channels, stride, level)
            blocks.append(tree.build())
            previous = channels
        return blocks

    return body


def _basic(block: BlockBuilder, x: int, previous: int, channels: int, stride: int) -> int:
    _convolved(block, x, channels=channels, stride=stride)
    out = _convolved(block, channels=channels, relu=False)
    return _joined(block, x, out, previous, channels, stride)


def _root(block: BlockBuilder, values: Iterable[int], channels: int) -> int:
    block.add("concat", *values)
    return _convolved(block, channels=channels, kernel=1)


def _tree(block: BlockBuilder, x: int, previous: int, channels: int, stride: int, level: int) -> int:
    """The paper's: a root also reads the smaller tree before it, and a block that passes that tree by."""
    values = []
    if level > 1:
        values.append(_basic(block, x, previous, channels, stride))
        x, previous, stride = _tree(block, x, previous, channels, stride, level - 1), channels, 1
        values.append(x)
    for _ in range(2):
        x, previous, stride = _basic(block, x, previous, channels, stride), channels, 1
        values.append(x)
    return _root(block, values, channels)


def _simple_tree(block: BlockBuilder, x: int, previous: int, channels: int, stride: int, level: int) -> int:
    """The collection's simplification: a root reads two smaller trees, one after the other."""

    def half(x: int, previous: int, stride: int) -> int:
        if level == 1:
            return _basic(block, x, previous, channels, stride)
        return _simple_tree(block, x, previous, channels, stride, level - 1)

    left = half(x, previous, stride)
    return _root(block, (left, half(left, channels, 1)), channels)


CLASSICS: Mapping[str, Body] = {
    "lenet": _lenet,
    "vgg16": _vgg16,
    "resnext29": _resnext29,
    "regnetx_200mf": _regnetx_200mf,
    "mobilenet_v1": _mobilenet,
    "shufflenet_v1": _shufflenet,
    "pnasnet": _pnasnet,
    "dla": _aggregated(_tree),
    "simpledla": _aggregated(_simple_tree),
}


def _classic(input_shape: Shape, classes: int, *, name: str = "mobilenet_v1", resolution: float = 1.0) -> Blueprint:
    if name not in CLASSICS:
        raise BlueprintError(f"no classic network is called {name!r}: {suggest(name, CLASSICS)}")
    side = min(resized(input_shape, resolution)[1:])
    body = Blueprint.chain(input_shape, CLASSICS[name](open_block("stem", input_shape, resolution), side))
    return Blueprint.in_a_row([body, classifier(body.output_shape, classes)])


CLASSIC = Family.of(_classic)
"""A network of `CLASSICS`.

name: which of them. resolution: multiplier of the data's size, or pixels; see `parts.resized`.
"""
