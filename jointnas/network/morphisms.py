"""Network morphisms: changes of a network and its weights to a larger network that computes the same function.

They are the steps of NASH (Elsken, Metzen, Hutter 2017, "Simple and Efficient Architecture Search for CNNs"):
`options` lists the morphisms of a network, `draw` draws some of them at random, and `apply` applies one. In evaluation mode the
logits stay equal up to rounding. A morphism is written as text, such as "deeper 2.1 kernel 3": block 2, node 1.
"""

from __future__ import annotations

import math
import re
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
"""For each channel of a widened value, the old channel that it copies: g in Net2Net."""


@dataclass(frozen=True)
class Deeper:
    """Insert a convolution, a batch norm and an activation after the activation at `place`; at first they are the identity."""

    place: Place
    kernel: int

    def __str__(self) -> str:
        return f"deeper {_text(self.place)} kernel {self.kernel}"

    def check(self, graph: Graph) -> None:
        """Raise `MorphismError` where the network does not allow it."""
        vertex = graph.at(self.place)
        if self.kernel not in KERNELS:
            sizes = " or ".join(map(str, KERNELS))
            raise MorphismError(f"the kernel of a deeper morphism must be {sizes}, got {self.kernel}")
        if vertex.operation not in IDEMPOTENT:
            raise MorphismError(
                f"a deeper morphism must follow {' or '.join(IDEMPOTENT)}, which are idempotent, got {vertex.label}: "
                "choose another place"
            )
        if len(vertex.shape) != 3 or max(vertex.shape[1:]) == 1:
            raise MorphismError(
                f"a deeper morphism needs an image of several pixels, got shape {vertex.shape} from {vertex.label}: "
                "choose another place"
            )

    def edit(self, graph: Graph, rng: torch.Generator, noise: float) -> None:
        """Insert the layers; all readers of the activation read the new one."""
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
    """Widen the convolution at `place` to `channels` output channels, and every value that must have as many (Net2WiderNet).

    All convolutions that add to one residual stream are widened together.
    """

    place: Place
    channels: int

    def __str__(self) -> str:
        return f"wider {_text(self.place)} channels {self.channels}"

    def check(self, graph: Graph) -> None:
        """Raise `MorphismError` where the network does not allow it."""
        start = graph.at(self.place)
        if start.operation != "conv":
            raise MorphismError(f"only a convolution can be widened, got {start.label}: choose another place")
        if not POSITIVE.holds(self.channels) or self.channels <= start.shape[0]:
            raise MorphismError(
                f"a wider morphism needs more than the {start.shape[0]} channels of {start.label} and at most 65536, "
                f"got {self.channels}"
            )
        _widths(graph, start, tuple(i % start.shape[0] for i in range(self.channels)))

    def edit(self, graph: Graph, rng: torch.Generator, noise: float) -> None:
        """Copy random channels, and split the weights that read them."""
        start = graph.at(self.place)
        old = start.shape[0]
        extra = torch.randint(old, (self.channels - old,), generator=rng).tolist()
        widths = _widths(graph, start, (*range(old), *extra))
        for vertex in graph.vertices:
            written, read = widths[vertex], widths[vertex.inputs[0]]
            if written:
                index = torch.tensor(written)
                vertex.weights = {name: t[index] if t.dim() else t for name, t in vertex.weights.items()}
                vertex.resize(len(written))
            if read and vertex.mixes and vertex.weights:
                vertex.weights["weight"] = _split(vertex.weights["weight"], read, rng, noise)


