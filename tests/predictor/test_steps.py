"""The steps model: how many training steps fit into a budget, estimated from the steps of other trainings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jointnas.predictor.contract import PREDICTORS, Predictor
from jointnas.predictor.steps import StepsModel
from jointnas.space.knob_space import Candidate
from jointnas.space.space import Space
from jointnas.training.observation import Observation

SPACE = Space.load("resnet9", (3, 32, 32), 10).fix({"test_flip": False})


def steps(candidate: Candidate) -> float:
    """Return the steps of a machine whose every MAC takes as long, and every step a little more."""
    passes = 2 if candidate["recipe"]["gradient"] == "sam" and candidate["recipe"]["sam_every"] == 1 else 1
    return 1e12 / (1e9 + passes * SPACE.cost(candidate)["macs"] * float(candidate["recipe"]["batch_size"]))


def observe(candidates: list[Candidate], fraction: float = 1.0) -> list[Observation]:
    return [Observation(accuracy=0.5, fraction=fraction, steps=round(fraction * steps(c))) for c in candidates]


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_the_steps_of_a_candidate_are_estimated_from_those_of_others(fraction: float) -> None:
    plain = SPACE.fix({"gradient": "plain", "start_resolution": 1.0})
    trained, unseen = plain.sample(48, seed=1), plain.sample(200, seed=2)
    model = StepsModel.fit(plain, plain.to_codes(trained), observe(trained, fraction), 0)
    true = np.array([steps(c) for c in unseen])
    assert np.median(np.abs(model.steps(plain.to_codes(unseen)) / true - 1)) < 0.1


def test_equal_steps_are_a_budget_of_steps() -> None:
    trained = SPACE.sample(16, seed=1)
    model = StepsModel.fit(SPACE, SPACE.to_codes(trained), [Observation(accuracy=0.5, steps=40)] * 16, 0)
    np.testing.assert_allclose(model.steps(SPACE.to_codes(SPACE.sample(50, seed=2))), 40)


def test_without_recorded_steps_it_estimates_one_step_for_all() -> None:
    trained = SPACE.sample(16, seed=1)
    for observations in ([Observation(accuracy=0.5)] * 16, [*observe(trained)[:3], *[Observation(accuracy=0.5)] * 13]):
        assert StepsModel.fit(SPACE, SPACE.to_codes(trained), observations, 0).estimator is None


def test_a_model_is_restored_from_its_tensor() -> None:
    trained = SPACE.sample(32, seed=1)
    codes = SPACE.to_codes(trained)
    model = StepsModel.fit(SPACE, codes, observe(trained), 0)
    tensor = model.to_tensor()
    assert tensor is not None
    np.testing.assert_array_equal(StepsModel.from_tensor(SPACE, tensor).steps(codes), model.steps(codes))
    assert StepsModel(SPACE, None).to_tensor() is None


def of_two_machines(candidates: list[Candidate], speed: float) -> list[Observation]:
    """Return trainings whose every third ran on a machine of another speed; more steps are more accurate, and nothing else is."""
    observations = []
    for i, candidate in enumerate(candidates):
        taken = steps(candidate) * (speed if i % 3 == 0 else 1.0)
        accuracy = float(0.3 + 0.06 * np.log(taken))
        observations.append(Observation(accuracy, steps=round(taken), machine="other" if i % 3 == 0 else "usual"))
    return observations


def test_with_two_kinds_of_machines_it_estimates_for_the_usual_one_and_knows_the_speed_of_the_other() -> None:
    plain = SPACE.fix({"gradient": "plain", "start_resolution": 1.0})
    trained, unseen = plain.sample(48, seed=1), plain.sample(200, seed=2)
    codes, observations = plain.to_codes(trained), of_two_machines(trained, 0.2)
    model = StepsModel.fit(plain, codes, observations, 0)
    true = np.array([steps(c) for c in unseen])
    assert np.median(np.abs(model.steps(plain.to_codes(unseen)) / true - 1)) < 0.1
    speeds = model.speeds(codes, observations)
    np.testing.assert_allclose(speeds[::3], 0.2, rtol=0.1)
    np.testing.assert_array_equal(np.delete(speeds, slice(0, None, 3)), 1)


@pytest.mark.parametrize("kind", PREDICTORS)
def test_the_predictor_reads_the_steps_that_each_machine_took(kind: str, tmp_path: Path) -> None:
    plain = SPACE.fix({"gradient": "plain", "start_resolution": 1.0})
    trained, unseen = plain.sample(60, seed=1), plain.sample(200, seed=2)
    observations = of_two_machines(trained, 0.1)
    true = 0.3 + 0.06 * np.log([steps(c) for c in unseen])
    errors, predictor = {}, Predictor(plain, seed=0, kind=kind)
    for name, given in {"alike": [replace(o, machine=None) for o in observations], "mixed": observations}.items():
        predictor = Predictor(plain, seed=0, kind=kind)
        predictor.fit(trained, given)
        errors[name] = float(np.abs(predictor.predict(unseen)[0] - true).mean())
    assert errors["mixed"] < 0.7 * errors["alike"]
    predictor.save(tmp_path)
    np.testing.assert_allclose(Predictor.load(tmp_path).predict(unseen)[0], predictor.predict(unseen)[0])
