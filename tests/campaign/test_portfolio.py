"""The portfolio: which networks built-in recipes get under bounds and budgets, and which of them come first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jointnas.campaign.portfolio import ENOUGH, Steps, adapted, portfolio, starting_candidates
from jointnas.campaign.registry import find_prior
from jointnas.campaign.timing import meets, task_of
from jointnas.measurement.estimate import Estimator
from jointnas.predictor.steps import StepsModel
from jointnas.predictor.task import TrainingImages
from jointnas.space.constraint import MEASURED, parse_all
from jointnas.space.knob_space import Candidate
from jointnas.space.space import Space
from jointnas.space.transfer import nearest_candidate
from tests.search.test_measured import CountingMeter

SHAPE, CLASSES = (3, 32, 32), 10
SPACE = Space.load("resnet9", SHAPE, CLASSES)
MEMBERS = {member.name: member for member in portfolio()}
ONE_MINUTE = MEMBERS["resnet9-1m"]
OWN_MACS = SPACE.cost(nearest_candidate(SPACE, ONE_MINUTE.candidate)[0])["macs"] / 2  # of one view


def by_macs(macs_of_one_step: float, space: Space = SPACE):
    """Return a device on which one step of each candidate takes seconds in proportion to the MACs of one view."""

    def steps(candidate: Candidate) -> float:
        views = 2 if candidate["recipe"]["test_flip"] else 1
        return macs_of_one_step / (space.cost(candidate)["macs"] / views)

    return steps


def exact(*bounds: str):
    return parse_all(bounds, SPACE.metrics)


@pytest.mark.parametrize("bound", ["macs<2M", "macs<20M", "params<100K"])
def test_a_member_meets_the_bounds_and_no_wider_network_would(bound: str) -> None:
    own = adapted(ONE_MINUTE, SPACE, exact(bound), by_macs(1e15))  # a fast device: the bound alone decides
    assert own is not None
    constraint = exact(bound)[0]
    assert SPACE.cost(own.candidate)[constraint.metric] < constraint.bound
    wider = {**own.candidate, "architecture": {**own.candidate["architecture"]}}
    wider["architecture"]["width"] += 2
    assert SPACE.cost(wider)[constraint.metric] >= constraint.bound or own.candidate["recipe"]["test_flip"]


def test_larger_images_are_shrunk_to_the_pixels_that_a_member_is_known_for() -> None:
    large = Space.load("resnet9", (3, 64, 64), CLASSES)
    own, at_home = (adapted(ONE_MINUTE, space, exact("macs<20M"), by_macs(1e15, space)) for space in (large, SPACE))
    assert own is not None
    assert at_home is not None
    assert own.candidate["architecture"]["resolution"] == 0.5
    assert own.distance > at_home.distance
    for_large_images = adapted(replace(ONE_MINUTE, image_size=64), large, exact("macs<20M"), by_macs(1e15, large))
    assert for_large_images is not None
    assert (
        for_large_images.candidate["architecture"]["resolution"] == ONE_MINUTE.candidate["architecture"]["resolution"]
    )


def test_a_fast_device_gets_a_wider_network_that_still_gets_about_its_steps() -> None:
    widths = []
    for share in (1e3, 2.5, 1.0):
        steps = by_macs(share * ONE_MINUTE.steps * OWN_MACS)
        own = adapted(ONE_MINUTE, SPACE, [], steps)
        assert own is not None
        assert steps(own.candidate) >= ENOUGH * ONE_MINUTE.steps
        widths.append(own.candidate["architecture"]["width"])
    assert widths[0] == 32  # twice its own width, so the largest that may be chosen: four times its MACs
    assert 16 < widths[1] < 32
    assert 16 <= widths[2] <= 18


@pytest.mark.parametrize(("share", "smaller"), [(1 / 4, 0.71), (1 / 16, 0.5)])
def test_a_slow_device_gets_a_network_smaller_by_the_fourth_root_of_the_share_of_its_steps(
    share: float, smaller: float
) -> None:
    steps = by_macs(share * ONE_MINUTE.steps * OWN_MACS)
    own = adapted(ONE_MINUTE, SPACE, [], steps)
    assert own is not None
    macs = SPACE.cost(own.candidate)["macs"] / (2 if own.candidate["recipe"]["test_flip"] else 1)
    assert macs / OWN_MACS == pytest.approx(smaller, rel=0.2)  # widths are even


def test_where_the_time_limits_a_network_it_scores_two_views_and_where_a_bound_does_it_may_score_one() -> None:
    by_time = adapted(ONE_MINUTE, SPACE, [], by_macs(6e9))
    by_bound = adapted(ONE_MINUTE, SPACE, exact("macs<20M"), by_macs(1e15))
    assert by_time is not None
    assert by_bound is not None
    assert by_time.candidate["recipe"]["test_flip"]
    assert not by_bound.candidate["recipe"]["test_flip"]


def test_a_network_that_cannot_be_measured_gives_way_to_a_cheaper_one() -> None:
    def steps(candidate: Candidate) -> float:
        return math.nan if candidate["architecture"]["width"] > 20 else 1e6

    own = adapted(ONE_MINUTE, SPACE, [], steps)
    assert own is not None
    assert own.candidate["architecture"]["width"] <= 20


def test_a_network_that_cannot_be_measured_does_not_replace_one_that_gets_its_steps() -> None:
    shares = [
        4.0,
        0.75,
        math.nan,
        4.0,
    ]  # of the steps needed: enough, too costly, no measurement, what a fifth would get
    measured: list[Candidate] = []

    def steps(candidate: Candidate) -> float:
        measured.append(candidate)
        return shares[len(measured) - 1] * ONE_MINUTE.steps

    own = adapted(ONE_MINUTE, SPACE, [], steps)
    assert own is not None
    assert own.candidate["architecture"]["width"] >= measured[0]["architecture"]["width"]


def test_the_network_of_a_member_is_one_that_was_measured() -> None:
    measured: list[Candidate] = []

    def steps(candidate: Candidate) -> float:
        measured.append(candidate)
        return 0.75 * ONE_MINUTE.steps  # never quite enough

    own = adapted(ONE_MINUTE, SPACE, [], steps)
    assert own is not None
    assert own.candidate == measured[-1]


@pytest.mark.parametrize("steps", [by_macs(1e15), 600])
def test_a_member_gets_a_network_that_meets_measured_bounds_however_few_do(steps: Steps | float) -> None:
    own = adapted(ONE_MINUTE, SPACE, [], steps, allowed=lambda candidate: candidate["architecture"]["width"] <= 4)
    assert own is not None
    assert own.candidate["architecture"]["width"] == 4


@pytest.mark.parametrize("steps", [by_macs(1e15), 600])
def test_a_member_without_a_network_that_meets_the_measured_bounds_is_left_out(steps: Steps | float) -> None:
    assert adapted(ONE_MINUTE, SPACE, [], steps, allowed=lambda candidate: False) is None
    assert starting_candidates(SPACE, [], 2, steps, allowed=lambda candidate: False) == {}


def test_bounds_on_measured_metrics_are_met_where_the_measurement_says_so(tmp_path: Path) -> None:
    meter = CountingMeter(tmp_path)
    candidate = Space.load("resnet9", (1, 8, 8), 10).sample(1)[0]
    (row,) = meter.measure([candidate], ["latency"])
    at, below = (parse_all([f"latency<={row['latency'] * factor}s"], MEASURED) for factor in (1.01, 0.99))
    assert meets(meter, at, candidate)
    assert not meets(meter, below, candidate)
    assert meets(meter, [], candidate)


@pytest.mark.parametrize(("speed", "first"), [(1e9, "resnet9-10s"), (12e9, "resnet9-1m"), (120e9, "resnet9-10m")])
def test_the_recipe_that_is_known_for_about_this_budget_comes_first(speed: float, first: str) -> None:
    known = starting_candidates(SPACE, [], 2, by_macs(speed))
    assert next(iter(known)) == first
    assert len(known) == 2


def test_the_recipe_that_is_known_for_images_of_about_this_size_comes_first() -> None:
    large = Space.load("resnet9", (3, 64, 64), CLASSES)
    known = starting_candidates(large, exact("macs<20M"), 2, by_macs(24e9, large))
    assert next(iter(known)) == "resnet9-1m-photos-64"
    assert known["resnet9-1m-photos-64"]["architecture"] == MEMBERS["resnet9-1m-photos-64"].candidate["architecture"]


def test_where_the_budget_counts_steps_a_member_keeps_its_own_network() -> None:
    own = adapted(ONE_MINUTE, SPACE, [], ONE_MINUTE.steps)
    assert own is not None
    assert own.candidate["architecture"] == ONE_MINUTE.candidate["architecture"]
    assert own.distance == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["chain", "resnet", "joint", "autotrain"])
def test_spaces_with_other_networks_or_fewer_knobs_get_the_recipes_too(name: str) -> None:
    space = Space.load(name)
    if name == "autotrain":
        space = space.with_architecture(ONE_MINUTE.candidate["architecture"])
    space = space.bind(SHAPE, CLASSES)
    known = starting_candidates(space, parse_all(["macs<40M"], space.metrics), 2, by_macs(6e9, space))
    assert known
    for candidate in known.values():
        space.validate(candidate)
        assert space.cost(candidate)["macs"] < 40e6


@pytest.mark.parametrize("name", ["resnet9-basic", "fbnet"])
def test_members_whose_optimizer_the_space_lacks_are_left_out(name: str) -> None:
    space = Space.load(name, SHAPE, CLASSES)
    assert adapted(ONE_MINUTE, space, [], by_macs(6e9, space)) is None
    assert starting_candidates(space, [], 2, by_macs(6e9, space)) == {}


# ----------------------------------------------------------------------------- what is known before the first training


def test_a_budget_of_steps_is_the_steps_of_every_candidate() -> None:
    task = task_of(SPACE, TrainingImages(500), 70.0, None, None, 0)
    assert task.images.count == 500
    assert task.steps is not None
    assert set(task.steps) == {70.0}


def test_measured_candidates_say_how_much_slower_this_machine_is_than_that_of_the_pretrained_network() -> None:
    prior = find_prior("tables", SPACE)
    (candidate,) = SPACE.sample(1, seed=4)
    law = StepsModel(SPACE, prior.step_seconds)
    seconds = float(law.step_shares(SPACE.to_codes([candidate]))[0])
    task = task_of(SPACE, TrainingImages(500), 60.0, prior, [(candidate, 60 / (3 * seconds))], 0)
    assert task.timed is not None
    codes, steps = task.timed
    np.testing.assert_allclose(60 / steps, 3 * law.step_shares(codes))
    assert isinstance(prior.step_seconds, Estimator)
    assert (
        task_of(SPACE, TrainingImages(500), 60.0, prior, [], 0).timed is None
    )  # the speed of this machine is not known


def test_among_recipes_about_equally_near_the_set_with_the_highest_expected_best_is_chosen() -> None:
    by_letters = np.array([[True], [False]])  # two functions: one for letters, one for photos

    def uncertain(candidates: Sequence[Candidate]) -> np.ndarray:
        mirrored = np.array([candidate["recipe"]["flip"] is not False for candidate in candidates])
        return np.where(mirrored == by_letters, 0.5, 0.8) - np.where(mirrored, 0.0, 0.05)

    def photos(candidates: Sequence[Candidate]) -> np.ndarray:
        return uncertain(candidates)[1:]

    steps = by_macs(12e9)
    both, mirrored = (starting_candidates(SPACE, [], 2, steps, draws=draws) for draws in (uncertain, photos))
    assert sorted(own["recipe"]["flip"] is not False for own in both.values()) == [False, True]
    assert all(own["recipe"]["flip"] is not False for own in mirrored.values())
    far = starting_candidates(SPACE, [], 9, steps, draws=lambda own: np.arange(float(len(own)))[None])
    assert list(far)[-1] == "resnet9-10m"  # however good it is expected to be, this budget changes it most
