"""FBNetV3's inverted residual networks (Dai et al., CVPR 2021), for small images and for the published 224 pixels.

A stem, seven stages of inverted residuals, and a head that widens, averages and classifies. What each block is made of follows
the authors' published model definitions (mobile-vision): squeezes have a quarter of the block's input channels, expansions and
squeezes are rounded to multiples of eight.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from jointnas.errors import BlueprintError
from jointnas.network.blueprint import Block, BlockBuilder, Blueprint
from jointnas.network.families.family import Family, Part
from jointnas.network.families.parts import activate, divisible, open_block, positive
from jointnas.network.operations.operation import Shape
from jointnas.units import is_finite

HEAD_EXPANSION = 6

STAGES: tuple[dict[str, Any], ...] = (
    {"width": 12, "blocks": 1, "expand": 1.0, "expand_rest": 1.0, "kernel": 3, "kernel_rest": 3, "squeeze": False, "stride": 1},
    {"width": 16, "blocks": 2, "expand": 4.0, "expand_rest": 2.0, "kernel": 3, "kernel_rest": 3, "squeeze": False, "stride": 2},
    {"width": 24, "blocks": 2, "expand": 4.0, "expand_rest": 3.0, "kernel": 3, "kernel_rest": 3, "squeeze": True, "stride": 1},
    {"width": 40, "blocks": 2, "expand": 4.0, "expand_rest": 3.0, "kernel": 3, "kernel_rest": 3, "squeeze": False, "stride": 2},
    {"width": 64, "blocks": 2, "expand": 4.0, "expand_rest": 3.0, "kernel": 3, "kernel_rest": 3, "squeeze": True, "stride": 1},
    {"width": 96, "blocks": 2, "expand": 5.0, "expand_rest": 4.0, "kernel": 3, "kernel_rest": 3, "squeeze": True, "stride": 2},
    {"width": 112, "blocks": 1, "expand": 6.0, "expand_rest": 6.0, "kernel": 3, "kernel_rest": 3, "squeeze": True, "stride": 1},
)  # fmt: skip
"""The defaults of each stage's knobs, for images of 32 pixels; a knob's name is this one and the stage's number."""

TIGHT_STAGES = (4, 6)


def inverted_residual(
    name: str,
    channels: int,
    width: int,
    expand: float,
    kernel: int,
    squeeze: bool,
    stride: int,
    activation: str,
    tight: bool = False,
) -> Block:
    """Return a block that expands, filters each channel, weighs the channels where asked, and projects to `width`.

    tight: pad one pixel less than keeps the size. The input is added where stride and channels leave it alike.
    """
    block = BlockBuilder(name)
    inner = divisible(channels * expand)
    if inner != channels:
        block.conv(channels=inner, kernel=1)
        block.add("batch_norm", scale=True)
        activate(block, activation)
    padding = kernel // 2 - tight
    block.add("conv", channels=inner, kernel=kernel, stride=stride, padding=padding, groups=inner, bias=False)
    block.add("batch_norm", scale=True)
    out = activate(block, activation)
    if squeeze:
        squeezed = inner * 0.25 / expand
        if not is_finite(squeezed):
            raise BlueprintError(f"a block expands its channels, got {expand!r} times: raise it")
        block.add("global_avg_pool")
        block.conv(channels=divisible(int(squeezed)), kernel=1, bias=True)
        activate(block, activation)
        block.conv(channels=inner, kernel=1, bias=True)
        out = block.add("multiply", out, block.add("hard_sigmoid"))
    block.conv(out, channels=width, kernel=1)
    out = block.add("batch_norm", scale=True)
    if stride == 1 and width == channels and not tight:
        block.add("add", 0, out)
    return block.build()


_block = cache(inverted_residual)


