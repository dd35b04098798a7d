"""How the tables of trainings are made comparable, and what the network of all searches is distilled from."""

import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from benchmarks.search.pooled import Group, read_groups
from benchmarks.search.pretrain import SHIPPED, TABLES, near_good, without
from benchmarks.search.teachers import levelled
from jointnas.predictor.pretrained import Pretrained


def groups_of(folder: Path, *names: str) -> list[Group]:
    """Return the groups of some tables of this project, read from a folder of their own."""
    for name in names:
        for suffix in ("csv", "json"):
            shutil.copy(TABLES / f"{name}.{suffix}", folder)
    return read_groups(folder)


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> list[Group]:
    """Return the groups of 60 s of three data sets."""
    found = groups_of(tmp_path_factory.mktemp("tables"), "tiny-scenes", "tiny-vehicles", "cifar10-photos")
    return [group for group in found if group.seconds == 60]


def test_a_group_whose_centre_is_guessed_wrong_is_levelled_by_the_others(groups: list[Group]) -> None:
    wrong = [replace(groups[0], centre=groups[0].centre - 2 * groups[0].spread), *groups[1:]]
    right, mended = levelled(groups), levelled(wrong)
    apart = [abs(a.centre - b.centre) / a.spread for a, b in zip(right, mended, strict=True)]
    assert apart[0] - np.mean(apart[1:]) < 1  # of 2
    for group, own in zip(groups, right, strict=True):
        assert own.spread == group.spread
        moved = own.targets(own.parts[0]) - group.targets(group.parts[0])
        assert moved == pytest.approx((group.centre - own.centre) / group.spread)


def test_a_table_that_is_left_out_takes_the_same_images_at_another_size_with_it(tmp_path: Path) -> None:
    groups = groups_of(tmp_path, "tiny-scenes", "tiny-scenes-64", "tiny-vehicles")
    assert len({group.table for group in groups}) == 3
    for name in ("tiny-scenes", "tiny-scenes-64"):
        assert {group.table for group in without(groups, [name])} == {"tiny-vehicles"}


def test_candidates_near_good_ones_are_valid_and_have_steps(groups: list[Group]) -> None:
    good = [part.codes for group in groups for part in group.parts]
    prior, rng = Pretrained.load(SHIPPED), np.random.default_rng(0)
    for space, codes, budget in islice(near_good(groups, prior, rng), 4):
        assert budget.log_steps is not None
        assert np.isfinite(budget.log_steps).all()
        np.testing.assert_array_equal(
            space.to_codes(space.to_candidates(codes)), codes
        )  # raises for one that is not valid
        same = [(codes[:, None] == own[None]) | (np.isnan(codes[:, None]) & np.isnan(own[None])) for own in good]
        nearest = np.max([own.sum(axis=2).max(axis=1) for own in same], axis=0)
        assert np.median(codes.shape[1] - nearest) < 6  # knobs that differ from a candidate of the tables
