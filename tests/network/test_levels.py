"""Levels of weights of few bits: projection, the proximal map, packing."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri
from torch import Tensor

from jointnas.network.levels import FIRST_SCALES, Levels, codes_of, pack, unpack
from jointnas.network.operations.packing import Packing

KINDS = [
    Packing(bits, levels, scales)
    for bits, levels, scales in product((1, 2, 3, 4, 8), ("uniform", "powers-of-two"), ("channel", "tensor"))
    if levels == "uniform" or bits <= 4
]
kinds = pytest.mark.parametrize("packing", KINDS, ids=lambda p: f"{p.bits}-{p.levels}-{p.scales}")


def weights(seed: int = 0, shape: tuple[int, ...] = (6, 5, 3, 3)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fitted(packing: Packing, w: Tensor) -> tuple[Levels, Tensor]:
    levels = Levels(packing)
    return levels, levels.fitted_scales(w, levels.first_scales(w))


@pytest.mark.parametrize(("kind", "scale"), FIRST_SCALES.items(), ids=lambda own: str(own))
def test_a_first_scale_has_the_least_squared_error_for_normal_weights(kind: tuple[int, str], scale: float) -> None:
    x = ndtri((np.arange(4001) + 0.5) / 4001)
    codes = np.array(codes_of(*kind), dtype=np.float64)
    middles = (codes[1:] + codes[:-1]) / 2

    def error(own: float) -> float:
        return float(np.square(x - own * codes[np.searchsorted(middles, x / own)]).mean())

    assert error(scale) <= 1.001 * min(error(factor * scale) for factor in np.geomspace(0.5, 2, 400))


@pytest.mark.parametrize(
    ("bits", "levels", "expected"),
    [
        (1, "uniform", (-1, 1)),
        (1, "powers-of-two", (-1, 1)),
        (2, "uniform", (-3, -1, 1, 3)),
        (2, "powers-of-two", (-1, 0, 1)),
        (3, "powers-of-two", (-4, -2, -1, 0, 1, 2, 4)),
    ],
)
def test_codes_are_odd_numbers_or_zero_and_powers_of_two(bits: int, levels: str, expected: tuple[int, ...]) -> None:
    assert codes_of(bits, levels) == expected


@kinds
def test_codes_fit_their_bits_and_eight_bits_of_onnx(packing: Packing) -> None:
    codes = codes_of(packing.bits, packing.levels)
    assert len(codes) <= 2**packing.bits
    assert max(codes) == -min(codes) <= 127
    assert list(codes) == sorted(codes)


@kinds
def test_the_projection_takes_the_nearest_level_of_all(packing: Packing) -> None:
    w = weights()
    levels, scales = fitted(packing, w)
    rows, own = levels.rows(w), levels.rows(levels.projected(w, scales))
    every = levels.codes[None, :] * scales[:, None]
    distances = (rows[:, :, None] - every[:, None, :]).abs()
    assert torch.allclose((rows - own).abs(), distances.amin(dim=2), atol=1e-6)


@kinds
def test_weights_on_their_levels_keep_levels_and_scales(packing: Packing) -> None:
    w = weights()
    levels, scales = fitted(packing, w)
    on = levels.projected(w, scales)
    assert torch.allclose(levels.fitted_scales(on, scales), scales, rtol=1e-5)
    assert torch.equal(levels.projected(on, scales), on)


def test_the_scale_of_one_bit_is_the_mean_absolute_weight() -> None:
    w = weights()
    _, scales = fitted(Packing(1, "uniform", "channel"), w)
    assert torch.allclose(scales, w.abs().mean(dim=(1, 2, 3)))


@kinds
def test_more_passes_of_fitting_never_raise_the_squared_error(packing: Packing) -> None:
    w = weights(1, (4, 200))
    levels = Levels(packing)
    scales, errors = levels.first_scales(w), []
    for _ in range(5):
        scales = levels.fitted_scales(w, scales)
        errors.append(float((levels.projected(w, scales) - w).square().sum()))
    assert errors == sorted(errors, reverse=True) or max(errors) - min(errors) < 1e-4


def test_weights_of_zero_give_no_numbers_that_are_not_finite() -> None:
    for packing in KINDS:
        levels, scales = fitted(packing, torch.zeros(3, 4))
        assert torch.isfinite(levels.proximal(torch.zeros(3, 4), scales, 0.3, 0.2)).all()


# ---------------------------------------------------------------------------------------------------- the proximal map


def formula(w: float, codes: list[float], rho: float, varrho: float) -> float:
    """The map as published, one weight at a time; ρ and ϱ in half distances of levels."""
    if w <= codes[0]:
        return codes[0]
    for low, high in pairwise(codes):
        if low <= w <= high:
            half, p = (high - low) / 2, (low + high) / 2
            r, v = rho * half, varrho * half
            flat_until, flat_from = min(p, low + r), max(p, high - r)
            before, after = max(low, p - v), min(high, p + v)
            if w <= flat_until:
                return low
            if w >= flat_from:
                return high
            if w < p:
                return low + (before - low) * (w - flat_until) / (p - flat_until)
            return after + (high - after) * (w - p) / (flat_from - p)
    return codes[-1]


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    rho=st.floats(0, 0.99),
    varrho=st.floats(0, 0.99),
    values=st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=20),
)
def test_the_map_is_the_published_formula(kind: Packing, rho: float, varrho: float, values: list[float]) -> None:
    levels = Levels(kind._replace(scales="tensor"))
    scale = 0.25
    own = levels.proximal(torch.tensor([values]), torch.tensor([scale]), rho, varrho)[0].tolist()
    codes = [scale * c for c in codes_of(kind.bits, kind.levels)]
    for value, got in zip(values, own, strict=True):
        around = {formula(value + d, codes, rho, varrho) for d in (-1e-5, 0.0, 1e-5)}  # it jumps in the middle
        assert min(around) - 1e-3 <= got <= max(around) + 1e-3


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(KINDS), rho=st.floats(0, 1), varrho=st.floats(0, 1))
def test_the_map_is_monotone(kind: Packing, rho: float, varrho: float) -> None:
    w = torch.linspace(-2, 2, 1001)[None]
    levels, scales = Levels(kind._replace(scales="tensor")), torch.tensor([0.2])
    assert (levels.proximal(w, scales, rho, varrho).diff() >= -1e-6).all()


@kinds
def test_without_rho_and_varrho_the_map_changes_nothing_inside_the_range(packing: Packing) -> None:
    w = weights()
    levels, scales = fitted(packing, w)
    own, ends = levels.proximal(w, scales, 0.0, 0.0), levels.codes[-1] * scales
    limit = (ends if packing.scales == "tensor" else ends[:, None, None, None]).expand_as(w)
    assert torch.allclose(own, torch.minimum(torch.maximum(w, -limit), limit), atol=1e-6)


@kinds
@pytest.mark.parametrize(("rho", "varrho"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.3, 1.0)])
def test_with_a_large_rho_or_varrho_the_map_is_the_projection(packing: Packing, rho: float, varrho: float) -> None:
    w = weights()
    levels, scales = fitted(packing, w)
    assert torch.equal(levels.proximal(w, scales, rho, varrho), levels.projected(w, scales))


@kinds
@pytest.mark.parametrize(("rho", "varrho"), [(0.9999, 0.0), (0.0, 0.9999)])
def test_just_below_the_map_is_nearly_the_projection(packing: Packing, rho: float, varrho: float) -> None:
    w = weights(shape=(2, 300))
    levels, scales = fitted(packing, w)
    gap = (levels.proximal(w, scales, rho, varrho) - levels.projected(w, scales)).abs()
    assert (gap < 0.01 * scales.max()).float().mean() > 0.98


# -------------------------------------------------------------------------------------------------------------- packing


@kinds
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 3, 3, 3), (10, 33)])
def test_packed_weights_come_back_bit_for_bit(packing: Packing, shape: tuple[int, ...]) -> None:
    w = weights(2, shape)
    levels, scales = fitted(packing, w)
    on = levels.projected(w, scales)
    packed = pack(levels, on, scales)
    assert len(packed) == -(-on.numel() * packing.bits // 8)
    assert torch.equal(unpack(levels, packed, scales, shape), on)


def test_packed_bytes_of_another_size_or_with_codes_without_a_level_are_refused() -> None:
    levels = Levels(Packing(2, "powers-of-two", "tensor"))
    with pytest.raises(ValueError, match="4 weights of 2 bits"):
        unpack(levels, torch.zeros(2, dtype=torch.uint8), torch.ones(1), (2, 2))
    with pytest.raises(ValueError, match="a code 3 of 3 levels"):
        unpack(levels, torch.full((1,), 255, dtype=torch.uint8), torch.ones(1), (2, 2))
