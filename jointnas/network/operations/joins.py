"""Operations that make one value of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jointnas.errors import BlueprintError
from jointnas.network.operations.operation import Channels, Node, NodeCost, Operation, Shape, Work, image_shape


def _equal_shapes(node: Node, shapes: Sequence[Shape]) -> Shape:
    if len(set(shapes)) != 1:
        raise BlueprintError(f"{node.operation} needs values of one shape, got {list(shapes)}")
    return shapes[0]


def _concat_shape(node: Node, shapes: Sequence[Shape]) -> Shape:
    images = [image_shape(node, shape) for shape in shapes]
    if len({image[1:] for image in images}) != 1:
        raise BlueprintError(f"concat needs images of one height and width, got {list(shapes)}")
    return (sum(image[0] for image in images), *images[0][1:])


def _multiply_shape(node: Node, shapes: Sequence[Shape]) -> Shape:
    c, _, _ = image_shape(node, shapes[0])
    if shapes[1] not in (shapes[0], (c, 1, 1)):
        raise BlueprintError(f"multiply needs an image, and a second one or a value per channel, got {list(shapes)}")
    return shapes[0]


def _blend_cost(node: Node, source: Shape, output: Shape) -> NodeCost:
    return NodeCost(trained=1)


JOINS: Mapping[str, Operation] = {
    "add": Operation(
        inputs=(2, 64),
        shape=_equal_shapes,
        work=Work.SIMPLE,
        channels=Channels.KEPT,
        layer=lambda layers, node, shape: layers.Add(),
    ),
    "blend": Operation(  # λ·first + (1 − λ)·second with a trained λ that starts at 1
        inputs=(2, 2),
        shape=_equal_shapes,
        cost=_blend_cost,
        work=Work.SIMPLE,
        channels=Channels.KEPT,
        layer=lambda layers, node, shape: layers.Blend(),
    ),
    "concat": Operation(  # along the channels
        inputs=(2, 64),
        shape=_concat_shape,
        work=Work.SIMPLE,
        channels=Channels.CONCATENATED,
        layer=lambda layers, node, shape: layers.Concat(),
    ),
    "multiply": Operation(
        inputs=(2, 2),
        shape=_multiply_shape,
        work=Work.SIMPLE,
        channels=Channels.KEPT,
        layer=lambda layers, node, shape: layers.Multiply(),
    ),
}