def _stem(
    input_shape: Shape, classes: int, *, width: int, stride: int, resolution: float, activation: str
) -> Blueprint:
    positive("stem", width)
    block = open_block("stem", input_shape, resolution)
    block.conv(channels=width, stride=stride)
    block.add("batch_norm", scale=True)
    activate(block, activation)
    return Blueprint.chain(input_shape, [block.build()])


def _first(number: int) -> Part:
    """Return the part of a stage's first block, which changes width and size."""

    def make(
        input_shape: Shape,
        classes: int,
        *,
        width: int,
        expand: float,
        kernel: int,
        squeeze: bool,
        stride: int,
        activation: str,
        tight: bool = False,
    ) -> Blueprint:
        _check(number, width=width, expand=expand, kernel=kernel, stride=stride)
        block = _block(f"stage{number}", input_shape[0], width, expand, kernel, squeeze, stride, activation, tight)
        return Blueprint.chain(input_shape, [block])

    own = {name: f"{name}{number}" for name in ("width", "expand", "kernel", "squeeze", "stride")}
    return Part(make, {**own, "activation": "activation", **({"tight": "tight"} if number in TIGHT_STAGES else {})})


def _rest(number: int) -> Part:
    """Return the part of a stage's further blocks, which keep width and size."""

    def make(
        input_shape: Shape, classes: int, *, blocks: int, expand: float, kernel: int, squeeze: bool, activation: str
    ) -> Blueprint:
        _check(number, blocks=blocks, expand_rest=expand, kernel_rest=kernel)
        channels = input_shape[0]
        block = _block(f"stage{number}", channels, channels, expand, kernel, squeeze, 1, activation)
        return Blueprint.chain(input_shape, [block] * (blocks - 1))

    knobs = {"blocks": "blocks", "expand": "expand_rest", "kernel": "kernel_rest", "squeeze": "squeeze"}
    return Part(make, {**{name: f"{knob}{number}" for name, knob in knobs.items()}, "activation": "activation"})


def _check(number: int, **values: float) -> None:
    for name, value in values.items():
        positive(f"{name}{number}", value)
        if name.startswith("kernel") and value % 2 == 0:
            raise BlueprintError(f"{name}{number} must be odd, got {value}: use 3 or 5")


def _head(input_shape: Shape, classes: int, *, width: int, activation: str) -> Blueprint:
    positive("head", width)
    block = BlockBuilder("head")
    block.conv(channels=divisible(input_shape[0] * HEAD_EXPANSION), kernel=1)
    block.add("batch_norm", scale=True)
    activate(block, activation)
    block.add("global_avg_pool")
    block.conv(channels=width, kernel=1)
    activate(block, activation)
    block.add("flatten")
    block.add("linear", features=classes, bias=True)
    return Blueprint.chain(input_shape, [block.build()])


FBNET = Family(
    {
        "resolution": 1.0,
        "activation": "hard_swish",
        "stem": 16,
        "stem_stride": 1,
        **{f"{name}{i}": value for i, stage in enumerate(STAGES, 1) for name, value in stage.items()},
        "head": 256,
        "tight": False,
    },
    (
        Part(_stem, {"width": "stem", "stride": "stem_stride", "resolution": "resolution", "activation": "activation"}),
        *(part for i in range(1, len(STAGES) + 1) for part in (_first(i), _rest(i))),
        Part(_head, {"width": "head", "activation": "activation"}),
    ),
)
"""FBNetV3.

stem, head: channels of the first convolution, and of the last one, which follows the averaging.
width1 … width7, blocks1 … blocks7: channels and depth of a stage. stride1 … stride7, stem_stride: of the first blocks.
expand, kernel: of a stage's first block, and expand_rest, kernel_rest of the others; 1 leaves the expansion out.
squeeze: squeeze and excitation in the whole stage. activation: see `parts.ACTIVATIONS`.
tight: the first blocks of stages 4 and 6 pad one pixel less, as the published models A, B, C and E do.
resolution: multiplier of the data's size, or pixels; see `parts.resized`.
"""
