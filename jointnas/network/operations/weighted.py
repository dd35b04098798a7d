"""Operations with weights: convolutions, linear and normalising layers, and whole networks of other libraries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from jointnas.errors import BlueprintError
from jointnas.network import library_networks
from jointnas.network.operations.operation import (
    FLAG,
    NATURAL,
    POSITIVE,
    WORD,
    Channels,
    Node,
    NodeCost,
    Operation,
    Shape,
    Work,
    image_shape,
    window_count,
)
from jointnas.network.operations.packing import ATTRIBUTES, Packing


def _conv_shape(node: Node, shapes: Sequence[Shape]) -> Shape:
    c, h, w = image_shape(node, shapes[0])
    Packing.of(node)
    channels, groups = int(node.get("channels")), int(node.get("groups"))
    if channels < 1 or c % groups or channels % groups:
        raise BlueprintError(
            f"the groups of a convolution must divide its channels, got {groups} groups of {c} and {channels} channels"
        )
    return (channels, window_count(node, h), window_count(node, w))


def _conv_cost(node: Node, source: Shape, output: Shape) -> NodeCost:
    taps = source[0] // int(node.get("groups")) * int(node.get("kernel")) ** 2
    written, bias = prod(output), output[0] if node.get("bias") else 0
    weights = output[0] * taps
    return NodeCost(written * taps, weights + bias, weights, activations=written)


def _conv_work(node: Node) -> Work:
    if node.get("groups") > 1:
        return Work.GROUPED
    return Work.POINTWISE if node.get("kernel") == 1 else Work.SPATIAL


def _whiten_shape(node: Node, shapes: Sequence[Shape]) -> Shape:
    c, h, w = image_shape(node, shapes[0])
    if int(node.get("kernel")) % 2 == 0:
        raise BlueprintError(f"the kernel of whiten must be odd, got {node.get('kernel')}")
    return (c * int(node.get("kernel")) ** 2, h, w)


def _whiten_cost(node: Node, source: Shape, output: Shape) -> NodeCost:
    written = prod(output)
    return NodeCost(written * output[0], fixed=output[0] ** 2, activations=written)


def _linear_shape(node: Node, shapes: Sequence[Shape]) -> Shape:
    Packing.of(node)
    if len(shapes[0]) != 1:
        raise BlueprintError(f"linear needs a vector, got shape {shapes[0]}: flatten it first")
    return (int(node.get("features")),)


def _linear_cost(node: Node, source: Shape, output: Shape) -> NodeCost:
    weights = output[0] * source[0]
    return NodeCost(weights, weights + (output[0] if node.get("bias") else 0), weights, activations=output[0])


def _batch_norm_shape(node: Node, shapes: Sequence[Shape]) -> Shape:
    return image_shape(node, shapes[0])


def _batch_norm_cost(node: Node, source: Shape, output: Shape) -> NodeCost:
    return NodeCost(trained=source[0] * (2 if node.get("scale") else 1), fixed=2 * source[0])


def _opaque_shape(node: Node, shapes: Sequence[Shape]) -> Shape:
    image_shape(node, shapes[0])
    library_networks.find(str(node.get("name")), str(node.get("library")))
    return (int(node.get("features")),)


def _opaque_cost(node: Node, source: Shape, output: Shape) -> NodeCost:
    traced = library_networks.trace(node.get("library"), node.get("name"), source, int(node.get("features")))
    inner = max(0, traced.peak - prod(source) - prod(output))
    return NodeCost(traced.macs, traced.trained, 0, traced.fixed, traced.activations, inner)


WEIGHTED: Mapping[str, Operation] = {
    "conv": Operation(
        attributes={
            "channels": POSITIVE,
            "kernel": POSITIVE,
            "stride": POSITIVE,
            "padding": NATURAL,
            "groups": POSITIVE,
            "bias": FLAG,
        },
        optional=ATTRIBUTES,
        shape=_conv_shape,
        cost=_conv_cost,
        work=_conv_work,
        channels=Channels.MIXED,
        width="channels",
        layer=lambda layers, node, shape: layers.Conv(
            shape[0],
            node.get("channels"),
            node.get("kernel"),
            stride=node.get("stride"),
            padding=node.get("padding"),
            groups=node.get("groups"),
            bias=node.get("bias"),
            packing=Packing.of(node),
        ),
    ),
    "whiten": Operation(
        attributes={"kernel": POSITIVE},
        shape=_whiten_shape,
        cost=_whiten_cost,
        work=Work.SPATIAL,
        layer=lambda layers, node, shape: layers.Whiten(shape[0], node.get("kernel")),
    ),
    "linear": Operation(
        attributes={"features": POSITIVE, "bias": FLAG},
        optional=ATTRIBUTES,
        shape=_linear_shape,
        cost=_linear_cost,
        work=Work.LINEAR,
        channels=Channels.MIXED,
        width="features",
        layer=lambda layers, node, shape: layers.Linear(
            shape[0], node.get("features"), bias=node.get("bias"), packing=Packing.of(node)
        ),
    ),
    "batch_norm": Operation(
        attributes={"scale": FLAG},
        shape=_batch_norm_shape,
        cost=_batch_norm_cost,
        work=Work.NORM,
        channels=Channels.KEPT,
        layer=lambda layers, node, shape: layers.BatchNorm(shape[0], node.get("scale")),
    ),
    "opaque": Operation(  # a network of `library_networks`
        attributes={"library": WORD, "name": WORD, "features": POSITIVE},
        shape=_opaque_shape,
        cost=_opaque_cost,
        work=Work.OPAQUE,
        layer=lambda layers, node, shape: library_networks.build(
            node.get("library"), node.get("name"), shape, node.get("features")
        ),
    ),
}
