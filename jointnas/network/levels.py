"""Levels of weights of few bits: projection on them, the proximal map between them, and packed files.

A level is a whole code times a scale. Uniform levels of b bits have the odd codes from 1 − 2^b to 2^b − 1, which are ±1 for one bit, so no
level is zero; of 8 bits they have all codes from −127 to 127. Powers of two have the codes 0, ±1, ±2, ±4 …: ternary for two bits.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from jointnas.network.operations.packing import POWERS_OF_TWO, TENSOR, UNIFORM, Packing

FIRST_SCALES = {
    (1, UNIFORM): 0.798, (2, UNIFORM): 0.4989, (3, UNIFORM): 0.2921, (4, UNIFORM): 0.167, (5, UNIFORM): 0.0938,
    (6, UNIFORM): 0.05144, (7, UNIFORM): 0.02755, (8, UNIFORM): 0.02855,
    (2, POWERS_OF_TWO): 1.2246, (3, POWERS_OF_TWO): 0.517, (4, POWERS_OF_TWO): 0.06448,
}  # fmt: skip
"""By bits and levels: the scale whose levels have the least squared error for normal weights of deviation 1."""

SMALLEST_SCALE = 1e-8


@cache
def codes_of(bits: int, levels: str) -> tuple[int, ...]:
    """Return the codes of the levels, in ascending order; at most 2^bits."""
    if bits == 1:
        return (-1, 1)
    if levels == POWERS_OF_TWO:
        powers = [2**k for k in range(2 ** (bits - 1) - 1)]
        return (*(-p for p in reversed(powers)), 0, *powers)
    if bits == 8:
        return tuple(range(-127, 128))
    return tuple(range(1 - 2**bits, 2**bits, 2))


class Levels:
    """The levels of one layer's weights. Weights are viewed as (groups, n), where each group has a scale."""

    def __init__(self, packing: Packing, device: torch.device | str = "cpu") -> None:
        self.packing = packing
        self._first_scale = FIRST_SCALES[packing.bits, UNIFORM if packing.bits == 1 else packing.levels]
        self.codes = torch.tensor(codes_of(packing.bits, packing.levels), dtype=torch.float32, device=device)
        self.middles = (self.codes[1:] + self.codes[:-1]) / 2

    def rows(self, weights: Tensor) -> Tensor:
        """Return (groups, n) weights of (channels, …) ones."""
        return weights.reshape(1, -1) if self.packing.scales == TENSOR else weights.reshape(len(weights), -1)

    def first_scales(self, weights: Tensor) -> Tensor:
        """Return (groups,) scales that fit normal weights of the same deviation."""
        rows = self.rows(weights)
        return (rows.square().mean(dim=1).sqrt() * self._first_scale).clamp_min(SMALLEST_SCALE)

    def fitted_scales(self, weights: Tensor, scales: Tensor) -> Tensor:
        """Return (groups,) scales of least squares for the levels that `scales` give to the weights.

        Weights that are on levels keep their scales. For one bit the scale is the mean absolute weight.
        """
        rows = self.rows(weights)
        codes = self.codes[torch.bucketize(rows / scales[:, None], self.middles)]
        products, squares = (rows * codes).sum(dim=1), codes.square().sum(dim=1)
        fitted = torch.where(squares > 0, products / squares.clamp_min(1), scales)
        return fitted.clamp_min(SMALLEST_SCALE)

    def indices(self, weights: Tensor, scales: Tensor) -> Tensor:
        """Return (groups, n) numbers of the nearest levels, from 0 on."""
        return torch.bucketize(self.rows(weights) / scales[:, None], self.middles)

    def projected(self, weights: Tensor, scales: Tensor) -> Tensor:
        """Return the nearest level of each weight."""
        return (self.codes[self.indices(weights, scales)] * scales[:, None]).reshape(weights.shape)

    def proximal(self, weights: Tensor, scales: Tensor, rho: float, varrho: float, clip: bool = True) -> Tensor:
        """Return the map L_ρ^ϱ of Dockhorn et al. 2021 between neighbouring levels, where ρ and ϱ are in half their distance.

        Weights up to ρ from a level are on it; from there the map grows linearly, and ends ϱ before the middle. With 0 and 0 it changes
        nothing inside the range of the levels; with ρ or ϱ of 1 it is the projection. Weights outside of the range are on the last level;
        without `clip` they move towards it by the larger share of ρ and ϱ.
        """
        if rho >= 1 or varrho >= 1:
            return self.projected(weights, scales)
        units = self.rows(weights) / scales[:, None]
        nearest = torch.bucketize(units, self.middles)
        level = self.codes[nearest]
        offset = units - level
        neighbour = nearest + torch.sign(offset).long()
        inside = (neighbour >= 0) & (neighbour < len(self.codes))
        half = (self.codes[neighbour.clamp(0, len(self.codes) - 1)] - level).abs() / 2
        distance = torch.where(inside, offset.abs() / half.clamp_min(0.5), 0.0)
        moved = torch.sign(offset) * half * (1 - varrho) * (distance - rho).clamp_min(0) / (1 - rho)
        if not clip:
            moved = torch.where(inside, moved, offset * (1 - max(rho, varrho)))
        return ((level + moved) * scales[:, None]).reshape(weights.shape)


def pack(levels: Levels, weights: Tensor, scales: Tensor) -> Tensor:
    """Return the uint8 bytes of weights that are on their levels, `bits` bits each, the lowest first."""
    bits = levels.packing.bits
    indices = levels.indices(weights, scales).flatten().cpu().numpy().astype(np.uint8)
    return torch.from_numpy(np.packbits((indices[:, None] >> np.arange(bits, dtype=np.uint8)) & 1, bitorder="little"))


def unpack(levels: Levels, packed: Tensor, scales: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the weights that `pack` packed. Raises `ValueError` for other numbers of bytes, or codes that have no level."""
    bits, count = levels.packing.bits, int(np.prod(shape))
    if packed.dtype != torch.uint8 or packed.shape != (-(-count * bits // 8),):
        raise ValueError(f"{count} weights of {bits} bits in {tuple(packed.shape)} values of {packed.dtype}")
    flat = np.unpackbits(packed.numpy(), count=count * bits, bitorder="little").reshape(count, bits)
    indices = np.zeros(count, dtype=np.uint8)
    for place in range(bits):
        indices |= flat[:, place] << place
    if count and indices.max() >= len(levels.codes):
        raise ValueError(f"a code {indices.max()} of {len(levels.codes)} levels")
    rows = levels.codes[torch.from_numpy(indices).int()].reshape(len(scales), -1)
    return (rows * scales[:, None]).reshape(shape)
