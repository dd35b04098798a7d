"""Operations that move values and compute none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from jointnas.errors import BlueprintError
from jointnas.network.operations.operation import POSITIVE, Channels, Node, Operation, Shape, Work, image_shape


def _flatten_shape(node: Node, shapes: Sequence[Shape]) -> Shape:
    return (prod(shapes[0]),)


def _shuffle_shape(node: Node, shapes: Sequence[Shape]) -> Shape:
    shape = image_shape(node, shapes[0])
    if shape[0] % int(node.get("groups")):
        raise BlueprintError(
            f"the groups of shuffle must divide its channels, got {node.get('groups')} groups of {shape[0]} channels"
        )
    return shape


LAYOUT: Mapping[str, Operation] = {
    "flatten": Operation(
        shape=_flatten_shape,
        work=Work.VIEW,
        channels=Channels.FLATTENED,
        layer=lambda layers, node, shape: layers.nn.Flatten(),
    ),
    "shuffle": Operation(  # writes one channel of each group in turn
        attributes={"groups": POSITIVE},
        shape=_shuffle_shape,
        work=Work.SIMPLE,
        layer=lambda layers, node, shape: layers.nn.ChannelShuffle(node.get("groups")),
    ),
}
