"""What predictors learn of trainings: smoothed accuracies at the level of the accuracies, and accuracies where there is no other."""

import numpy as np
import pytest
from scipy.special import expit, logit

from jointnas.predictor.accuracies import learned_accuracies
from jointnas.training.observation import Observation


def test_smoothed_accuracies_are_learned_at_the_level_of_the_accuracies() -> None:
    learned, smoothed = learned_accuracies([
        Observation(0.70, smoothed_accuracy=0.50),
        Observation.failed("diverged"),
        Observation(0.80, smoothed_accuracy=0.66),
        Observation(0.78, smoothed_accuracy=0.64),
    ])  # fmt: skip
    assert smoothed.tolist() == [True, False, True, True]
    assert learned[[0, 2, 3]].mean() == pytest.approx(0.76, abs=0.003)
    assert learned[1] == learned[0] == learned.min()
    assert learned[2] > learned[3]


@pytest.mark.parametrize("slope", [0.7, 1.4])
def test_a_level_and_a_slope_between_the_two_are_learned(slope: float) -> None:
    rng = np.random.default_rng(0)
    truth = logit(rng.uniform(0.3, 0.8, 40))
    noisy = expit(truth + rng.normal(0, 0.1, 40))
    observations = [Observation(a, smoothed_accuracy=s) for a, s in zip(noisy, expit(slope * truth - 1), strict=True)]
    np.testing.assert_allclose(learned_accuracies(observations)[0], expit(truth), atol=0.03)


def test_a_few_trainings_do_not_change_the_slope_much() -> None:
    """Three noisy accuracies in the opposite order of the smoothed ones, which are believed."""
    pairs = [(0.72, 0.60), (0.70, 0.62), (0.68, 0.64)]
    learned, _ = learned_accuracies([Observation(a, smoothed_accuracy=s) for a, s in pairs])
    assert learned[0] < learned[1] < learned[2]
    assert learned[2] - learned[0] == pytest.approx(0.035, abs=0.01)


def test_a_training_without_a_smoothed_accuracy_keeps_its_accuracy_beside_others() -> None:
    learned, smoothed = learned_accuracies([
        Observation(0.70, smoothed_accuracy=0.60),
        Observation(0.75),
        Observation(0.80, smoothed_accuracy=0.70),
    ])  # fmt: skip
    assert smoothed.tolist() == [True, False, True]
    assert learned[1] == 0.75
    assert learned[[0, 2]].mean() == pytest.approx(0.75, abs=0.003)


def test_trainings_that_are_right_everywhere_are_learned() -> None:
    learned, _ = learned_accuracies([Observation(1.0, smoothed_accuracy=a) for a in (0.98, 0.99)])
    assert 0.99 < learned[0] < learned[1] <= 1
    learned, _ = learned_accuracies([Observation(1.0, smoothed_accuracy=1.0)] * 2)
    assert learned == pytest.approx([1.0, 1.0], abs=1e-3)


@pytest.mark.parametrize("odd", [Observation(70.0, smoothed_accuracy=0.7), Observation(0.7, smoothed_accuracy=1.2)])
def test_numbers_that_are_no_shares_are_learned_as_they_are(odd: Observation) -> None:
    learned, smoothed = learned_accuracies([Observation(0.6, smoothed_accuracy=0.6), odd])
    assert smoothed.tolist() == [True, False]
    assert learned.tolist() == pytest.approx([0.6, odd.accuracy])


def test_learned_accuracies_have_the_mean_of_the_accuracies_however_far_apart_they_are():
    accuracies = np.linspace(0.12, 0.73, 11)
    read = expit(np.log(accuracies / (1 - accuracies)) - 0.3)

    learned, _ = learned_accuracies(
        [Observation(a, smoothed_accuracy=s) for a, s in zip(accuracies, read, strict=True)]
    )

    assert learned.mean() == pytest.approx(accuracies.mean())
    np.testing.assert_allclose(learned, accuracies, atol=0.01)
