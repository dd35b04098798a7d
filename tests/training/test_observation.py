"""What becomes of a smoothed accuracy where observations are averaged, scored by another metric or read at a part of the budget."""

import pytest

from jointnas.campaign.early_stop import at_fraction
from jointnas.training.observation import Observation, mean_observation


def test_a_mean_of_trainings_has_the_mean_of_their_smoothed_accuracies() -> None:
    mean = mean_observation([
        Observation(0.6, smoothed_accuracy=0.5),
        Observation.failed("killed"),
        Observation(0.9, smoothed_accuracy=0.8, trainings=2),
    ])  # fmt: skip
    assert (mean.accuracy, mean.smoothed_accuracy, mean.trainings) == (pytest.approx(0.8), pytest.approx(0.7), 3)


def test_a_mean_has_no_smoothed_accuracy_where_one_training_lacks_it() -> None:
    assert mean_observation([Observation(0.6, smoothed_accuracy=0.5), Observation(0.8)]).smoothed_accuracy is None


def test_a_score_other_than_the_accuracy_has_no_smoothed_accuracy() -> None:
    observation = Observation(0.6, log_loss=1.0, smoothed_accuracy=0.5)
    assert observation.scored("accuracy").smoothed_accuracy == 0.5
    assert observation.scored("log_loss").smoothed_accuracy is None


def test_a_reading_before_the_end_has_no_smoothed_accuracy() -> None:
    assert at_fraction(Observation(0.6, smoothed_accuracy=0.5, curve=()), 0.5).smoothed_accuracy is None
