"""Operations on each value alone: activations and multiplication by a constant."""

from __future__ import annotations

from collections.abc import Mapping

from jointnas.network.operations.operation import REAL, Channels, Operation, Work, same_shape

ELEMENTWISE: Mapping[str, Operation] = {
    "relu": Operation(
        shape=same_shape,
        work=Work.SIMPLE,
        channels=Channels.KEPT,
        idempotent=True,
        layer=lambda layers, node, shape: layers.nn.ReLU(),
    ),
    "relu6": Operation(
        shape=same_shape,
        work=Work.SIMPLE,
        channels=Channels.KEPT,
        idempotent=True,
        layer=lambda layers, node, shape: layers.nn.ReLU6(),
    ),
    "celu": Operation(
        attributes={"alpha": REAL},
        shape=same_shape,
        work=Work.CURVED,
        channels=Channels.KEPT,
        layer=lambda layers, node, shape: layers.CELU(node.get("alpha")),
    ),
    "gelu": Operation(
        shape=same_shape,
        work=Work.CURVED,
        channels=Channels.KEPT,
        layer=lambda layers, node, shape: layers.nn.GELU(),
    ),
    "silu": Operation(
        shape=same_shape,
        work=Work.CURVED,
        channels=Channels.KEPT,
        layer=lambda layers, node, shape: layers.nn.SiLU(),
    ),
    "sigmoid": Operation(
        shape=same_shape,
        work=Work.CURVED,
        channels=Channels.KEPT,
        layer=lambda layers, node, shape: layers.nn.Sigmoid(),
    ),
    "hard_swish": Operation(
        shape=same_shape,
        work=Work.SIMPLE,
        channels=Channels.KEPT,
        layer=lambda layers, node, shape: layers.nn.Hardswish(),
    ),
    "hard_sigmoid": Operation(
        shape=same_shape,
        work=Work.SIMPLE,
        channels=Channels.KEPT,
        layer=lambda layers, node, shape: layers.nn.Hardsigmoid(),
    ),
    "scale": Operation(
        attributes={"factor": REAL},
        shape=same_shape,
        work=Work.SIMPLE,
        channels=Channels.KEPT,
        layer=lambda layers, node, shape: layers.Scale(node.get("factor")),
    ),
}
