"""What a predictor knows before its first training: the number of images, and steps that were timed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jointnas.errors import PredictorError
from jointnas.predictor.contract import Predictor
from jointnas.predictor.steps import StepsModel
from jointnas.predictor.task import SAMPLING_NOISE, SMOOTHED_SAMPLING_NOISE, Task, TrainingImages
from jointnas.space.space import Space
from jointnas.training.observation import Observation

SPACE = Space.load("resnet9", (1, 8, 8), 10)


def timed(n: int = 48, seed: int = 1) -> Task:
    """Return the task of a machine whose every MAC takes as long, and every step a little more."""
    codes = SPACE.to_codes(SPACE.fix({"gradient": "plain", "start_resolution": 1.0}).sample(n, seed=seed))
    return Task(
        TrainingImages(1000, 0.3),
        codes,
        1e12 / (1e9 + SPACE.costs(codes)["macs"] * SPACE.recipe_columns(codes)["batch_size"]),
    )


def test_timed_candidates_give_the_steps_of_others_before_any_training() -> None:
    others = timed(100, seed=2)
    assert others.codes is not None
    assert others.steps is not None
    model = StepsModel.fit(SPACE, others.codes[:0], [], 0, timed())
    assert np.median(np.abs(model.steps(others.codes) / others.steps - 1)) < 0.1
    assert model.steps(others.codes[:0]).shape == (0,)


def test_steps_of_trainings_and_of_timed_candidates_are_learned_together() -> None:
    few, trained = timed(4), timed(3, seed=5)
    assert trained.codes is not None
    assert trained.steps is not None
    observed = [Observation(0.5, steps=round(steps)) for steps in trained.steps]
    assert StepsModel.fit(SPACE, trained.codes, observed, 0).estimator is None  # too few alone
    alone, both = (
        StepsModel.fit(SPACE, codes, seen, 0, few)
        for codes, seen in ((trained.codes[:0], []), (trained.codes, observed))
    )
    assert not np.allclose(alone.steps(trained.codes), both.steps(trained.codes))


@pytest.mark.parametrize("kind", ["gp", "mlp"])
def test_a_loaded_predictor_knows_its_task(kind: str, tmp_path: Path) -> None:
    task, candidates = replace(timed(), val_images=500), SPACE.sample(8)
    predictor = Predictor(SPACE, kind=kind, task=task).fit(candidates, np.linspace(0.2, 0.8, 8))
    predictor.save(tmp_path)
    loaded = Predictor.load(tmp_path)
    assert (loaded.task.images, loaded.task.val_images) == (task.images, 500)
    np.testing.assert_array_equal(loaded.task.codes, task.codes)
    np.testing.assert_array_equal(loaded.task.steps, task.steps)
    np.testing.assert_allclose(loaded.predict(candidates), predictor.predict(candidates), rtol=1e-5)


def test_timed_candidates_have_positive_steps_each() -> None:
    codes = SPACE.to_codes(SPACE.sample(2))
    with pytest.raises(PredictorError, match="got 2 timed candidates and 1 steps"):
        Task(TrainingImages(), codes, np.ones(1))
    with pytest.raises(PredictorError, match="no positive number of steps"):
        Task(TrainingImages(), codes, np.array([3.0, np.nan]))


def test_a_deviation_includes_the_sampling_noise_of_the_validation_images() -> None:
    candidates, accuracies = SPACE.sample(12), np.linspace(0.990, 0.993, 12)
    known, unknown = (
        Predictor(SPACE, task=replace(timed(), val_images=n)).fit(candidates, accuracies) for n in (200, None)
    )
    (mean, deviation), (same, less) = (own.predict(candidates) for own in (known, unknown))
    np.testing.assert_allclose(mean, same, atol=0.002)
    least = np.sqrt(SAMPLING_NOISE * mean * (1 - mean) / 200)
    assert (deviation > least).all()
    assert (less < least).any()


def test_one_high_accuracy_is_trusted_less_with_few_validation_images() -> None:
    candidates = SPACE.sample(12, seed=4)
    accuracies = np.full(12, 0.7) + np.random.default_rng(0).normal(0, 0.01, 12)
    accuracies[3] = 0.78
    few, many = (
        Predictor(SPACE, task=replace(timed(), val_images=n)).fit(candidates, accuracies) for n in (300, 30_000)
    )
    best_of_few, best_of_many = (own.predict(candidates)[0][3] for own in (few, many))
    assert best_of_few < best_of_many - 0.01


def test_one_high_smoothed_accuracy_is_trusted_more_than_one_high_accuracy() -> None:
    assert SMOOTHED_SAMPLING_NOISE < SAMPLING_NOISE
    candidates = SPACE.sample(12, seed=4)
    accuracies = np.full(12, 0.7) + np.random.default_rng(0).normal(0, 0.01, 12)
    accuracies[3] = 0.78
    plain, smoothed = (
        [Observation(a, smoothed_accuracy=a if given else None) for a in accuracies] for given in (False, True)
    )
    task = replace(timed(), val_images=300)
    of_plain, of_smoothed = (
        Predictor(SPACE, task=task).fit(candidates, own).predict(candidates)[0][3] for own in (plain, smoothed)
    )
    assert of_smoothed > of_plain + 0.005


def test_scores_that_are_no_shares_of_images_have_no_sampling_noise() -> None:
    losses = np.linspace(-1.0, 2.0, 12)
    candidates = SPACE.sample(12)
    known, unknown = (Predictor(SPACE, task=Task(val_images=n)).fit(candidates, losses) for n in (200, None))
    np.testing.assert_array_equal(known.predict(candidates), unknown.predict(candidates))


def test_a_model_whose_noise_is_that_of_whole_trainings_has_no_noise_added() -> None:
    candidates, accuracies = SPACE.sample(12), np.linspace(0.5, 0.7, 12)
    known, unknown = (
        Predictor(SPACE, kind="mlp", task=Task(val_images=n)).fit(candidates, accuracies) for n in (10_000, None)
    )
    np.testing.assert_array_equal(known.predict(candidates), unknown.predict(candidates))
