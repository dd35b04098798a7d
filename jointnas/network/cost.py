"""What a network costs, by arithmetic on its blueprint: nothing is built or traced, but for an `opaque` node, once a shape.

- `macs`: multiply–accumulates of convolutions and linear layers, as the papers count them.
- `params`: numbers that training changes (a fixed whitening filter and running statistics are not among them).
- `activations`: outputs of convolutions and linear layers (Dollár et al. 2021, "Fast and Accurate Model Scaling").
- `size`: bytes of everything stored, running statistics and fixed filters included; each node knows its bits.
- `memory`: peak bytes while one image is classified: what is stored, plus the most values alive at once when every
  operation writes a new float32 value and a value dies with its last reader. Inside an opaque node it is approximated, see
  `opaque.trace`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

from jointnas.network.blueprint import Block, Blueprint, Node, Shape, block_shapes
from jointnas.network.library_networks import Traced, trace

METRICS = ("macs", "params", "activations", "size", "memory")
EACH_VIEW = (
    "macs",
    "activations",
)  # each view of an image costs them again; views come one after another, in the same memory
BYTES_PER_VALUE = 4


class Weights(NamedTuple):
    """How many numbers a node stores: those that training changes, and those it does not."""

    trained: int
    fixed: int


def _conv_weights(node: Node, shape: Shape) -> Weights:
    channels, kernel = int(node.get("channels")), int(node.get("kernel"))
    bias = channels if node.get("bias") else 0
    return Weights(channels * (shape[0] // int(node.get("groups"))) * kernel**2 + bias, 0)


def _linear_weights(node: Node, shape: Shape) -> Weights:
    features = int(node.get("features"))
    return Weights(features * shape[0] + (features if node.get("bias") else 0), 0)


def _batch_norm_weights(node: Node, shape: Shape) -> Weights:
    return Weights(shape[0] * (2 if node.get("scale") else 1), 2 * shape[0])


def _whiten_weights(node: Node, shape: Shape) -> Weights:
    return Weights(0, (shape[0] * int(node.get("kernel")) ** 2) ** 2)


def _traced(node: Node, shape: Shape) -> Traced:
    return trace(node.get("library"), node.get("name"), shape, int(node.get("features")))


def _opaque_weights(node: Node, shape: Shape) -> Weights:
    found = _traced(node, shape)
    return Weights(found.trained, found.fixed)


_WEIGHTS: Mapping[str, Callable[[Node, Shape], Weights]] = {
    "conv": _conv_weights,
    "linear": _linear_weights,
    "batch_norm": _batch_norm_weights,
    "whiten": _whiten_weights,
    "blend": lambda node, shape: Weights(1, 0),
    "opaque": _opaque_weights,
}


def node_weights(node: Node, input_shape: Shape) -> Weights:
    """Return how many numbers `node` stores when it reads a value of `input_shape`."""
    rule = _WEIGHTS.get(node.operation)
    return rule(node, input_shape) if rule else Weights(0, 0)


def node_macs(node: Node, input_shape: Shape, output_shape: Shape) -> int:
    """Return the multiply–accumulates of one node for one image; biases are not counted."""
    if node.operation == "conv":
        return prod(output_shape) * (input_shape[0] // int(node.get("groups"))) * int(node.get("kernel")) ** 2
    if node.operation == "whiten":
        return prod(output_shape) * input_shape[0] * int(node.get("kernel")) ** 2
    if node.operation == "linear":
        return prod(output_shape) * input_shape[0]
    return _traced(node, input_shape).macs if node.operation == "opaque" else 0


def node_activations(node: Node, input_shape: Shape, output_shape: Shape) -> int:
    """Return how many numbers a node's convolutions and linear layers write for one image."""
    if node.operation == "opaque":
        return _traced(node, input_shape).activations
    return prod(output_shape) if node_macs(node, input_shape, output_shape) else 0


def _inner_values(node: Node, input_shape: Shape, output_shape: Shape) -> int:
    """Return how many values are alive inside a node beyond what it reads and writes."""
    if node.operation != "opaque":
        return 0
    return max(0, _traced(node, input_shape).peak - prod(input_shape) - prod(output_shape))


class BlockCost(NamedTuple):
    """Sums over a block's nodes, and the peak of the values alive inside it, in bytes."""

    macs: int
    params: int
    activations: int
    size: int
    peak: int


@lru_cache(maxsize=200_000)
def block_cost(block: Block, inputs: tuple[Shape, ...], held: tuple[bool, ...]) -> BlockCost:
    """Return a block's cost for inputs of these shapes; `held[i]` says that input i is still read after the block."""
    shapes = block_shapes(block, inputs)
    macs = params = activations = bits = 0
    inner = []
    for node, output in zip(block.nodes, shapes[len(inputs) :], strict=True):
        source = shapes[node.inputs[0]]
        weights = node_weights(node, source)
        macs += node_macs(node, source, output)
        params += weights.trained
        activations += node_activations(node, source, output)
        bits += sum(weights) * int(node.get("bits", 32))
        inner.append(_inner_values(node, source, output))
    reads = [node.inputs for node in block.nodes]
    keep = {i for i, still in enumerate(held) if still}
    peak = _peak([prod(shape) for shape in shapes], inner, reads, len(inputs), keep)
    return BlockCost(macs, params, activations, -(-bits // 8), peak * BYTES_PER_VALUE)


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
    macs = params = activations = size = peak = 0
    for step, (block, inputs) in enumerate(zip(blueprint.blocks, blueprint.wiring, strict=True)):
        block, inputs = _reading_once(block, inputs)
        held = tuple(last[i] > step for i in inputs)
        part = block_cost(block, tuple(shapes[i] for i in inputs), held)
        waiting = sum(prod(shapes[v]) for v in range(step + 1) if last[v] > step and v not in inputs) * BYTES_PER_VALUE
        macs += part.macs
        params += part.params
        activations += part.activations
        size += part.size
        peak = max(peak, part.peak + waiting)
    return {"macs": macs, "params": params, "activations": activations, "size": size, "memory": size + peak}


def scoring_cost(costs: Mapping[str, Any], views: Any) -> dict[str, Any]:
    """Return what an image costs when so many views of it are scored, from the costs of one view: numbers, or arrays of them."""
    return {metric: value * views if metric in EACH_VIEW else value for metric, value in costs.items()}
