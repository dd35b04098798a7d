"""What an operation of a network is. Shapes are without the batch: (C, H, W) or (F,)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from jointnas.errors import BlueprintError
from jointnas.units import is_finite

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, ...]
Attribute = int | float | str | bool


@dataclass(frozen=True)
class Node:
    """One use of an operation in a network: the values it reads and its attributes, sorted by name."""

    operation: str
    inputs: tuple[int, ...]
    attributes: tuple[tuple[str, Attribute], ...] = ()

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or `default` where the node does not have it."""
        for key, value in self.attributes:
            if key == name:
                return value
        return default


class AttributeType(NamedTuple):
    """The values that an attribute may take."""

    description: str
    holds: Callable[[object], bool]


def is_whole(value: object) -> bool:
    """Return whether a value is an integer; booleans are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(low: int, high: int) -> AttributeType:
    description = f"a whole number from {low} to {high}"
    return AttributeType(description, lambda v: is_whole(v) and low <= int(str(v)) <= high)


POSITIVE, NATURAL = _whole(1, 65536), _whole(0, 65536)
FLAG = AttributeType("true or false", lambda v: isinstance(v, bool))
REAL = AttributeType("a finite number", is_finite)
WORD = AttributeType("a word", lambda v: isinstance(v, str))


class NodeCost(NamedTuple):
    """What a node costs for one image. Numbers, not bytes: `cost` knows their bits."""

    macs: int = 0  # multiply–accumulates; biases are not counted
    trained: int = 0  # stored numbers that training changes
    weights: int = 0  # those of them that a quantiser may pack
    fixed: int = 0  # stored numbers that it does not: running statistics, a whitening filter
    activations: int = 0  # values that convolutions and linear layers write
    inner: int = 0  # values alive inside the node beyond what it reads and writes


class Channels(Enum):
    """How the channels that an operation writes follow from those that it reads."""

    MIXED = "each reads all channels; in a depthwise convolution, its own"
    KEPT = "each reads the same channel of every input"
    CONCATENATED = "the inputs' channels in a row"
    FLATTENED = "each channel becomes its pixels"
    OTHER = "in some other way"


class Work(StrEnum):
    """Kinds of work: forecasts of time and memory have a coefficient for each, in this order."""

    POINTWISE = "pointwise"  # convolutions with a 1×1 kernel
    GROUPED = "grouped"  # convolutions in groups
    SPATIAL = "spatial"  # other convolutions
    LINEAR = "linear"
    NORM = "norm"
    SIMPLE = "simple"  # one pass over the values
    CURVED = "curved"  # one pass with an exponential
    POOL = "pool"
    RESIZE = "resize"
    VIEW = "view"  # no pass over the values
    OPAQUE = "opaque"


def _free(node: Node, source: Shape, output: Shape) -> NodeCost:
    return NodeCost()


@dataclass(frozen=True, kw_only=True)
class Operation:
    """All that the program knows of an operation. Functions are given a node and the shape of the first value it reads.

    layer: returns the `nn.Module`; its first argument is the module `jointnas.network.layers`, which is passed in because
    importing it imports PyTorch.
    """

    shape: Callable[[Node, Sequence[Shape]], Shape]  # of the output, from those of all inputs; raises BlueprintError
    layer: Callable[[Any, Node, Shape], nn.Module]
    work: Work | Callable[[Node], Work]
    cost: Callable[[Node, Shape, Shape], NodeCost] = _free  # from the shapes of the first input and of the output
    attributes: Mapping[str, AttributeType] = field(default_factory=dict)
    optional: Mapping[str, AttributeType] = field(default_factory=dict)
    inputs: tuple[int, int] = (1, 1)  # the fewest and the most values that a node reads
    channels: Channels = Channels.OTHER
    width: str | None = None  # the attribute that sets how many channels are written
    idempotent: bool = False  # whether applying it twice equals applying it once

    def work_of(self, node: Node) -> Work:
        """Return the kind of work that a node does."""
        return self.work if isinstance(self.work, Work) else self.work(node)


def image_shape(node: Node, shape: Shape) -> tuple[int, int, int]:
    """Return the shape of an image. Raises `BlueprintError` for a vector."""
    if len(shape) != 3:
        raise BlueprintError(
            f"{node.operation} needs an image (C, H, W), got shape {shape}: place it before the image is flattened"
        )
    return shape[0], shape[1], shape[2]


def window_count(node: Node, size: int) -> int:
    """Return how many windows of a convolution or a pool fit along a side. Raises `BlueprintError` for none."""
    count = (size + 2 * int(node.get("padding", 0)) - int(node.get("kernel"))) // int(node.get("stride")) + 1
    if count < 1:
        raise BlueprintError(
            f"{node.operation} with kernel {node.get('kernel')} does not fit an image side of {size}: "
            "raise the resolution or choose a network that shrinks images less"
        )
    return count


def same_shape(node: Node, shapes: Sequence[Shape]) -> Shape:
    """Return the shape of the first value that is read."""
    return shapes[0]
