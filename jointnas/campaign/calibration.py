"""Calibration: how far predicted accuracies are from observed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from jointnas.campaign.spec import SearchSpec, Spec
from jointnas.campaign.store import Context
from jointnas.campaign.trial import CONFIRMATION, Trial
from jointnas.training.members import budget_json
from jointnas.training.observation import ACCURACY

WIDTH = 2  # standard deviations on either side of a prediction, within which 95 % of accuracies should lie


class Prediction(NamedTuple):
    """A predicted accuracy, its standard deviation, and the observed accuracy."""

    mean: float
    std: float
    observed: float


@dataclass(frozen=True)
class Calibration:
    """Predictions against observations: their count, the mean difference and the mean absolute one, the share within `WIDTH`.

    bias: predicted less observed, above 0 where predictions were too high.
    """

    count: int
    bias: float
    error: float
    within: float

    @classmethod
    def of(cls, predictions: Sequence[Prediction]) -> Calibration:
        """Return the calibration of one or more predictions."""
        mean, std, observed = np.array(predictions, dtype=np.float64).T
        residuals = mean - observed
        within = np.abs(residuals) <= WIDTH * std
        return cls(len(residuals), float(residuals.mean()), float(np.abs(residuals).mean()), float(within.mean()))


def predictions_of(
    spec: Spec, context: Context, trials: Sequence[Trial], retrained: Sequence[Mapping[str, Any]]
) -> dict[str, list[Prediction]]:
    """Return a run's predictions of "trials", of "leaders" and of "retrained_winners" before their training; keys without any are absent.

    Of winners the mean validation accuracy over seeds counts, trained in the run's own slot for its own budget. After an early stop, which
    makes the predictor one of less than that budget, only trials are compared. Leaders were chosen for their predictions, so these are the
    most likely to be too high.
    """
    groups: dict[str, list[Prediction]] = {"trials": [], "leaders": [], "retrained_winners": []}
    observed = [t for t in trials if t.observation is not None and t.accuracy is not None]
    whole = all(t.observation and t.observation.fraction == 1 for t in observed)
    for trial in observed:
        if trial.predicted is not None and trial.std is not None and (whole or trial.kind != CONFIRMATION):
            who = "leaders" if trial.kind == CONFIRMATION else "trials"
            groups[who].append(Prediction(trial.predicted, trial.std, trial.accuracy or 0.0))
    if whole and isinstance(spec, SearchSpec) and spec.score == ACCURACY:
        budget = budget_json(spec.clock, spec.members, spec.ensemble)
        settings = {"clock": budget, "slot": context.slot.to_json()}
        groups["retrained_winners"] = [
            Prediction(row["predicted"], row["std"], fmean(row["val_accuracies"]))
            for row in retrained
            if all(row[name] == value for name, value in settings.items())
        ]
    return {name: predictions for name, predictions in groups.items() if predictions}
