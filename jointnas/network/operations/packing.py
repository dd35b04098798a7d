"""The attributes of a layer whose weights have few bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from jointnas.errors import BlueprintError
from jointnas.network.operations.operation import AttributeType, Node, is_whole

UNIFORM, POWERS_OF_TWO = LEVELS = ("uniform", "powers-of-two")
CHANNEL, TENSOR = SCALES = ("channel", "tensor")
MOST_BITS = 8  # of a weight
MOST_BITS_OF_POWERS = 4  # more would be powers that no code of 8 bits holds
ACTIVATION_BITS = 8
PACKABLE = ("conv", "linear")
"""The operations whose weights may have few bits."""


class Packing(NamedTuple):
    """How a layer's weights are stored: whole codes of `bits` bits, times one scale for each output channel or for the tensor.

    activation_bits: 8 where the layer reads 8 bits, None where it reads floats.
    """

    bits: int
    levels: str
    scales: str
    activation_bits: int | None = None

    @classmethod
    def of(cls, node: Node) -> Packing | None:
        """Return that of a node, None for floats. Raises `BlueprintError` for levels that these bits do not have."""
        bits, levels, scales = (node.get(name) for name in ("bits", "levels", "scales"))
        activation_bits = node.get("activation_bits")
        if bits is None and levels is None and scales is None and activation_bits is None:
            return None
        if bits is None or levels is None or scales is None:
            raise BlueprintError(
                f"a {node.operation} of few bits has bits, levels and scales, got {dict(node.attributes)}: export it again"
            )
        if levels == POWERS_OF_TWO and bits > MOST_BITS_OF_POWERS:
            raise BlueprintError(
                f"powers of two have at most {MOST_BITS_OF_POWERS} bits, got {bits}: lower the bits or choose uniform levels"
            )
        return cls(bits, levels, scales, activation_bits)

    def attributes(self) -> dict[str, int | str]:
        """Return the attributes of a node with this packing."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    def scale_count(self, channels: int) -> int:
        """Return how many scales a layer with so many output channels has."""
        return channels if self.scales == CHANNEL else 1


def _one_of(words: tuple[str, ...]) -> AttributeType:
    return AttributeType(" or ".join(words), lambda v: v in words)


ATTRIBUTES: Mapping[str, AttributeType] = {
    "bits": AttributeType(
        f"a whole number from 1 to {MOST_BITS}", lambda v: is_whole(v) and 1 <= int(str(v)) <= MOST_BITS
    ),
    "levels": _one_of(LEVELS),
    "scales": _one_of(SCALES),
    "activation_bits": AttributeType(f"{ACTIVATION_BITS}", lambda v: is_whole(v) and int(str(v)) == ACTIVATION_BITS),
}
"""The optional attributes of `PACKABLE` operations."""