@dataclass(frozen=True)
class Skip:
    """Join the output of `source` to the input of the convolution at `place` by `join`.

    "concat" appends channels, whose weights start at zero; "blend" is λ·first + (1 − λ)·second, where λ starts at 1.
    """

    place: Place
    source: Place
    join: str

    def __str__(self) -> str:
        return f"skip {_text(self.place)} from {_text(self.source)} {self.join}"

    def check(self, graph: Graph) -> None:
        """Raise `MorphismError` where the network does not allow it."""
        reader, source = graph.at(self.place), graph.at(self.source)
        if self.join not in JOINS:
            raise MorphismError(f"a skip must join by {' or '.join(JOINS)}, got {self.join!r}")
        if reader.operation != "conv" or (self.join == "concat" and reader.attributes["groups"] != 1):
            grouped = " of one group" if self.join == "concat" else ""
            raise MorphismError(f"a skip must end at a convolution{grouped}, got {reader.label}: choose another end")
        self._check_source(graph, source)
        before = reader.inputs[0]
        if source in graph.joined(before):
            raise MorphismError(
                f"a skip must start at a value that its end does not read, got {source.label} for {reader.label}: choose another start"
            )
        first = 1 if self.join == "concat" else 0
        if len(source.shape) != 3 or source.shape[first:] != before.shape[first:]:
            same = "height and width (no pool or stride between)" if self.join == "concat" else "shape"
            raise MorphismError(
                f"{self.join} needs values of one {same}, got {source.shape} and {before.shape}: choose another start"
            )

    def _check_source(self, graph: Graph, source: Vertex) -> None:
        if self.source >= self.place:
            raise MorphismError(f"a skip must go forward, got {self.source} to {self.place}: choose another start")
        if source is graph.blocks[self.source.block][-1]:
            return
        if self.source.block != self.place.block:
            raise MorphismError(
                f"other blocks can only read the last value of a block, got {source.label}: start at its last node"
            )
        if source.work in UNFINISHED:
            raise MorphismError(
                f"a skip must start at an activation, a pool, a join or the end of a block, got {source.label}: "
                "choose another start"
            )

    def edit(self, graph: Graph, rng: torch.Generator, noise: float) -> None:
        """Insert the join before the convolution, with weights that ignore the new value."""
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
PATTERNS = (
    re.compile(r"(?P<kind>deeper) (?P<place>\d+\.\d+) kernel (?P<kernel>\d+)"),
    re.compile(r"(?P<kind>wider) (?P<place>\d+\.\d+) channels (?P<channels>\d+)"),
    re.compile(r"(?P<kind>skip) (?P<place>\d+\.\d+) from (?P<source>\d+\.\d+) (?P<join>\w+)"),
)


def parse(text: object) -> Morphism:
    """Return the morphism that is written as a text. Raises `MorphismError`."""
    for pattern in PATTERNS:
        match = pattern.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            continue
        place = _place(match["place"])
        if match["kind"] == "deeper":
            return Deeper(place, int(match["kernel"]))
        if match["kind"] == "wider":
            return Wider(place, int(match["channels"]))
        return Skip(place, _place(match["source"]), match["join"])
    raise MorphismError(
        "a morphism is written as 'deeper 2.1 kernel 3', 'wider 2.0 channels 64' or 'skip 4.0 from 2.2 concat' (block.node), "
        f"got {text!r}: correct it"
    )


def _text(place: Place) -> str:
    return f"{place.block}.{place.node}"


def _place(text: str) -> Place:
    block, node = text.split(".")
    return Place(int(block), int(node))


def options(blueprint: Blueprint) -> dict[Morphism, str | None]:
    """Return every candidate morphism with the reason why the network does not allow it, None where it does.

    Candidates are `Deeper` at every node with the `KERNELS`, `Wider` at every convolution by the `FACTORS`, and `Skip` to
    every convolution from every earlier node of its block and the end of every earlier block.
    """
    graph = Graph(blueprint)
    reasons: dict[Morphism, str | None] = {}
    for morphism in _candidates(graph):
        try:
            morphism.check(graph)
            reasons[morphism] = None
        except MorphismError as error:
            reasons[morphism] = str(error)
    return reasons


def preview(blueprint: Blueprint, morphism: Morphism) -> Blueprint:
    """Return the blueprint after a morphism, without weights. Raises `MorphismError`."""
    graph = Graph(blueprint)
    morphism.check(graph)
    morphism.edit(graph, torch.Generator(), 0.0)
    return graph.blueprint()


def apply(network: Network, morphism: Morphism, rng: torch.Generator, noise: float = NOISE) -> Network:
    """Return a copy of a network after a morphism, on the same device and in the same precision. Raises `MorphismError`.

    rng: a generator of the CPU, which draws the copied channels and the noise. noise: how unevenly copies of a channel
    share its outgoing weights, in mean absolute weights; above 0 they get different gradients, at 0 they stay copies.
    """
    graph = Graph(network.blueprint, network)
    morphism.check(graph)
    morphism.edit(graph, rng, noise)
    return graph.network()


def draw(
    blueprint: Blueprint,
    rng: torch.Generator,
    n: int,
    fits: Callable[[Blueprint], bool] = lambda blueprint: True,
) -> list[Morphism]:
    """Return `n` random morphisms of a network, each of what the ones before it make; NASH makes its children with n = 5.

    The kind of each is drawn first, then one of that kind. fits: a condition on every intermediate blueprint, such as a bound
    on its costs. Raises `MorphismError` when none is left.
    """
    drawn = []
    for _ in range(n):
        drawn.append(_draw(blueprint, rng, fits))
        blueprint = preview(blueprint, drawn[-1])
    return drawn


