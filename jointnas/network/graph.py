"""A blueprint as a mutable graph, optionally with the weights of a network."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from jointnas.errors import MorphismError
from jointnas.network.blueprint import Block, Blueprint, block_shapes, make_node
from jointnas.network.module import Network
from jointnas.network.operations import OPERATIONS
from jointnas.network.operations.operation import Attribute, Channels, Node, Shape, Work

JOINS = ("concat", "blend")


class Place(NamedTuple):
    """A node of a blueprint: the index of its block, and its own index in the block."""

    block: int
    node: int

    def __str__(self) -> str:
        return f"block {self.block}, node {self.node}"


@dataclass(eq=False)
class Vertex:
    """A node with the vertices it reads, its output shape before any change, and its weights by name."""

    operation: str
    attributes: dict[str, Attribute]
    inputs: list[Vertex]
    shape: Shape
    label: str = ""
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def channels(self) -> Channels:
        """How the channels it writes follow from those it reads: a depthwise convolution keeps them, other groups do not."""
        if not self.inputs:
            return Channels.OTHER
        channels, groups = OPERATIONS[self.operation].channels, self.attributes.get("groups", 1)
        if channels is not Channels.MIXED or groups == 1:
            return channels
        return Channels.KEPT if groups == self.inputs[0].shape[0] == self.shape[0] else Channels.OTHER

    @property
    def mixes(self) -> bool:
        """Whether each output channel reads every input channel, so that the two counts are independent."""
        return self.channels is Channels.MIXED

    @property
    def keeps(self) -> bool:
        """Whether output channel c depends on the inputs' channels c alone."""
        return self.channels is Channels.KEPT

    @property
    def work(self) -> Work:
        """The kind of work that it does."""
        node = Node(self.operation, (), tuple(self.attributes.items()))
        return OPERATIONS[self.operation].work_of(node)

    def resize(self, channels: int) -> None:
        """Write a new count of channels wherever the attributes hold it."""
        width = OPERATIONS[self.operation].width
        if width:
            names = (width, "groups") if self.keeps else (width,)
            self.attributes.update(dict.fromkeys(names, channels))


class Graph:
    """A blueprint as mutable vertices, with a copy on the CPU of a network's weights where one is given."""

    def __init__(self, blueprint: Blueprint, network: Network | None = None) -> None:
        self.names = [block.name for block in blueprint.blocks]
        self.blocks: list[list[Vertex]] = []
        self.image = Vertex("image", {}, [], blueprint.input_shape, "the image")
        ends = [self.image]
        for b, (block, wires) in enumerate(zip(blueprint.blocks, blueprint.wiring, strict=True)):
            values = [ends[i] for i in wires]
            shapes = block_shapes(block, tuple(value.shape for value in values))[len(wires) :]
            for n, (node, shape) in enumerate(zip(block.nodes, shapes, strict=True)):
                label = f"{node.operation} at {Place(b, n)}"
                reads = [values[i] for i in node.inputs]
                values.append(Vertex(node.operation, dict(node.attributes), reads, shape, label))
            self.blocks.append(values[len(wires) :])
            ends.append(values[-1])
        self.readers: defaultdict[Vertex, list[Vertex]] = defaultdict(list)
        for vertex in self.vertices:
            for value in vertex.inputs:
                self.readers[value].append(vertex)
        self.weighted, self.training = network is not None, True
        self.dtype, self.device = torch.float32, torch.device("cpu")
        if network is not None:
            self._take_weights(network)

    def _take_weights(self, network: Network) -> None:
        self.training = network.training
        for key, tensor in network.state_dict().items():
            _, block, _, node, name = key.split(".", 4)  # blocks.0.nodes.1.weight
            self.blocks[int(block)][int(node)].weights[name] = tensor.to("cpu", copy=True)
            if tensor.is_floating_point():
                self.dtype, self.device = tensor.dtype, tensor.device

    @property
    def vertices(self) -> list[Vertex]:
        """All vertices, each after what it reads."""
        return list(chain.from_iterable(self.blocks))

    def at(self, place: Place) -> Vertex:
        """Return the vertex of a place. Raises `MorphismError` where there is none."""
        b, n = place
        if not (0 <= b < len(self.blocks) and 0 <= n < len(self.blocks[b])):
            raise MorphismError(f"there is no node {n} in block {b}: choose a place from `options`")
        return self.blocks[b][n]

    def joined(self, value: Vertex) -> list[Vertex]:
        """Return a value and, where it is a join of skips, the values that it joins."""
        return [value] + [v for i in value.inputs if value.operation in JOINS for v in self.joined(i)]

    def insert(self, place: Place, *fresh: Vertex) -> None:
        """Insert vertices before a place."""
        self.blocks[place.block][place.node : place.node] = fresh

    def blueprint(self) -> Blueprint:
        """Return the blueprint of the present vertices; a block's inputs are the outer values that its vertices read."""
        ends = {block[-1]: i for i, block in enumerate([[self.image], *self.blocks])}
        blocks, wiring = [], []
        for name, block in zip(self.names, self.blocks, strict=True):
            own = set(block)
            outside = list(dict.fromkeys(v for vertex in block for v in vertex.inputs if v not in own))
            number = {vertex: i for i, vertex in enumerate(outside + block)}
            nodes = (make_node(v.operation, [number[i] for i in v.inputs], v.attributes) for v in block)
            blocks.append(Block(name, tuple(nodes), len(outside)))
            wiring.append(tuple(ends[v] for v in outside))
        return Blueprint(self.image.shape, tuple(blocks), tuple(wiring))

    def network(self) -> Network:
        """Return the network of the present vertices and weights."""
        network = Network(self.blueprint())
        state = {
            f"blocks.{b}.nodes.{n}.{name}": tensor
            for b, block in enumerate(self.blocks)
            for n, vertex in enumerate(block)
            for name, tensor in vertex.weights.items()
        }
        network.load_state_dict(state, assign=True)
        return network.to(self.device).train(self.training)
