"""A query: constraints, objective and metrics to report; it evaluates candidates, and measures those that may win."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jointnas.errors import ConstraintError, SearchError, suggest
from jointnas.measurement.forecast import Forecast
from jointnas.search.engines import Evaluation
from jointnas.search.reference import Reference
from jointnas.space.constraint import MEASURED, TRAINING_METRICS, Constraint, format_metric, parse_all, violations
from jointnas.space.knobs import Codes
from jointnas.space.sampling import feasible
from jointnas.space.space import Space
from jointnas.training.observation import ACCURACY, BALANCED_ACCURACY, LOG_LOSS, MACRO_F1

if TYPE_CHECKING:
    from jointnas.measurement.meter import Meter

SCORE_NAMES = {
    ACCURACY: "accuracy",
    BALANCED_ACCURACY: "balanced accuracy",
    MACRO_F1: "macro F1",
    LOG_LOSS: "likelihood",
}
"""What people read for each score; the likelihood is exp(−log-loss)."""

MAX_MEASURED = 10  # candidates that are measured for each winner
LARGEST_FORECAST_ERROR = (
    0.3  # median relative error; above it every second candidate is wrong by a third, as on a loaded machine
)
LARGER_IS_BETTER = ("images_per_second",)
EFFICIENCY = "efficiency"


class Query:
    """Constraints and objective over a bound space: see `Search` for the arguments. Raises `ConstraintError` and `SearchError`."""

    def __init__(
        self,
        space: Space,
        constraints: Sequence[str | Constraint] = (),
        objective: str = "max accuracy",
        meter: Meter | None = None,
        reported: Sequence[str] = (),
        seed: int = 0,
        reference: Reference | None = None,
    ) -> None:
        self.space, self.reference = space, reference
        self.constraints = parse_all(constraints, (*space.metrics, *MEASURED, ACCURACY))
        metrics = (*space.metrics, *MEASURED)
        self.objectives: tuple[str, ...] = (parse_objective(objective, metrics, reference) or ACCURACY,)
        self.exact = tuple(c for c in self.constraints if c.metric in space.metrics)
        self.accuracy_bounds = tuple(c for c in self.constraints if c.metric == ACCURACY)
        for constraint in self.accuracy_bounds:
            if constraint.is_upper:
                lower = f"accuracy>={constraint.bound:g}"
                raise ConstraintError(f"accuracy takes a lower bound, got {constraint}: write {lower}")
        self.measured = tuple(c for c in self.constraints if c not in self.exact and c not in self.accuracy_bounds)
        if self.accuracy_bounds and self.objectives == (ACCURACY,):
            raise ConstraintError(
                f"the bound {self.accuracy_bounds[0]} needs an objective that minimises a cost: use for example 'min macs'"
            )
        if not self.accuracy_bounds and self.objectives not in ((ACCURACY,), (EFFICIENCY,)):
            raise ConstraintError(
                f"the objective {objective!r} needs a bound on accuracy: add for example accuracy>=0.8"
            )
        self.meter, self._reported, self._seed = meter, tuple(reported), seed
        self.forecast = self._make_forecast()

    def _make_forecast(self) -> Forecast | None:
        """Return the forecast, not calibrated yet, of the measured metrics in constraints, objective and report."""
        metrics = [c.metric for c in self.measured]
        compared = self.reference.costs if self.reference else ()
        metrics += [m for m in (*self.objectives, *compared) if m not in (ACCURACY, EFFICIENCY, *self.space.metrics)]
        metrics = list(dict.fromkeys(metrics))
        if not (metrics or self._reported):
            return None
        if self.meter is None:
            raise ConstraintError(
                f"{[*metrics, *self._reported][0]} is measured on a device, but the search has no meter: pass meter=Meter(…)"
            )
        return Forecast(self.space, self.meter, metrics, self._reported, self._seed)

    def as_front(self, metric: str, codes: Codes) -> Query:
        """Return this query with two objectives, accuracy and a cost; a measured cost is calibrated on (n, knobs) codes.

        Raises `SearchError` for a metric that is not a cost, `ConstraintError` for one that cannot be measured here.
        """
        measured = MEASURED if self.meter is not None else ()
        costs = [m for m in (*self.space.metrics, *measured) if m not in LARGER_IS_BETTER]
        if metric not in costs:
            raise SearchError(f"a front needs accuracy and a cost, got {metric!r}: choose from {', '.join(costs)}")
        query = copy.copy(self)
        query.objectives = (ACCURACY, metric)
        if metric not in (*self.space.metrics, *(self.forecast.metrics if self.forecast else ())):
            query.forecast = query._make_forecast()
            query.calibrate(codes)
        return query

    @property
    def measures_objective(self) -> bool:
        """Whether the (first) objective is measured on the device."""
        return self.forecast is not None and self.objectives[0] in self.forecast.measured

    def feasible(self, codes: Codes) -> NDArray[np.bool_]:
        """Return which of (n, knobs) codes meet the exact constraints."""
        return feasible(self.space, self.exact, codes)

    def forecast_feasible(self, codes: Codes) -> NDArray[np.bool_]:
        """Return which of (n, knobs) codes meet the exact constraints and are forecast to meet the measured ones."""
        mask = self.feasible(codes)
        if self.forecast is not None and self.measured:
            mask &= violations(self.measured, self.forecast.predict(codes)).sum(axis=1) == 0
        return mask

    def costs(self, codes: Codes) -> dict[str, NDArray[np.float64]]:
        """Return the exact and forecast costs of (n, knobs) codes."""
        return {**self.space.costs(codes), **(self.forecast.predict(codes) if self.forecast else {})}

    def evaluate(self, codes: Codes, accuracies: NDArray[np.float64]) -> Evaluation:
        """Return the objectives of (n, knobs) codes with (n,) accuracies, and their violations of bounds that are not exact.

        A candidate without an accuracy (NaN) has failed.
        """
        bounds = (*self.accuracy_bounds, *self.measured)
        metrics = {} if self.objectives == (ACCURACY,) and not bounds else self.costs(codes)
        metrics[ACCURACY] = accuracies
        if self.reference is not None and EFFICIENCY in self.objectives:
            metrics[EFFICIENCY] = self.reference.efficiencies(accuracies, metrics)
        columns = [-metrics[m] if m in (ACCURACY, EFFICIENCY) else metrics[m] for m in self.objectives]
        excess = violations(bounds, metrics) if bounds else np.zeros((len(codes), 0))
        return Evaluation(np.stack(columns, axis=1), excess, np.isnan(accuracies))

    def utility(self, codes: Codes, accuracies: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return one number for each of (n, knobs) codes with (n,) accuracies, larger is better: any violation is below all others."""
        if self.objectives == (ACCURACY,):
            return accuracies
        evaluation = self.evaluate(codes, accuracies)
        excess = evaluation.violations.sum(axis=1)
        falling = np.arctan2(1.0, evaluation.objectives[:, 0])  # from π to 0, exact for large costs
        return np.where(excess > 0, -excess, falling)

    def calibrate(self, codes: Codes) -> Codes:
        """Calibrate the forecast on (n, knobs) codes; return those that are forecast to meet the measured bounds.

        Raises `ConstraintError` when none is.
        """
        if self.forecast is None:
            return codes
        self.forecast.calibrate(codes)
        if not self.measured:
            return codes
        values = self.forecast.predict(codes)
        remaining: Codes = codes[violations(self.measured, values).sum(axis=1) == 0]
        if not len(remaining):
            nearest = ", ".join(
                f"{format_metric(c.metric, values[c.metric].min() if c.is_upper else values[c.metric].max())} of {c.metric}"
                for c in self.measured
            )
            raise ConstraintError(
                f"none of {len(codes)} candidates is forecast to meet {', '.join(map(str, self.measured))}, the nearest "
                f"forecast is {nearest}: change the bound or the space"
            )
        return remaining

    @property
    def warnings(self) -> list[str]:
        """A sentence for each measured metric whose forecast is too inaccurate to rely on; empty before it is calibrated."""
        return [
            f"the forecast of {metric} is unreliable (median error {100 * error:.1f} %, more than "
            f"{100 * LARGEST_FORECAST_ERROR:.0f} %): winners are measured and meet their bounds, but better candidates may be missed; "
            "repeat the measurement on an idle machine"
            for metric, error in (self.forecast.errors if self.forecast else {}).items()
            if error > LARGEST_FORECAST_ERROR
        ]

    def measure(self, codes: Codes, ranked: Sequence[int], k: int) -> tuple[list[int], dict[int, dict[str, float]]]:
        """Return the first k ranked rows of codes that meet the measured bounds, and the measured metrics by row.

        They come in the order of a measured objective, else in that of the ranking. An architecture that breaks a bound at inference
        is measured once for all recipes that score as many views. At most 10 k rows are measured. Raises `ConstraintError` when none
        meets the bounds.
        """
        if self.forecast is None:
            return list(ranked[:k]), {}
        chosen: list[int] = []
        measured: dict[int, dict[str, float]] = {}
        at_inference = [c for c in self.measured if c.metric not in TRAINING_METRICS]
        infeasible: set[bytes] = set()
        networks = np.column_stack([codes[:, : self.space.n_architecture], self.space.views(codes)])
        keys = [row.tobytes() for row in networks]
        for i in ranked:
            if len(chosen) >= k or len(measured) >= k * MAX_MEASURED:
                break
            if keys[i] in infeasible:
                continue
            (values,) = self.forecast.measure(self.space.to_candidates(codes[[i]]))
            measured[i] = values
            columns = {metric: np.array([value]) for metric, value in values.items()}
            if violations(at_inference, columns).sum() > 0:
                infeasible.add(keys[i])
            succeeded = not any(np.isnan(values[m]) for m in self.objectives if m in values)
            if succeeded and violations(self.measured, columns).sum() == 0:
                chosen.append(i)
        if not chosen:
            failures = self.forecast.meter.failures
            reason = f" (a measurement failed: {failures[0]})" if failures else ""
            raise ConstraintError(
                f"none of the {len(measured)} best candidates meets {', '.join(map(str, self.measured))} when measured"
                f"{reason}: loosen the bound"
            )
        if self.measures_objective:
            chosen.sort(key=lambda i: measured[i][self.objectives[0]])
        return chosen, measured