def morph(
    network: Network,
    rng: torch.Generator,
    n: int,
    noise: float = NOISE,
    fits: Callable[[Blueprint], bool] = lambda blueprint: True,
) -> Network:
    """Return a copy of a network after `n` random morphisms; see `draw` and `apply`."""
    for morphism in draw(network.blueprint, rng, n, fits):
        network = apply(network, morphism, rng, noise)
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
        f"no morphism of this network of {len(blueprint.blocks)} blocks is allowed and fits: "
        "start from another network or relax the limits"
    )


def _candidates(graph: Graph) -> Iterator[Morphism]:
    ends: list[Place] = []
    for b, block in enumerate(graph.blocks):
        places = [Place(b, i) for i in range(len(block))]
        for place, vertex in zip(places, block, strict=True):
            yield from (Deeper(place, kernel) for kernel in KERNELS)
            if vertex.operation == "conv":
                yield from (Wider(place, vertex.shape[0] * factor) for factor in FACTORS)
                yield from (Skip(place, s, join) for s in ends + places[: place.node] for join in JOINS)
        ends.append(places[-1])


# -------------------------------------------------------------------------------------------- weights and channels


def _rectified(before: Vertex, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return mean and variance, (C,) each, of max(x, 0), where x is the output of the vertex before an activation.

    The output of a batch norm is taken as normal with mean β and deviation |γ|; for anything else, the result is 0 and 1.
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
    """Return the sources of every value's channels when `start` gets `sources`, None for a value that does not change.

    Raises `MorphismError` where a value that cannot be widened would have to be.
    """
    agreeing = _agreeing(graph, start)
    sources_of: dict[Vertex, Sources | None] = {graph.image: None}
    for vertex in graph.vertices:
        read = [sources_of[value] for value in vertex.inputs]
        if vertex in agreeing:
            sources_of[vertex] = sources
        elif vertex.mixes or not any(read):
            sources_of[vertex] = None
        else:
            sources_of[vertex] = _propagated(vertex, read, start)
    last = graph.blocks[-1][-1]
    if sources_of[last]:
        raise MorphismError(f"the number of classes cannot change, got {start.label}, which writes them: widen another")
    return sources_of


def _agreeing(graph: Graph, start: Vertex) -> set[Vertex]:
    """Return the values that must have the same channels as `start`, because operations that keep channels connect them."""
    agreeing: set[Vertex] = set()
    todo = [start]
    while todo:
        vertex = todo.pop()
        if vertex in agreeing:
            continue
        agreeing.add(vertex)
        if vertex.keeps:
            todo.extend(vertex.inputs)
        elif not vertex.mixes:
            raise MorphismError(
                f"only convolutions of one group can be widened, got {vertex.label} among the values that widen with "
                f"{start.label}: widen another"
            )
        todo.extend(reader for reader in graph.readers[vertex] if reader.keeps)
    return agreeing


def _propagated(vertex: Vertex, read: list[Sources | None], start: Vertex) -> Sources:
    """Return the sources of a vertex's channels, from those of the values that it reads, some of which are widened."""
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
        f"a widened value can only be read by operations that mix or keep its channels, got {vertex.label} behind "
        f"{start.label}: widen another"
    )


def _split(weight: Tensor, sources: Sources, rng: torch.Generator, noise: float) -> Tensor:
    """Return (out, n, …) weights that map n copied channels to what the (out, C, …) `weight` maps the C old ones to.

    Each copy carries its share: U2[j] = W2[g(j)] / count(g(j)) (Chen, Goodfellow, Shlens 2016, "Net2Net"). The
    noise on the copies of a channel sums to zero, so that no amount of it changes the network's function.
    """
    g = torch.tensor(sources)  # (n,)
    count = torch.bincount(g).to(weight.dtype).reshape(-1, *[1] * (weight.dim() - 2))  # (C, 1, 1)
    share = (weight / count)[:, g]
    drawn = torch.randn(share.shape, generator=rng, dtype=weight.dtype) * (noise * weight.abs().mean())
    mean = torch.zeros_like(weight).index_add_(1, g, drawn) / count
    return share + (drawn - mean[:, g])
