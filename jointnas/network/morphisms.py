"""Network morphisms: a network and its weights become a larger network that computes the same.

They are the steps of NASH (Elsken, Metzen, Hutter 2017, "Simple and Efficient Architecture Search for CNNs"):
`options` lists what a network allows, `apply` makes one change, `morph` several random ones. In evaluation the logits
stay equal up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jointnas.errors import MorphismError
from jointnas.network.blueprint import Blueprint
from jointnas.network.graph import JOINS, Graph, Place, Vertex
from jointnas.network.layers import BatchNorm
from jointnas.network.module import Network
from jointnas.network.operations import OPERATIONS
from jointnas.network.operations.operation import POSITIVE, Channels, Work

KERNELS = (3, 5)
FACTORS = (2, 4)
NOISE = 0.1
IDEMPOTENT = tuple(name for name, operation in OPERATIONS.items() if operation.idempotent)
UNFINISHED = (Work.POINTWISE, Work.GROUPED, Work.SPATIAL, Work.NORM)  # an activation follows
EPSILON = BatchNorm(1, scale=True).eps

Sources = tuple[int, ...]
"""For each channel of a wider value, the channel of the old value that it copies: g of Net2Net."""


@dataclass(frozen=True)
class Deeper:
    """A convolution, a batch norm and an activation after the activation at `place`: at first the identity."""

    place: Place
    kernel: int

    def check(self, graph: Graph) -> None:
        """Raise `MorphismError` where this cannot be."""
        vertex = graph.at(self.place)
        if self.kernel not in KERNELS:
            sizes = " or ".join(map(str, KERNELS))
            raise MorphismError(f"deeper inserts a kernel of {sizes}, got {self.kernel}: change it")
        if vertex.operation not in IDEMPOTENT:
            raise MorphismError(
                f"deeper follows {' or '.join(IDEMPOTENT)}, which a second one leaves as it is, got {vertex.label}: "
                "choose another place"
            )
        if len(vertex.shape) != 3 or max(vertex.shape[1:]) == 1:
            raise MorphismError(
                f"deeper filters an image of several pixels, got shape {vertex.shape} from {vertex.label}: "
                "choose another place"
            )

    def edit(self, graph: Graph, rng: torch.Generator, noise: float) -> None:
        """Insert the layer, and let all that read the activation read the new one."""
        vertex, k = graph.at(self.place), self.kernel
        channels, before = vertex.shape[0], vertex.inputs[0]
        filters = {"channels": channels, "kernel": k, "stride": 1, "padding": k // 2, "groups": 1, "bias": False}
        conv = Vertex("conv", {**filters}, [vertex], vertex.shape)
        norm = Vertex("batch_norm", {"scale": True}, [conv], vertex.shape)
        active = Vertex(vertex.operation, {}, [norm], vertex.shape)
        if graph.weighted:
            conv.weights["weight"] = nn.init.dirac_(torch.empty(channels, channels, k, k, dtype=graph.dtype))
            norm.weights = _identity_norm(*_rectified(before, channels, graph.dtype))
        graph.insert(Place(self.place.block, self.place.node + 1), conv, norm, active)
        for reader in graph.readers[vertex]:
            reader.inputs = [active if value is vertex else value for value in reader.inputs]


@dataclass(frozen=True)
class Wider:
    """More output channels for the convolution at `place`, and for every value that must have as many (Net2WiderNet).

    `channels` is the new count. Whole residual streams grow together: all convolutions that add to them.
    """

    place: Place
    channels: int

    def check(self, graph: Graph) -> None:
        """Raise `MorphismError` where this cannot be."""
        start = graph.at(self.place)
        if start.operation != "conv":
            raise MorphismError(f"wider takes a convolution, got {start.label}: choose another place")
        if not POSITIVE.holds(self.channels) or self.channels <= start.shape[0]:
            raise MorphismError(
                f"wider gives {start.label} more than its {start.shape[0]} channels, up to 65536, "
                f"got {self.channels}: change the number"
            )
        _widths(graph, start, tuple(i % start.shape[0] for i in range(self.channels)))

    def edit(self, graph: Graph, rng: torch.Generator, noise: float) -> None:
        """Copy channels at random, and split the weights that read them."""
        start = graph.at(self.place)
        old = start.shape[0]
        extra = torch.randint(old, (self.channels - old,), generator=rng).tolist()
        widths = _widths(graph, start, (*range(old), *extra))
        for vertex in graph.vertices:
            given, read = widths[vertex], widths[vertex.inputs[0]]
            if given:
                index = torch.tensor(given)
                vertex.weights = {name: t[index] if t.dim() else t for name, t in vertex.weights.items()}
                vertex.resize(len(given))
            if read and vertex.mixes and vertex.weights:
                vertex.weights["weight"] = _split(vertex.weights["weight"], read, rng, noise)


@dataclass(frozen=True)
class Skip:
    """A second value for the convolution at `place`: what `source` gives, joined to what it reads by `join`.

    "concat" appends channels, whose weights start at zero; "blend" is λ·first + (1 − λ)·second, whose λ starts at 1.
    """

    place: Place
    source: Place
    join: str

    def check(self, graph: Graph) -> None:
        """Raise `MorphismError` where this cannot be."""
        reader, source = graph.at(self.place), graph.at(self.source)
        if self.join not in JOINS:
            raise MorphismError(f"a skip joins by {' or '.join(JOINS)}, got {self.join!r}: change it")
        if reader.operation != "conv" or (self.join == "concat" and reader.attributes["groups"] != 1):
            grouped = " of one group" if self.join == "concat" else ""
            raise MorphismError(f"a skip ends at a convolution{grouped}, got {reader.label}: choose another end")
        self._check_source(graph, source)
        before = reader.inputs[0]
        if source in graph.joined(before):
            raise MorphismError(
                f"a skip brings what its end does not read, got {source.label} for {reader.label}: choose another start"
            )
        first = 1 if self.join == "concat" else 0
        if len(source.shape) != 3 or source.shape[first:] != before.shape[first:]:
            same = "height and width (no pool or stride between)" if self.join == "concat" else "shape"
            raise MorphismError(
                f"{self.join} joins values of one {same}, got {source.shape} and {before.shape}: choose another start"
            )

    def _check_source(self, graph: Graph, source: Vertex) -> None:
        if self.source >= self.place:
            raise MorphismError(f"a skip goes forward, got {self.source} to {self.place}: choose another start")
        if source is graph.blocks[self.source.block][-1]:
            return
        if self.source.block != self.place.block:
            raise MorphismError(
                f"a block shows the last of its values to others, got {source.label}: start at its last node"
            )
        if source.work in UNFINISHED:
            raise MorphismError(
                f"a skip starts at an activation, a pool, a join or the end of a block, got {source.label}: "
                "choose another start"
            )

    def edit(self, graph: Graph, rng: torch.Generator, noise: float) -> None:
        """Insert the join before the convolution, with weights that leave the new value out."""
        reader, source = graph.at(self.place), graph.at(self.source)
        before = reader.inputs[0]
        channels = before.shape[0] + (source.shape[0] if self.join == "concat" else 0)
        joined = Vertex(self.join, {}, [before, source], (channels, *before.shape[1:]))
        if self.join == "blend":
            joined.weights = {"weight": torch.ones((), dtype=graph.dtype)}
        elif reader.weights:
            weight = reader.weights["weight"]
            zeros = weight.new_zeros(weight.shape[0], source.shape[0], *weight.shape[2:])
            reader.weights["weight"] = torch.cat([weight, zeros], dim=1)
        graph.insert(self.place, joined)
        reader.inputs = [joined]


Morphism = Deeper | Wider | Skip


def options(blueprint: Blueprint) -> dict[Morphism, str | None]:
    """Return every morphism there is to try, with the reason why the network refuses it; None where it is allowed.

    Tried are `Deeper` at every node with the `KERNELS`, `Wider` at every convolution by the `FACTORS`, and `Skip` to
    every convolution from every earlier node of its block and the end of every earlier block.
    """
    graph = Graph(blueprint)
    found: dict[Morphism, str | None] = {}
    for morphism in _imagined(graph):
        try:
            morphism.check(graph)
            found[morphism] = None
        except MorphismError as error:
            found[morphism] = str(error)
    return found


def preview(blueprint: Blueprint, morphism: Morphism) -> Blueprint:
    """Return the blueprint that a morphism leads to, without any weights. Raises `MorphismError`."""
    graph = Graph(blueprint)
    morphism.check(graph)
    morphism.edit(graph, torch.Generator(), 0.0)
    return graph.blueprint()


def apply(network: Network, morphism: Morphism, rng: torch.Generator, noise: float = NOISE) -> Network:
    """Return a changed copy of a network, on its device and in its precision. Raises `MorphismError`.

    rng: a generator of the CPU, which draws the copied channels and the noise. noise: how unevenly copies of a channel
    share its outgoing weights, in mean absolute weights; above 0 they get different gradients, at 0 they stay copies.
    """
    graph = Graph(network.blueprint, network)
    morphism.check(graph)
    morphism.edit(graph, rng, noise)
    return graph.network()


def morph(
    network: Network,
    rng: torch.Generator,
    n: int,
    noise: float = NOISE,
    fits: Callable[[Blueprint], bool] = lambda blueprint: True,
) -> Network:
    """Return a copy of a network after `n` random morphisms: NASH makes its children so, with n = 5.

    Each is drawn by its kind, then among those of the kind. fits: what every blueprint on the way must pass, such as a
    limit on its costs. Raises `MorphismError` when none is left.
    """
    for _ in range(n):
        network = apply(network, _draw(network.blueprint, rng, fits), rng, noise)
    return network


def _draw(blueprint: Blueprint, rng: torch.Generator, fits: Callable[[Blueprint], bool]) -> Morphism:
    kinds: dict[type[Morphism], list[Morphism]] = {}
    for morphism, reason in options(blueprint).items():
        if reason is None:
            kinds.setdefault(type(morphism), []).append(morphism)
    while kinds:
        kind = list(kinds)[int(torch.randint(len(kinds), (), generator=rng))]
        drawn = kinds[kind].pop(int(torch.randint(len(kinds[kind]), (), generator=rng)))
        if not kinds[kind]:
            del kinds[kind]
        if fits(preview(blueprint, drawn)):
            return drawn
    raise MorphismError(
        f"a network grows by morphisms that it allows and that fit, got none for {len(blueprint.blocks)} blocks: "
        "start from another network or allow it more"
    )


def _imagined(graph: Graph) -> Iterator[Morphism]:
    ends: list[Place] = []
    for b, block in enumerate(graph.blocks):
        places = [Place(b, i) for i in range(len(block))]
        for place, vertex in zip(places, block, strict=True):
            yield from (Deeper(place, kernel) for kernel in KERNELS)
            if vertex.operation == "conv":
                yield from (Wider(place, vertex.shape[0] * factor) for factor in FACTORS)
                yield from (Skip(place, s, join) for s in ends + places[: place.node] for join in JOINS)
        ends.append(places[-1])


# ------------------------------------------------------------------------------------------------------- how it is done


def _rectified(before: Vertex, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return mean and variance, (C,) each, of max(x, 0) where x is what the vertex before an activation gives.

    A batch norm gives values of mean β and deviation |γ|, taken as normal; of anything else nothing is known: 0 and 1.
    """
    zeros, ones = torch.zeros(channels, dtype=dtype), torch.ones(channels, dtype=dtype)
    if before.operation != "batch_norm":
        return zeros, ones
    shift = before.weights["bias"]
    spread = before.weights.get("weight", ones).abs().clamp_min(EPSILON)
    z = shift / spread
    below, density = torch.special.ndtr(z), torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    mean = shift * below + spread * density
    square = (shift**2 + spread**2) * below + shift * spread * density
    return mean, (square - mean**2).clamp_min(0)


