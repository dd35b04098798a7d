"""Schedules: each against its closed form or torch's own, where they jump and where they do not, and the images' size."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LRScheduler, OneCycleLR

from jointnas.network.families import make_blueprint
from jointnas.network.module import build
from jointnas.training.recipe import SCHEDULES, Recipe
from jointnas.training.schedules import learning_rate_factor, smallest_side, training_side

GRID = [i / 1000 for i in range(1001)]


def factors(fractions: list[float], **knobs: object) -> list[float]:
    recipe = Recipe.from_knobs(knobs)
    return [learning_rate_factor(recipe, fraction) for fraction in fractions]


def torchs_rates(scheduler: LRScheduler, steps: int) -> list[float]:
    """Return the rates that a scheduler of torch gives an optimizer in each of so many steps."""
    rates = []
    for _ in range(steps):
        rates.append(float(scheduler.get_last_lr()[0]))
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def an_optimizer() -> SGD:
    return SGD([torch.zeros(1, requires_grad=True)], lr=1.0)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", {0.0: 0.0, 0.1: 0.5, 0.2: 1.0, 0.4: 0.75, 0.6: 0.5, 1.0: 0.0}),
        ("cosine", {0.0: 0.0, 0.1: 0.5, 0.2: 1.0, 0.4: (1 + math.sqrt(0.5)) / 2, 0.6: 0.5, 1.0: 0.0}),
        ("one-cycle", {0.0: 0.04, 0.1: 0.52, 0.2: 1.0, 0.6: (1 + 4e-6) / 2, 1.0: 4e-6}),
        ("piecewise", {0.0: 0.0, 0.1: 0.5, 0.2: 1.0, 0.4: 0.775, 0.6: 0.55, 1.0: 0.1}),
        ("sgdr", {0.0: 0.0, 0.1: 0.5, 0.2: 1.0, 1 / 3: 0.5, 0.2 + 0.8 / 3: 1.0, 1 - 0.8 / 3: 0.5, 1.0: 0.0}),
    ],
)
def test_a_schedule_has_its_closed_form(schedule: str, expected: dict[float, float]) -> None:
    rates = factors(list(expected), schedule=schedule, warmup=0.2)  # sgdr: two cycles, the second twice as long
    assert rates == pytest.approx(list(expected.values()), abs=1e-12)


@pytest.mark.parametrize("peak", [3, 30, 60])
def test_one_cycle_is_torchs(peak: int) -> None:
    steps = 101
    twin = OneCycleLR(an_optimizer(), 1.0, total_steps=steps, pct_start=(peak + 1) / steps, cycle_momentum=False)
    rates = factors([i / 100 for i in range(steps)], schedule="one-cycle", warmup=peak / 100)
    assert rates[:-1] == pytest.approx(torchs_rates(twin, steps - 1), abs=1e-12)
    assert rates[-1] == pytest.approx(1 / 25 / 10_000)


@pytest.mark.parametrize(("cycles", "growth"), [(1, 1), (4, 1), (2, 2), (3, 2), (3, 3)])
def test_sgdr_is_torchs_where_its_cycles_are_whole_steps(cycles: int, growth: int) -> None:
    first = 10
    steps = first * sum(growth**i for i in range(cycles))
    twin = CosineAnnealingWarmRestarts(an_optimizer(), T_0=first, T_mult=growth)
    rates = factors(
        [i / steps for i in range(steps)], schedule="sgdr", warmup=0.0, cycles=cycles, cycle_growth=float(growth)
    )
    assert rates == pytest.approx(torchs_rates(twin, steps), abs=1e-9)


def test_one_cycle_of_sgdr_is_the_cosine() -> None:
    for warmup in (0.0, 0.1):
        assert factors(GRID, schedule="sgdr", cycles=1, warmup=warmup) == factors(
            GRID, schedule="cosine", warmup=warmup
        )


@pytest.mark.parametrize(("cycles", "growth"), [(2, 2.0), (3, 1.0), (3, 1.5), (5, 4.0)])
def test_sgdr_restarts_from_the_peak_after_each_cycle_and_nowhere_else(cycles: int, growth: float) -> None:
    knobs = {"schedule": "sgdr", "cycles": cycles, "cycle_growth": growth, "warmup": 0.1}
    lengths = [growth**i for i in range(cycles)]
    ends = [0.1 + 0.9 * sum(lengths[: i + 1]) / sum(lengths) for i in range(cycles)]
    for end in ends[:-1]:
        before, after = factors([end - 1e-9, end + 1e-9], **knobs)
        assert (before, after) == pytest.approx((0, 1), abs=1e-6)
    fine = [0.1 + 0.9 * i / 20_000 for i in range(20_001)]
    rates = factors(fine, **knobs)
    assert sum(b > a for a, b in pairwise(rates)) == cycles - 1


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("schedule", [s for s in SCHEDULES if s != "sgdr"])
def test_a_schedule_rises_to_its_peak_at_the_warmups_end_and_then_falls_without_a_jump(
    schedule: str, warmup: float
) -> None:
    rates = factors(GRID, schedule=schedule, warmup=warmup)
    peak = round(1000 * warmup)
    assert rates[peak] == 1 == max(rates)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    steepest = math.pi / 2 / min(share for share in (warmup, 1 - warmup) if share)
    assert all(abs(a - b) <= steepest / 1000 + 1e-9 for a, b in pairwise(rates))


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.37, 0.9])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_factor_is_a_share_of_the_peak(schedule: str, warmup: float) -> None:
    rates = factors(GRID, schedule=schedule, warmup=warmup, cycles=3, cycle_growth=1.7)
    assert all(0 <= factor <= 1 for factor in rates)
    assert max(rates) > 0.99


# ------------------------------------------------------------------------------------------------------ progressive sizes


@pytest.mark.parametrize("side", [17, 24, 32, 33, 64, 224])
@pytest.mark.parametrize("start", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("until", [0.05, 0.5, 1.0])
def test_training_images_grow_on_a_grid_of_4_pixels_from_16_on_to_their_full_side(
    side: int, start: float, until: float
) -> None:
    recipe = Recipe(start_resolution=start, resize_until=until)
    sides = [training_side(recipe, fraction, side) for fraction in GRID]
    assert sides == sorted(sides)
    assert all(s == side or (s % 4 == 0 and 16 <= s < side) for s in sides)
    assert {s for fraction, s in zip(GRID, sides, strict=True) if fraction >= until} == {side}
    assert abs(sides[0] - max(16, start * side)) <= 2
    for fraction, actual in zip(GRID, sides, strict=True):
        if fraction < until:
            exact = side * (start + (1 - start) * fraction / until)
            assert abs(actual - max(16, exact)) <= 2


@pytest.mark.parametrize("side", [1, 8, 16])
def test_images_of_16_pixels_or_fewer_keep_their_size(side: int) -> None:
    recipe = Recipe(start_resolution=0.25, resize_until=1.0)
    assert {training_side(recipe, fraction, side) for fraction in GRID} == {side}


@pytest.mark.parametrize(
    ("knobs", "side", "smallest"),
    [
        ({"network": "classic", "name": "vgg16"}, 32, 32),  # five poolings
        ({"network": "classic", "name": "lenet"}, 32, 32),  # a linear layer reads all pixels
        ({"network": "classic", "name": "mobilenet_v1"}, 32, 16),
        ({"network": "resnet9", "width": 4, "resolution": 0.5}, 64, 16),
    ],
)
def test_images_are_never_smaller_than_a_network_can_read(knobs: dict[str, Any], side: int, smallest: int) -> None:
    network = make_blueprint(knobs, (3, side, side), 10)
    own = build(network, torch.Generator().manual_seed(0)).eval()
    size = own.resize.size
    assert smallest_side(network, size) == smallest
    recipe = Recipe(start_resolution=0.25, resize_until=1.0)
    own.resize.size = (training_side(recipe, 0.0, size[0], smallest),) * 2
    assert own(torch.zeros(1, 3, side, side)).shape == (1, 10)


def test_without_progressive_resizing_images_are_full_sized_from_the_start() -> None:
    assert {training_side(Recipe(start_resolution=1.0, resize_until=1.0), fraction, 33) for fraction in GRID} == {33}
