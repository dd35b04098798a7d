"""Clocks: fractions never fall, a wall clock stops before its reserve, and a step clock counts steps."""

from itertools import pairwise

import numpy as np
import pytest

from jointnas.errors import BudgetError
from jointnas.training.clock import StepClock, WallClock, clock_from_json


class Hand:
    """A clock's hand that the test moves."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def run(clock: WallClock, hand: Hand, durations: list[float]) -> tuple[int, list[float]]:
    """Step with these durations, the last one for ever; return the steps and the fractions before each."""
    fractions: list[float] = []
    steps = 0
    while clock.may_step():
        fractions.append(clock.fraction())
        hand.time += durations[min(steps, len(durations) - 1)]
        clock.stepped()
        steps += 1
    return steps, fractions


def test_a_step_clock_gives_the_share_of_steps_done() -> None:
    clock = StepClock(4)
    clock.start()
    fractions = [clock.fraction()]
    while clock.may_step():
        clock.stepped()
        fractions.append(clock.fraction())
    assert fractions == [0, 0.25, 0.5, 0.75, 1]


def test_a_step_clock_starts_again_at_zero_and_keeps_no_time_for_scoring() -> None:
    clock = StepClock(3)
    clock.reserve(1e9)
    clock.stepped()
    clock.start()
    assert clock.fraction() == 0
    assert clock.may_step()


@pytest.mark.parametrize("reserve", [0.0, 1.5])
@pytest.mark.parametrize("step", [0.0625, 0.75])
def test_steps_of_one_length_end_in_the_last_step_before_the_reserve(step: float, reserve: float) -> None:
    hand = Hand()
    clock = WallClock(10, now=hand)
    clock.start()
    clock.reserve(reserve)
    steps, fractions = run(clock, hand, [step])
    assert steps == int((10 - reserve) / step)
    assert 10 - reserve - step < clock.seconds() <= 10 - reserve
    assert fractions[0] == 0
    assert fractions[-1] == pytest.approx(1, abs=step / (10 - reserve - step))


def test_the_fraction_never_falls_nor_passes_one_whatever_the_steps_take() -> None:
    durations = np.random.default_rng(0).exponential(0.2, 200).tolist()
    hand = Hand()
    clock = WallClock(8, now=hand)
    clock.start()
    _, fractions = run(clock, hand, durations)
    hand.time += 100
    fractions.append(clock.fraction())
    assert all(a <= b for a, b in pairwise(fractions))
    assert min(fractions) == 0
    assert max(fractions) == 1


def test_the_fraction_does_not_fall_when_the_reserve_shrinks() -> None:
    hand = Hand()
    clock = WallClock(10, now=hand)
    clock.start()
    clock.reserve(5)
    hand.time += 2.5
    assert clock.fraction() == 0.5
    clock.reserve(0)
    assert clock.fraction() == 0.5


def test_steps_that_get_no_slower_never_exceed_the_budget() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        durations = sorted(rng.exponential(0.3, 100).clip(0.01, 4).tolist(), reverse=True)
        hand = Hand()
        clock = WallClock(5, now=hand)
        clock.start()
        clock.reserve(0.5)
        run(clock, hand, durations)
        assert clock.seconds() <= 4.5


def test_a_slow_step_counts_at_once_and_is_forgotten_by_a_hundredth_a_step() -> None:
    hand = Hand()
    clock = WallClock(100, now=hand)
    clock.start()
    steps, _ = run(clock, hand, [20.0, 2.3])
    expected, estimate, time = 1, 20.0, 20.0
    while time + estimate <= 100:
        time, estimate, expected = time + 2.3, 0.99 * estimate + 0.01 * 2.3, expected + 1
    assert steps == expected
    assert 2 < steps < 1 + 80 / 2.3  # what would fit if the slow one were forgotten


def test_seconds_are_a_share_of_a_budget_of_seconds_alone() -> None:
    assert WallClock(8.0).share_of(2.0) == 0.25
    assert StepClock(8).share_of(2.0) == 0


def test_starting_again_forgets_the_steps_and_the_time() -> None:
    hand = Hand()
    clock = WallClock(1, now=hand)
    hand.time += 5
    clock.start()
    assert run(clock, hand, [0.25])[0] == 4
    clock.start()
    assert clock.seconds() == 0
    assert clock.fraction() == 0
    assert clock.may_step()


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_wall_clock_without_time_is_refused(seconds: float) -> None:
    with pytest.raises(BudgetError, match="--train-time"):
        WallClock(seconds)


@pytest.mark.parametrize("steps", [0, -3])
def test_a_step_clock_without_steps_is_refused(steps: int) -> None:
    with pytest.raises(BudgetError, match="--train-steps"):
        StepClock(steps)


def test_clocks_survive_json() -> None:
    steps, wall = clock_from_json(StepClock(7).to_json()), clock_from_json(WallClock(90).to_json())
    assert isinstance(steps, StepClock)
    assert steps.budget_steps == 7
    assert isinstance(wall, WallClock)
    assert wall.budget_seconds == 90
