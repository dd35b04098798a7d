"""A network as data: a directed acyclic graph of nodes, grouped in blocks. Costs, modules and morphisms are derived from it.

Values are numbered the same way at both levels. In a block, values 0 … n_inputs−1 are the block's inputs and value
n_inputs + i is the output of node i; the last node's output is the block's. In a blueprint, value 0 is the image and
value i is the output of block i−1; the last block's output is the logits. Shapes are without the batch: (C, H, W) or (F,).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from jointnas.errors import BlueprintError, suggest
from jointnas.network.operations import OPERATIONS
from jointnas.network.operations.operation import POSITIVE, Attribute, Node, Shape, is_whole

FORMAT = 1


@dataclass(frozen=True)
class Block:
    """A named group of nodes with `n_inputs` inputs and one output. Hashed once, so costs can be memoised by block."""

    name: str
    nodes: tuple[Node, ...]
    n_inputs: int = 1

    def __hash__(self) -> int:
        cached: int | None = self.__dict__.get("_hash")
        if cached is None:
            cached = hash((self.name, self.nodes, self.n_inputs))
            object.__setattr__(self, "_hash", cached)
        return cached

    @property
    def digest(self) -> bytes:
        """A hash of 16 bytes that is the same for equal blocks in every process; computed once."""
        cached: bytes | None = self.__dict__.get("_digest")
        if cached is None:
            cached = hashlib.sha256(repr((self.name, self.nodes, self.n_inputs)).encode()).digest()[:16]
            object.__setattr__(self, "_digest", cached)
        return cached

    def __getstate__(self) -> dict[str, Any]:
        """Leave the hash out: strings hash differently in another process."""
        return {name: value for name, value in self.__dict__.items() if name != "_hash"}


@dataclass(frozen=True)
class Blueprint:
    """A whole network: its input shape, its blocks, and the values that each block reads."""

    input_shape: Shape
    blocks: tuple[Block, ...]
    wiring: tuple[tuple[int, ...], ...]

    @classmethod
    def chain(cls, input_shape: Shape, blocks: Sequence[Block]) -> Blueprint:
        """Return the network in which every block reads the one before it."""
        return cls(tuple(input_shape), tuple(blocks), tuple((i,) for i in range(len(blocks))))

    @classmethod
    def in_a_row(cls, parts: Sequence[Blueprint]) -> Blueprint:
        """Return the network in which every part reads the output of the part before it."""
        blocks: list[Block] = []
        wiring: list[tuple[int, ...]] = []
        for part in parts:
            first = len(blocks)
            blocks.extend(part.blocks)
            wiring.extend(tuple(first + i for i in inputs) for inputs in part.wiring)
        return cls(parts[0].input_shape, tuple(blocks), tuple(wiring))

    def reading(self, height: int, width: int) -> Blueprint:
        """Return the same network with another size of its first resize, or of its input where it has no resize."""
        first = self.blocks[0].nodes[0] if self.blocks else None
        if first is None or first.operation != "resize":
            return replace(self, input_shape=(self.input_shape[0], height, width))
        resized = make_node("resize", first.inputs, {**dict(first.attributes), "height": height, "width": width})
        block = replace(self.blocks[0], nodes=(resized, *self.blocks[0].nodes[1:]))
        return replace(self, blocks=(block, *self.blocks[1:]))

    @property
    def output_shape(self) -> Shape:
        """The shape that the last block writes; the input shape where there is no block."""
        return self.shapes()[-1]

    @property
    def libraries(self) -> tuple[str, ...]:
        """The packages that parts of the network come from, beside this one."""
        nodes = [node for block in self.blocks for node in block.nodes]
        return tuple(sorted({str(node.get("library")) for node in nodes if node.get("library")}))

    def shapes(self) -> tuple[Shape, ...]:
        """Return the shape of every value: the image's first, then each block's output. Raises `BlueprintError`."""
        cached: tuple[Shape, ...] | None = self.__dict__.get("_shapes")
        if cached is None:
            shapes: list[Shape] = [self.input_shape]
            for block, inputs in zip(self.blocks, self.wiring, strict=True):
                shapes.append(block_shapes(block, tuple(shapes[i] for i in inputs))[-1])
            cached = tuple(shapes)
            object.__setattr__(self, "_shapes", cached)
        return cached

    def digest(self) -> str:
        """Return a hash that is the same for equal networks on every machine and in every process."""
        return joined_digest(self.input_shape, [self.trace()])

    def trace(self) -> bytes:
        """Return the bytes that `digest` hashes; the trace of `in_a_row` is the traces of its parts, joined."""
        steps = zip(self.blocks, self.wiring, strict=True)
        return b"".join(
            block.digest + bytes(repr([i - v for v in inputs]), "ascii") for i, (block, inputs) in enumerate(steps)
        )

    def to_json(self) -> dict[str, Any]:
        """Return the network as JSON types; `from_json` reverses it."""
        return {
            "format": FORMAT,
            "input_shape": list(self.input_shape),
            "blocks": [
                {
                    "name": block.name,
                    "inputs": list(inputs),
                    "nodes": [
                        {"operation": n.operation, "inputs": list(n.inputs), **dict(n.attributes)} for n in block.nodes
                    ],
                }
                for block, inputs in zip(self.blocks, self.wiring, strict=True)
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Blueprint:
        """Return the blueprint that `to_json` wrote, after checking it; no code in it runs. Raises `BlueprintError`."""
        try:
            if data["format"] != FORMAT:
                raise BlueprintError(
                    f"this version reads blueprints of format {FORMAT}, got {data['format']!r}: install the version that wrote it"
                )
            shape = tuple(data["input_shape"])
            if len(shape) != 3 or not all(POSITIVE.holds(d) for d in shape) or not data["blocks"]:
                raise BlueprintError(
                    f"a blueprint needs an image shape (C, H, W) and at least one block, got shape {shape}: export it again"
                )
            blocks: list[Block] = []
            wiring: list[tuple[int, ...]] = []
            for block in data["blocks"]:
                nodes = tuple(
                    make_node(n["operation"], n["inputs"], {k: v for k, v in n.items() if k not in _NODE_KEYS})
                    for n in block["nodes"]
                )
                inputs = tuple(block["inputs"])
                if not nodes or not inputs or not all(is_whole(i) and 0 <= i <= len(blocks) for i in inputs):
                    raise BlueprintError(
                        f"a block needs nodes, and inputs that earlier blocks write, got inputs {inputs}: export it again"
                    )
                blocks.append(Block(str(block["name"]), nodes, len(inputs)))
                wiring.append(inputs)
            blueprint = cls(shape, tuple(blocks), tuple(wiring))
            blueprint.shapes()
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise BlueprintError(
                f"a blueprint needs input_shape and blocks of nodes, got {error!r}: export it again"
            ) from error
        return blueprint


def joined_digest(input_shape: Shape, traces: Iterable[bytes]) -> str:
    """Return the digest of the network that reads images of this shape and whose parts have these traces."""
    return hashlib.sha256(repr(input_shape).encode() + b"".join(traces)).hexdigest()[:16]


_NODE_KEYS = ("operation", "inputs")


def make_node(operation: str, inputs: Sequence[int], attributes: Mapping[str, Attribute]) -> Node:
    """Return a checked node with sorted attributes. Raises `BlueprintError` for one that cannot be built."""
    if operation not in OPERATIONS:
        raise BlueprintError(f"no operation is called {operation!r}: {suggest(operation, OPERATIONS)}")
    rule = OPERATIONS[operation]
    if not rule.inputs[0] <= len(inputs) <= rule.inputs[1] or not all(is_whole(i) and i >= 0 for i in inputs):
        raise BlueprintError(f"{operation} reads {_count(rule.inputs)} by number, got {list(inputs)}")
    for name, kind in rule.attributes.items():
        if name not in attributes:
            raise BlueprintError(f"{operation} needs the attributes {', '.join(rule.attributes)}: {name} is missing")
        if not kind.holds(attributes[name]):
            raise BlueprintError(f"{name} of {operation} must be {kind.description}, got {attributes[name]!r}")
    for name, value in attributes.items():
        optional = rule.optional.get(name)
        if name not in rule.attributes and not (optional and optional.holds(value)):
            raise BlueprintError(
                f"{operation} takes the attributes {', '.join(rule.attributes) or 'none'}, got {name} = {value!r}: remove it"
            )
    return Node(operation, tuple(inputs), tuple(sorted(attributes.items())))


def _count(inputs: tuple[int, int]) -> str:
    low, high = inputs
    number = f"{low}" if low == high else f"{low} to {high}"
    return f"{number} value{'s' if high > 1 else ''}"


class BlockBuilder:
    """Builds a block node by node; `add` returns the number of the new value."""

    def __init__(self, name: str, n_inputs: int = 1) -> None:
        self.name, self.n_inputs = name, n_inputs
        self.nodes: list[Node] = []

    def add(self, operation: str, *inputs: int, **attributes: Attribute) -> int:
        """Append a node that reads `inputs` (the newest value when none is given) and return its value number."""
        newest = self.n_inputs + len(self.nodes) - 1
        self.nodes.append(make_node(operation, inputs or (newest,), attributes))
        return newest + 1

    def conv(self, *inputs: int, channels: int, kernel: int = 3, stride: int = 1, bias: bool = False) -> int:
        """Append a convolution that keeps the size at stride 1 (odd kernels, zero padding)."""
        return self.add(
            "conv", *inputs, channels=channels, kernel=kernel, stride=stride, padding=kernel // 2, groups=1, bias=bias
        )

    def build(self) -> Block:
        """Return the finished block."""
        return Block(self.name, tuple(self.nodes), self.n_inputs)


@lru_cache(maxsize=200_000)
def block_shapes(block: Block, inputs: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """Return the shape of every value in a block, its inputs first. Raises `BlueprintError` where nodes do not fit."""
    shapes = list(inputs)
    for node in block.nodes:
        if not node.inputs or not all(0 <= i < len(shapes) for i in node.inputs):
            raise BlueprintError(
                f"a node can only read earlier values, got inputs {node.inputs} in block {block.name!r}"
            )
        shapes.append(OPERATIONS[node.operation].shape(node, [shapes[i] for i in node.inputs]))
    return tuple(shapes)
