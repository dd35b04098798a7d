"""Networks whose weights have few bits: which layers, by which levels, and what they then cost.

A quantised layer is a convolution or linear layer whose node has the attributes of `Packing`. Its weights are whole codes of `bits` bits
times a scale of 32 bits, one for each output channel or one for the tensor. Biases and norms stay in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from jointnas.errors import BlueprintError
from jointnas.network.blueprint import Block, Blueprint, block_shapes
from jointnas.network.cost import node_cost, packed_bytes
from jointnas.network.operations.operation import Node, Shape
from jointnas.network.operations.packing import MOST_BITS, PACKABLE, Packing

INNER, ALL = QUANTISED_LAYERS = ("inner", "all")
LAYER_NUMBERS = 4 + MOST_BITS
"""What `layer_numbers` gives of a layer: 1, its weights, output channels and MACs, and its packed bytes at 1 to 8 bits."""


class Quantisation(NamedTuple):
    """How a network's layers are quantised: each chosen one by `packing`. layers: "inner", all but the first and the last one, or "all"."""

    packing: Packing
    layers: str


def quantised(blueprint: Blueprint, quantisation: Quantisation | None) -> Blueprint:
    """Return the network with quantised layers; itself for None.

    Raises `BlueprintError` for a network without layers to quantise.
    """
    if quantisation is None:
        return blueprint
    places = [
        (b, n)
        for b, block in enumerate(blueprint.blocks)
        for n, node in enumerate(block.nodes)
        if node.operation in PACKABLE
    ]
    chosen = set(places if quantisation.layers == ALL else places[1:-1])
    if not chosen:
        raise BlueprintError(
            f"a quantiser needs convolutions or linear layers of this project's own networks, got {len(places)} with "
            f"quantised_layers = {quantisation.layers}: choose another network, or quantiser = none"
        )
    own = quantisation.packing.attributes()
    blocks = tuple(
        Block(
            block.name,
            tuple(_with(node, own) if (b, n) in chosen else node for n, node in enumerate(block.nodes)),
            block.n_inputs,
        )
        for b, block in enumerate(blueprint.blocks)
    )
    return Blueprint(blueprint.input_shape, blocks, blueprint.wiring)


def _with(node: Node, attributes: dict[str, int | str]) -> Node:
    return Node(node.operation, node.inputs, tuple(sorted({**dict(node.attributes), **attributes}.items())))


# ------------------------------------------------------------------------------------- costs of many networks at once


def all_layers(blueprint: Blueprint) -> tuple[float, ...]:
    """Return the sums of `LAYER_NUMBERS` over a network's layers; they add up over its parts."""
    rows = _layers(blueprint)
    return tuple(map(sum, zip(*rows, strict=True))) if rows else (0.0,) * LAYER_NUMBERS


def first_layer(blueprint: Blueprint) -> tuple[float, ...]:
    """Return the `LAYER_NUMBERS` of the first layer, zeros where there is none."""
    return next(iter(_layers(blueprint)), (0.0,) * LAYER_NUMBERS)


def last_layer(blueprint: Blueprint) -> tuple[float, ...]:
    """Return the `LAYER_NUMBERS` of the last layer, zeros where there is none."""
    return next(reversed(_layers(blueprint)), (0.0,) * LAYER_NUMBERS)


def _layers(blueprint: Blueprint) -> Sequence[tuple[float, ...]]:
    shapes = blueprint.shapes()
    rows = []
    for block, inputs in zip(blueprint.blocks, blueprint.wiring, strict=True):
        inner = block_shapes(block, tuple(shapes[i] for i in inputs))
        for node, output in zip(block.nodes, inner[len(inputs) :], strict=True):
            if node.operation in PACKABLE:
                rows.append(_layer_numbers(node, inner[node.inputs[0]], output))
    return rows


@cache
def _layer_numbers(node: Node, source: Shape, output: Shape) -> tuple[float, ...]:
    cost = node_cost(node, source, output)
    packed = (packed_bytes(cost.weights, bits) for bits in range(1, MOST_BITS + 1))
    return tuple(map(float, (1, cost.weights, output[0], cost.macs, *packed)))
