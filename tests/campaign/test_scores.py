"""Searches that maximise another score of their trainings than the accuracy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from jointnas.api import run_search, train
from jointnas.campaign.campaign import prepare
from jointnas.campaign.options import make_spec
from jointnas.campaign.spec import SearchSpec
from jointnas.campaign.trial import Trial
from jointnas.errors import SearchError
from jointnas.search.objective import objective_of, score_of
from jointnas.training.observation import Observation


@pytest.fixture
def unequal(tmp_path: Path) -> Path:
    """Images of two classes, nine times as many of the first, that are hard to tell apart."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [1800, 200])
    images = (rng.normal(110, 40, (2000, 6, 6)) + 8 * labels[:, None, None]).clip(0, 255).astype(np.uint8)
    np.savez(tmp_path / "unequal.npz", train_images=images, train_labels=labels)
    return tmp_path / "unequal.npz"


def test_an_objective_names_its_score() -> None:
    objectives = ("max accuracy", "max balanced_accuracy", " max macro_f1", "min log_loss", "min macs")
    assert [score_of(o) for o in objectives] == ["accuracy", "balanced_accuracy", "macro_f1", "log_loss", "accuracy"]


def test_a_score_names_its_objective() -> None:
    assert [objective_of(s) for s in ("accuracy", "balanced_accuracy", "log_loss")] == [
        "max accuracy", "max balanced_accuracy", "min log_loss",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no score is called 'macs'"):
        objective_of("macs")


def test_a_trial_has_the_score_of_its_search() -> None:
    seen = Observation(0.9, balanced_accuracy=0.7, macro_f1=0.65, log_loss=0.5)
    trials = {
        metric: Trial(1, 1, {}, 0, "", observation=seen, metric=metric)
        for metric in ("accuracy", "macro_f1", "log_loss")
    }
    assert [trial.accuracy for trial in trials.values()] == [0.9, 0.65, math.exp(-0.5)]
    assert trials["macro_f1"].observation == seen
    assert Trial(1, 1, {}, 0, "", observation=Observation.failed("no"), metric="log_loss").accuracy is None


@pytest.mark.parametrize(
    ("objective", "score"), [("max balanced_accuracy", "balanced_accuracy"), ("min log_loss", "log_loss")]
)
def test_the_winner_is_the_best_by_the_score(objective: str, score: str, unequal: Path, tmp_path: Path) -> None:
    campaign = run_search(
        str(unequal),
        ["macs<200K"],
        train_steps=8,
        rounds=1,
        batch=3,
        confirm=0,
        portfolio=1,
        objective=objective,
        out=tmp_path / "run",
    )
    values = [row["observation"][score] for row in campaign.trials]
    scores = [math.exp(-value) for value in values] if score == "log_loss" else values
    trained = [w.accuracy for w in campaign.winners if w.accuracy is not None]
    assert set(np.round(trained, 9)) <= set(np.round(scores, 9))


def test_weights_of_the_classes_raise_the_balanced_accuracy(unequal: Path) -> None:
    reached = []
    for exponent in (0.0, 1.0):
        recipe = {"batch_size": 50, "learning_rate": 0.05, "class_weights": exponent, "crop": 0.0, "flip": False}
        candidate = {"architecture": {"network": "resnet9", "width": 4}, "recipe": recipe}
        reached.append(train(candidate, str(unequal), train_steps=60).observation.balanced_accuracy)
    assert reached[1] > reached[0] + 0.05  # type: ignore[operator]


def test_what_reads_accuracies_does_not_go_with_another_score() -> None:
    with pytest.raises(SearchError, match="--early-stop reads accuracies, got the objective 'min log_loss'"):
        run_search("digits", objective="min log_loss", early_stop=0.9, train_steps=2)
    with pytest.raises(SearchError, match="is neither 'max accuracy'"):
        run_search("digits", objective="max log_loss", train_steps=2)


@pytest.mark.parametrize(("objective", "val_images"), [("max macro_f1", 100), ("min log_loss", None)])
def test_the_predictor_knows_the_sampling_noise_of_shares_of_images_alone(
    objective: str, val_images: int | None
) -> None:
    given = {"data": "digits", "train_images": 300, "val_images": 100, "train_steps": 5, "objective": objective}
    spec = make_spec({**given, "rounds": 1, "batch": 2, "portfolio": 0, "prior": "none"})
    assert isinstance(spec, SearchSpec)
    assert prepare(spec, lambda event: None).search.predictor.task.val_images == val_images
