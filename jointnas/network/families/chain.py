"""Chains of convolutions and pooling with optional skips: what NASH starts from and grows (Elsken et al. 2017)."""

from __future__ import annotations

from functools import cache

from jointnas.errors import BlueprintError, suggest
from jointnas.network.blueprint import Block, BlockBuilder, Blueprint
from jointnas.network.families.family import Family, Part
from jointnas.network.families.parts import classifier, open_block, positive
from jointnas.network.operations.operation import Shape

MOST_STAGES = 4
SKIPS = ("none", "concat", "blend")


def _stem(input_shape: Shape, classes: int, *, width: int, kernel: int, resolution: float) -> Blueprint:
    positive("width", width)
    if kernel % 2 == 0:
        raise BlueprintError(f"kernel must be odd, got {kernel}: use 3 or 5")
    block = _convolve(open_block("stem", input_shape, resolution), width, kernel)
    return Blueprint.chain(input_shape, [block])


def _next(number: int) -> Part:
    """Return the first part of a stage after the first one: a pool, and a convolution that doubles the channels."""

    def make(input_shape: Shape, classes: int, *, stages: int, width: int, kernel: int) -> Blueprint:
        if not 1 <= stages <= MOST_STAGES:
            raise BlueprintError(f"stages must be 1 to {MOST_STAGES}, got {stages}: change it")
        if number > stages:
            return Blueprint.chain(input_shape, [])
        pool = [_pool()] if min(input_shape[1:]) >= 2 else []
        return Blueprint.chain(input_shape, [*pool, _convolution(width * 2 ** (number - 1), kernel)])

    return Part(make, {name: name for name in ("stages", "width", "kernel")})


def _rest(number: int) -> Part:
    """Return the rest of a stage: its further convolutions and the skip over them."""

    def make(
        input_shape: Shape, classes: int, *, depth: int, kernel: int, skips: str, stages: int = MOST_STAGES
    ) -> Blueprint:
        positive(f"depth{number}", depth)
        if skips not in SKIPS:
            raise BlueprintError(f"no skip is called {skips!r}: {suggest(skips, SKIPS)}")
        count = depth - 1 if number <= stages else 0
        row = Blueprint.chain(input_shape, [_convolution(input_shape[0], kernel)] * count)
        if skips == "none" or count == 0:
            return row
        return Blueprint(row.input_shape, (*row.blocks, _skip(skips)), (*row.wiring, (count, 0)))

    own = {"depth": f"depth{number}", "kernel": "kernel", "skips": "skips"}
    return Part(make, own if number == 1 else {**own, "stages": "stages"})


def _convolve(block: BlockBuilder, channels: int, kernel: int) -> Block:
    block.conv(channels=channels, kernel=kernel)
    block.add("batch_norm", scale=True)
    block.add("relu")
    return block.build()


@cache
def _convolution(channels: int, kernel: int) -> Block:
    return _convolve(BlockBuilder("convolution"), channels, kernel)


@cache
def _pool() -> Block:
    block = BlockBuilder("pool")
    block.add("max_pool", kernel=2, stride=2)
    return block.build()


@cache
def _skip(operation: str) -> Block:
    block = BlockBuilder(operation, n_inputs=2)
    block.add(operation, 0, 1)
    return block.build()


CHAIN = Family(
    {
        "width": 32,
        "stages": 3,
        **{f"depth{i}": 1 for i in range(1, MOST_STAGES + 1)},
        "kernel": 3,
        "skips": "none",
        "resolution": 1.0,
    },
    (
        Part(_stem, {name: name for name in ("width", "kernel", "resolution")}),
        _rest(1),
        *(part for i in range(2, MOST_STAGES + 1) for part in (_next(i), _rest(i))),
        Part(classifier, {}),
    ),
)
"""A chain of convolutions, each with batch norm and ReLU, and 2×2 max pooling between its stages.

width: channels of the first stage; each further one has twice as many. stages: how many there are, 1 to 4.
depth1 … depth4: convolutions of a stage; those of stages that are not there have no effect. kernel: of all of them.
skips: from a stage's first convolution to behind its last one: "none", "concat" (the channels of both side by side) or
"blend" (a trained convex combination that starts at the last one alone). A stage of one convolution has none.
resolution: multiplier of the data's size, or pixels; see `parts.resized`.
A stage whose image has a side of one pixel leaves its pooling out.
"""
