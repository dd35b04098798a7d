"""The pace: how many steps a budget holds, told by the steps of others."""

import numpy as np
import pytest

from jointnas.predictor.steps import Pace
from jointnas.space.knob_space import Candidate
from jointnas.space.space import Space
from jointnas.training.observation import Observation

SPACE = Space.load("resnet9", (3, 32, 32), 10).fix({"test_flip": False})


def steps(candidate: Candidate) -> float:
    """Return the steps of a machine whose every MAC takes as long, and every step a little more."""
    passes = 2 if candidate["recipe"]["gradient"] == "sam" and candidate["recipe"]["sam_every"] == 1 else 1
    return 1e12 / (1e9 + passes * SPACE.cost(candidate)["macs"] * float(candidate["recipe"]["batch_size"]))


def told(candidates: list[Candidate], fraction: float = 1.0) -> list[Observation]:
    return [Observation(accuracy=0.5, fraction=fraction, steps=round(fraction * steps(c))) for c in candidates]


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_the_steps_of_others_tell_those_of_a_candidate(fraction: float) -> None:
    plain = SPACE.fix({"gradient": "plain", "start_resolution": 1.0})
    known, unseen = plain.sample(48, seed=1), plain.sample(200, seed=2)
    pace = Pace.fit(plain, plain.to_codes(known), told(known, fraction), 0)
    true = np.array([steps(c) for c in unseen])
    assert np.median(np.abs(pace.steps(plain.to_codes(unseen)) / true - 1)) < 0.1


def test_equal_steps_are_a_budget_of_steps() -> None:
    known = SPACE.sample(16, seed=1)
    pace = Pace.fit(SPACE, SPACE.to_codes(known), [Observation(accuracy=0.5, steps=40)] * 16, 0)
    np.testing.assert_allclose(pace.steps(SPACE.to_codes(SPACE.sample(50, seed=2))), 40)


def test_nothing_is_known_without_steps() -> None:
    known = SPACE.sample(16, seed=1)
    for observations in ([Observation(accuracy=0.5)] * 16, [*told(known)[:3], *[Observation(accuracy=0.5)] * 13]):
        assert Pace.fit(SPACE, SPACE.to_codes(known), observations, 0).law is None


def test_a_pace_is_restored_from_its_numbers() -> None:
    known = SPACE.sample(32, seed=1)
    codes = SPACE.to_codes(known)
    law = Pace.fit(SPACE, codes, told(known), 0).law
    assert law is not None
    again = Pace.restored(SPACE, np.array([*law.weights, law.intercept, law.error]))
    np.testing.assert_array_equal(again.steps(codes), Pace(SPACE, law).steps(codes))
