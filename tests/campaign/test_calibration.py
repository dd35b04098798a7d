"""How far predictions were from what trainings gave: the figures, and what is left out of them."""

from __future__ import annotations

import pytest

from jointnas.campaign.calibration import Calibration, Prediction, predictions_of
from jointnas.campaign.options import make_spec
from jointnas.campaign.store import Context
from jointnas.campaign.trial import Trial
from jointnas.execution.slots import Slot
from jointnas.training.observation import Observation

CANDIDATE = {"architecture": {}, "recipe": {}}
SPEC = make_spec({"train_steps": 9})
SLOT = Slot("cpu", 1, 2)
CONTEXT = Context("0", (1, 8, 8), ("a", "b"), SLOT)
RETRAINED = {
    "clock": {"train_steps": 9},
    "slot": SLOT.to_json(),
    "predicted": 0.75,
    "std": 0.125,
    "val_accuracies": [0.25, 0.5],
}


def trial(accuracy, predicted=0.5, std=0.25, number=1, **about):
    fraction = about.pop("fraction", 1.0)
    observation = Observation(accuracy, fraction=fraction)
    return Trial(number, 2, CANDIDATE, 0, "a", about.get("kind", "trial"), 0, predicted, std, observation)


def test_predictions_are_too_high_by_what_training_did_not_reach():
    groups = Calibration.of([Prediction(0.75, 0.125, 0.5), Prediction(0.5, 0.125, 0.625), Prediction(0.5, 0.125, 1.0)])
    assert groups == Calibration(3, pytest.approx(-0.125), pytest.approx(0.875 / 3), pytest.approx(2 / 3))


def test_what_was_predicted_stands_beside_what_came_of_it():
    groups = predictions_of(SPEC, CONTEXT, [trial(0.75), trial(0.25, 0.625, 0.125)], [RETRAINED])
    assert groups == {
        "trials": [(0.5, 0.25, 0.75), (0.625, 0.125, 0.25)],
        "retrained_winners": [(0.75, 0.125, 0.375)],
    }


@pytest.mark.parametrize(
    "one",
    [
        trial(None),
        trial(0.5, None, None),
        Trial(1, 1, CANDIDATE, 0, "a", predicted=0.5, std=0.25),
    ],
    ids=["failed", "not predicted", "not ended"],
)
def test_a_trial_without_a_prediction_or_an_accuracy_says_nothing(one):
    assert predictions_of(SPEC, CONTEXT, [one], []) == {}


def test_leaders_are_apart_from_trials_because_they_were_chosen_for_their_predictions():
    assert predictions_of(SPEC, CONTEXT, [trial(0.5, kind="confirmation")], []) == {"leaders": [(0.5, 0.25, 0.5)]}


@pytest.mark.parametrize(
    "other", [{"clock": {"train_steps": 8}}, {"slot": Slot("cpu", 1, 1).to_json()}], ids=["budget", "slot"]
)
def test_a_winner_trained_under_other_conditions_says_nothing(other):
    assert predictions_of(SPEC, CONTEXT, [], [{**RETRAINED, **other}]) == {}


def test_where_trainings_were_stopped_early_winners_were_predicted_for_less_than_they_got():
    trials = [trial(0.5, fraction=0.25), trial(0.5, kind="confirmation")]
    assert list(predictions_of(SPEC, CONTEXT, trials, [RETRAINED])) == ["trials"]