def _identity_norm(mean: Tensor, variance: Tensor) -> dict[str, Tensor]:
    """Return the weights of a batch norm with γ = √(variance + ε) and β = mean, which changes nothing in evaluation."""
    return {
        "weight": (variance + EPSILON).sqrt(),
        "bias": mean,
        "running_mean": mean.clone(),
        "running_var": variance,
        "num_batches_tracked": torch.tensor(0),
    }


def _widths(graph: Graph, start: Vertex, sources: Sources) -> dict[Vertex, Sources | None]:
    """Return for every value the sources of its channels when `start` gets `sources`; None for one that stays as it is.

    Raises `MorphismError` where a value that cannot be wider would have to be.
    """
    agreeing = _agreeing(graph, start)
    found: dict[Vertex, Sources | None] = {graph.image: None}
    for vertex in graph.vertices:
        read = [found[value] for value in vertex.inputs]
        if vertex in agreeing:
            found[vertex] = sources
        elif vertex.mixes or not any(read):
            found[vertex] = None
        else:
            found[vertex] = _passed_on(vertex, read, start)
    last = graph.blocks[-1][-1]
    if found[last]:
        raise MorphismError(f"the classes stay as many as they are, got {start.label}, which makes them: widen another")
    return found


def _agreeing(graph: Graph, start: Vertex) -> set[Vertex]:
    """Return the values that must have the channels of `start`: those that operations which keep channels tie to it."""
    found: set[Vertex] = set()
    todo = [start]
    while todo:
        vertex = todo.pop()
        if vertex in found:
            continue
        found.add(vertex)
        if vertex.keeps:
            todo.extend(vertex.inputs)
        elif not vertex.mixes:
            raise MorphismError(
                f"channels are copied where a convolution of one group makes them, got {vertex.label} among the values "
                f"that widen with {start.label}: widen another"
            )
        todo.extend(reader for reader in graph.readers[vertex] if reader.keeps)
    return found


