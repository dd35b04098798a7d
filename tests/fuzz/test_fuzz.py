"""A short form of `benchmarks.fuzz`: a few hostile inputs of every kind, the same ones each time."""

from __future__ import annotations

import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of time and memory are Linux's")

if sys.platform == "linux":
    from tests.fuzz.runs import Watch, run
    from tests.fuzz.targets import make_seeds, targets

INPUTS = 3  # for each part of a target's share


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory):
    """The targets by name, and what watches them."""
    return targets(make_seeds(tmp_path_factory.mktemp("seeds"))), Watch()


NAMES = (
    *(
        "constraint",
        "space",
        "candidate",
        "architecture",
        "policy",
        "configuration",
        "run database",
        "run texts",
        "storage",
    ),
    *(
        "measurements",
        "trained network",
        "weights",
        "packed weights",
        "predictor",
        "image",
        "giant image",
        "zip of images",
    ),
    *("folder of images", "arrays", "image cache", "slot"),
)


@pytest.mark.parametrize("name", NAMES)
def test_hostile_input_is_read_or_refused_in_a_sentence(name, fuzz):
    found, watch = fuzz
    read, share = found[name]
    outcome = run(read, range(min(100, INPUTS * share)), watch)
    assert outcome.problems == []
    assert outcome.read + outcome.refused == min(100, INPUTS * share)


def test_every_target_is_tested(fuzz):
    assert set(fuzz[0]) == set(NAMES)
