"""The costs of a network by arithmetic on its blueprint. Only an `opaque` node is traced, once for each shape.

- `macs`: multiply–accumulates of convolutions and linear layers, as the papers count them.
- `params`: trained numbers, without whitening filters and running statistics.
- `activations`: outputs of convolutions and linear layers (Dollár et al. 2021, "Fast and Accurate Model Scaling").
- `size`: bytes of all stored numbers, with running statistics and whitening filters. Weights of few bits are packed, each layer to whole
  bytes, and have scales of 32 bits.
- `memory`: peak bytes while one image is classified: `size`, plus the most values alive at once when every operation writes
  a new float32 value and a value is freed after its last reader. In an opaque node it is a lower bound, see
  `library_networks.trace`.
- `bitops`: multiply–accumulates times the bits of the weight and of the activation that each multiplies, 32 of a float.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

from jointnas.network.blueprint import Block, Blueprint, block_shapes
from jointnas.network.operations import OPERATIONS
from jointnas.network.operations.operation import Node, NodeCost, Shape
from jointnas.network.operations.packing import Packing

METRICS = ("macs", "params", "activations", "size", "memory", "bitops")
# Each view of an image costs these again; views are scored one after another, in the same memory.
EACH_VIEW = ("macs", "activations", "bitops")
BYTES_PER_VALUE = 4
FLOAT_BITS = 32
FLOAT_BITOPS = FLOAT_BITS**2  # of a multiply–accumulate of floats
RANGE_BYTES = 8  # of the static range of 8-bit activations


def node_cost(node: Node, source: Shape, output: Shape) -> NodeCost:
    """Return what a node costs for one image; `source` is the shape of the first value it reads."""
    return OPERATIONS[node.operation].cost(node, source, output)


class BlockCost(NamedTuple):
    """Sums over a block's nodes, and the peak of the values alive inside it, in bytes."""

    macs: int
    params: int
    activations: int
    size: int
    peak: int
    bitops: int


@lru_cache(maxsize=200_000)
def block_cost(block: Block, inputs: tuple[Shape, ...], held: tuple[bool, ...]) -> BlockCost:
    """Return a block's cost for inputs of these shapes; `held[i]`: whether input i is still read after the block."""
    shapes = block_shapes(block, inputs)
    macs = params = activations = size = bitops = 0
    inner = []
    for node, output in zip(block.nodes, shapes[len(inputs) :], strict=True):
        cost = node_cost(node, shapes[node.inputs[0]], output)
        macs += cost.macs
        params += cost.trained
        activations += cost.activations
        size += stored_bytes(node, cost, output)
        bitops += cost.macs * int(node.get("bits", FLOAT_BITS)) * int(node.get("activation_bits", FLOAT_BITS))
        inner.append(cost.inner)
    reads = [node.inputs for node in block.nodes]
    keep = {i for i, still in enumerate(held) if still}
    peak = _peak([prod(shape) for shape in shapes], inner, reads, len(inputs), keep)
    return BlockCost(macs, params, activations, size, peak * BYTES_PER_VALUE, bitops)


def packed_bytes(weights: int, bits: int) -> int:
    """Return the bytes of a layer's weights of so many bits."""
    return -(-weights * bits // 8)


def stored_bytes(node: Node, cost: NodeCost, output: Shape) -> int:
    """Return the bytes of what a node stores."""
    packing = Packing.of(node)
    if packing is None:
        return (cost.trained + cost.fixed) * BYTES_PER_VALUE
    floats = cost.trained - cost.weights + cost.fixed + packing.scale_count(output[0])
    ranges = 0 if packing.activation_bits is None else RANGE_BYTES
    return packed_bytes(cost.weights, packing.bits) + floats * BYTES_PER_VALUE + ranges


def _last_reader(reads: list[tuple[int, ...]], n_values: int) -> list[int]:
    """Return for each value the last step that reads it; −1 for one that no step reads."""
    last = [-1] * n_values
    for step, values in enumerate(reads):
        for value in values:
            last[value] = step
    return last


def _peak(sizes: list[int], inner: list[int], reads: list[tuple[int, ...]], n_inputs: int, keep: set[int]) -> int:
    """Return the largest sum of sizes alive at one step, each step writing value n_inputs + step and needing its inner ones."""
    last = _last_reader(reads, len(sizes))
    alive, peak = sum(sizes[:n_inputs]), 0
    for step, values in enumerate(reads):
        alive += sizes[n_inputs + step]
        peak = max(peak, alive + inner[step])
        alive -= sum(sizes[v] for v in set(values) if last[v] == step and v not in keep)
    return peak


def _reading_once(block: Block, inputs: tuple[int, ...]) -> tuple[Block, tuple[int, ...]]:
    """Return the same block over different values, where it reads one value through several inputs."""
    once = tuple(dict.fromkeys(inputs))
    if len(once) == len(inputs):
        return block, inputs
    moved = [once.index(i) for i in inputs] + [i + len(once) for i in range(len(block.nodes))]
    nodes = tuple(Node(n.operation, tuple(moved[i] for i in n.inputs), n.attributes) for n in block.nodes)
    return Block(block.name, nodes, len(once)), once


def blueprint_cost(blueprint: Blueprint) -> dict[str, int]:
    """Return every metric of `METRICS` for one image; counts, and bytes for `size` and `memory`."""
    shapes = blueprint.shapes()
    last = _last_reader(list(blueprint.wiring), len(shapes))
    macs = params = activations = size = peak = bitops = 0
    for step, (block, inputs) in enumerate(zip(blueprint.blocks, blueprint.wiring, strict=True)):
        block, inputs = _reading_once(block, inputs)
        held = tuple(last[i] > step for i in inputs)
        part = block_cost(block, tuple(shapes[i] for i in inputs), held)
        waiting = sum(prod(shapes[v]) for v in range(step + 1) if last[v] > step and v not in inputs) * BYTES_PER_VALUE
        macs += part.macs
        params += part.params
        activations += part.activations
        size += part.size
        bitops += part.bitops
        peak = max(peak, part.peak + waiting)
    return {
        "macs": macs,
        "params": params,
        "activations": activations,
        "size": size,
        "memory": size + peak,
        "bitops": bitops,
    }


def scoring_cost(costs: Mapping[str, Any], views: Any) -> dict[str, Any]:
    """Return what an image costs when `views` views of it are scored, from the costs of one view: numbers or arrays."""
    return {metric: value * views if metric in EACH_VIEW else value for metric, value in costs.items()}