def _passed_on(vertex: Vertex, read: list[Sources | None], start: Vertex) -> Sources:
    """Return the sources of what a vertex gives that reads values with these sources, some of them wider."""
    first = read[0]
    if vertex.keeps and first and all(sources == first for sources in read):
        return first
    if vertex.channels is Channels.CONCATENATED:
        offsets = [sum(v.shape[0] for v in vertex.inputs[:i]) for i in range(len(read))]
        parts = zip(offsets, vertex.inputs, read, strict=True)
        return tuple(offset + c for offset, v, sources in parts for c in sources or range(v.shape[0]))
    if vertex.channels is Channels.FLATTENED and first:
        pixels = vertex.shape[0] // vertex.inputs[0].shape[0]
        return tuple(c * pixels + p for c in first for p in range(pixels))
    raise MorphismError(
        f"what reads a wider value mixes its channels or keeps them all alike, got {vertex.label} behind "
        f"{start.label}: widen another"
    )


def _split(weight: Tensor, sources: Sources, rng: torch.Generator, noise: float) -> Tensor:
    """Return (out, n, …) weights that make of n copied channels what the (out, C, …) `weight` made of the C old ones.

    Each copy carries its share: U2[j] = W2[g(j)] / count(g(j)) (Chen, Goodfellow, Shlens 2016, "Net2Net"). What the
    noise adds to the copies of a channel sums to zero, so that any amount of it leaves the network's function alone.
    """
    g = torch.tensor(sources)  # (n,)
    count = torch.bincount(g).to(weight.dtype).reshape(-1, *[1] * (weight.dim() - 2))  # (C, 1, 1)
    share = (weight / count)[:, g]
    drawn = torch.randn(share.shape, generator=rng, dtype=weight.dtype) * (noise * weight.abs().mean())
    mean = torch.zeros_like(weight).index_add_(1, g, drawn) / count
    return share + (drawn - mean[:, g])
