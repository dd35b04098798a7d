"""How far predicted accuracies are from those that trainings gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from jointnas.campaign.store import CONFIRMING, Trial

WIDTH = 2  # standard deviations on either side of a prediction, within which 95 % of accuracies should lie


class Prediction(NamedTuple):
    """A predicted accuracy, its standard deviation, and what training gave."""

    mean: float
    std: float
    trained: float


@dataclass(frozen=True)
class Agreement:
    """Predictions beside trainings: their count, the mean difference and the mean absolute one, the share within `WIDTH`.

    bias: predicted less trained, above 0 where predictions were too high.
    """

    count: int
    bias: float
    error: float
    within: float

    @classmethod
    def of(cls, predictions: Sequence[Prediction]) -> Agreement:
        """Return how one or more predictions agree with what training gave."""
        mean, std, trained = np.array(predictions, dtype=np.float64).T
        away = mean - trained
        within = np.abs(away) <= WIDTH * std
        return cls(len(away), float(away.mean()), float(np.abs(away).mean()), float(within.mean()))


def predictions(
    specification: Mapping[str, Any], trials: Sequence[Trial], retrained: Sequence[Mapping[str, Any]]
) -> dict[str, list[Prediction]]:
    """Return a run's predictions of "trials" before they were trained, and of "retrained_winners"; a key where there are some.

    Only what was predicted counts: of winners the mean validation accuracy over seeds, trained in the run's own slot, for its own
    budget, where no early stop made the predictor one of less. Trainings that confirm winners are left out, being chosen.
    """
    found: dict[str, list[Prediction]] = {"trials": [], "retrained_winners": []}
    whole = True
    for trial in trials:
        seen = trial.observation
        if seen is None or seen.accuracy is None:
            continue
        whole &= seen.fraction == 1
        if trial.round != CONFIRMING and trial.predicted is not None and trial.std is not None:
            found["trials"].append(Prediction(trial.predicted, trial.std, seen.accuracy))
    if whole:
        found["retrained_winners"] = [
            Prediction(row["predicted"], row["std"], fmean(row["val_accuracies"]))
            for row in retrained
            if all(row[key] == specification.get(key) for key in ("clock", "slot"))
        ]
    return {name: rows for name, rows in found.items() if rows}
