"""A training of a run, as the store keeps it and commands print it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jointnas.search.winners import Winner
from jointnas.space.knob_space import Candidate
from jointnas.training.observation import ACCURACY, Observation

CONFIRMATION, FINAL = "confirmation", "final"  # kinds of trials beside those that a search asks for


@dataclass(frozen=True)
class Trial:
    """One training of a candidate; its observation is None while it waits or runs.

    kind: "trial", "confirmation" (of a leader), "final" (of the first winner, on all images; its observation has no accuracy) or "repeat" (of a
    trial, with another seed). repeat: its number among the trainings of one kind, from 0; with identity and kind it is unique in a run.
    predicted, std: before the training. parent: the number of the trial whose weights it started from, None for fresh weights. disturbed: the
    observation of its first training, where other programs took so much of its cores that it was trained again; nothing is learned from that
    one. metric: which score of its training the search maximises.
    """

    number: int
    round: int
    candidate: Candidate
    seed: int
    identity: str
    kind: str = "trial"
    repeat: int = 0
    predicted: float | None = None
    std: float | None = None
    observation: Observation | None = None
    parent: int | None = None
    disturbed: Observation | None = None
    metric: str = ACCURACY

    @property
    def outcome(self) -> Observation | None:
        """The observation, with the score that the search maximises in the place of the accuracy; None before the training has ended."""
        return self.observation.scored(self.metric) if self.observation else None

    @property
    def accuracy(self) -> float | None:
        """The accuracy, or the score that the search maximises in its place; None before the training has ended and where it failed."""
        return self.outcome.accuracy if self.outcome else None


def trial_row(trial: Trial) -> dict[str, Any]:
    """Return a trial as `runs show --json` prints it."""
    return {
        "number": trial.number,
        "round": trial.round,
        "kind": trial.kind,
        "repeat": trial.repeat,
        **trial.candidate,
        "predicted_accuracy": trial.predicted,
        "std": trial.std,
        **({} if trial.parent is None else {"parent": trial.parent}),
        "observation": trial.observation.to_json() if trial.observation else None,
        **({} if trial.disturbed is None else {"disturbed": trial.disturbed.to_json()}),
    }


def trained_accuracies(trials: Sequence[Trial], winner: Winner) -> list[float]:
    """Return the validation accuracies of those trials that trained a winner for the whole budget."""
    own = [t for t in trials if t.candidate == winner.candidate and t.observation and t.observation.fraction == 1]
    return [t.accuracy for t in own if t.accuracy is not None]


def result_text(trial: Trial) -> str:
    """Return what a trial reached, as tables of trials print it: its score with notes, or why there is none."""
    observation = trial.observation
    if observation is None:
        return "waiting"
    if observation.failure is not None:
        return f"failed: {observation.failure}"
    if observation.accuracy is not None:
        notes = " (disturbed)" * observation.was_disturbed + " (trained again)" * (trial.disturbed is not None)
        return f"{trial.accuracy:.4f}{notes}"
    return "on all images" if observation.test_accuracy is None else f"test accuracy {observation.test_accuracy:.4f}"