def score_of(objective: str) -> str:
    """Return which of `SCORES` an objective maximises; the accuracy where it minimises a cost."""
    side, _, metric = objective.strip().partition(" ")
    return metric.strip() if (side, metric.strip()) in _SCORED else ACCURACY


def objective_of(score: str) -> str:
    """Return the objective that maximises one of `SCORES`. Raises `ValueError` for what is none."""
    side = next((side for side, metric in _SCORED if metric == score), None)
    if side is None:
        raise ValueError(f"no score is called {score!r}")
    return f"{side} {score}"


def predicted_objective(objective: str) -> str:
    """Return a run's objective as the predictor sees it: scores of trainings take the place of their accuracies."""
    return objective if score_of(objective) == ACCURACY else f"max {ACCURACY}"


_SCORED = {("max", ACCURACY), ("max", BALANCED_ACCURACY), ("max", MACRO_F1), ("min", LOG_LOSS)}


def parse_objective(text: str, metrics: Sequence[str], reference: Reference | None = None) -> str | None:
    """Return the cost that "min METRIC" names, `EFFICIENCY`, or None for "max accuracy". Raises `SearchError`.

    reference: the models that an efficiency is relative to.
    """
    match = re.fullmatch(r"\s*(min|max)\s+(\w+)\s*", text)
    side, metric = match.groups() if match else ("", "")
    if (side, metric) == ("max", EFFICIENCY):
        if reference is None:
            raise SearchError("'max efficiency' compares with other models: name a run or a table with --relative-to")
        unknown = next((name for name in reference.costs if name not in metrics), None)
        if unknown is not None:
            raise SearchError(
                f"candidates have no cost {unknown!r}, by which --relative-to compares: {suggest(unknown, metrics)}"
            )
        return EFFICIENCY
    if reference is not None:
        raise SearchError(f"--relative-to goes with 'max efficiency', got the objective {text!r}: drop one of them")
    if (side, metric) == ("max", ACCURACY):
        return None
    if (side, metric) in _SCORED:
        raise SearchError(
            f"the objective {text!r} is of trainings that a search runs itself, got it for accuracies that are given: use 'max accuracy'"
        )
    if side != "min":
        raise SearchError(
            f"the objective {text!r} is neither 'max accuracy' (or balanced_accuracy, macro_f1) nor 'min METRIC': write for example "
            "'min log_loss' or 'min macs'"
        )
    if metric not in metrics:
        raise SearchError(f"no metric is called {metric!r} in {text!r}: {suggest(metric, metrics)}")
    if metric in LARGER_IS_BETTER:
        raise SearchError(
            f"the objective {text!r} minimises a metric that should be large: use a constraint such as '{metric}>2000'"
        )
    return metric
