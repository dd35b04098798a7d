"""Operations that change an image's height and width: pools and resizing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jointnas.network.operations.operation import (
    NATURAL,
    POSITIVE,
    Channels,
    Node,
    Operation,
    Shape,
    Work,
    image_shape,
    window_count,
)


def _pool_shape(node: Node, shapes: Sequence[Shape]) -> Shape:
    c, h, w = image_shape(node, shapes[0])
    return (c, window_count(node, h), window_count(node, w))


def _global_pool_shape(node: Node, shapes: Sequence[Shape]) -> Shape:
    return (image_shape(node, shapes[0])[0], 1, 1)


def _resize_shape(node: Node, shapes: Sequence[Shape]) -> Shape:
    return (image_shape(node, shapes[0])[0], int(node.get("height")), int(node.get("width")))


POOLING: Mapping[str, Operation] = {
    "max_pool": Operation(
        attributes={"kernel": POSITIVE, "stride": POSITIVE},
        optional={"padding": NATURAL},
        shape=_pool_shape,
        work=Work.POOL,
        channels=Channels.KEPT,
        layer=lambda layers, node, shape: layers.nn.MaxPool2d(
            node.get("kernel"), node.get("stride"), node.get("padding", 0)
        ),
    ),
    "avg_pool": Operation(
        attributes={"kernel": POSITIVE, "stride": POSITIVE},
        optional={"padding": NATURAL},
        shape=_pool_shape,
        work=Work.POOL,
        channels=Channels.KEPT,
        layer=lambda layers, node, shape: layers.nn.AvgPool2d(
            node.get("kernel"), node.get("stride"), node.get("padding", 0)
        ),
    ),
    "global_max_pool": Operation(
        shape=_global_pool_shape,
        work=Work.POOL,
        channels=Channels.KEPT,
        layer=lambda layers, node, shape: layers.nn.AdaptiveMaxPool2d(1),
    ),
    "global_avg_pool": Operation(
        shape=_global_pool_shape,
        work=Work.POOL,
        channels=Channels.KEPT,
        layer=lambda layers, node, shape: layers.nn.AdaptiveAvgPool2d(1),
    ),
    "resize": Operation(
        attributes={"height": POSITIVE, "width": POSITIVE},
        shape=_resize_shape,
        work=Work.RESIZE,
        channels=Channels.KEPT,
        layer=lambda layers, node, shape: layers.Resize(node.get("height"), node.get("width")),
    ),
}
