"""A query: the constraints, the objective and the metrics to report, and how candidates stand to them."""

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
from jointnas.space.constraint import MEASURED, TRAINING_METRICS, Constraint, format_metric, parse_all, violations
from jointnas.space.knobs import Codes
from jointnas.space.sampling import feasible
from jointnas.space.space import Space

if TYPE_CHECKING:
    from jointnas.measurement.meter import Meter

ACCURACY = "accuracy"
MOST_MEASURED = 10  # candidates measured for each winner, before too few hold their measured bounds
LARGER_IS_BETTER = ("images_per_second",)


class Query:
    """What is asked of a bound space: see `Search` for the arguments. Raises `ConstraintError` and `SearchError`."""

    def __init__(
        self,
        space: Space,
        constraints: Sequence[str | Constraint] = (),
        objective: str = "max accuracy",
        meter: Meter | None = None,
        reported: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        self.space = space
        self.constraints = parse_all(constraints, (*space.metrics, *MEASURED, ACCURACY))
        self.minimised: tuple[str, ...] = (parse_objective(objective, (*space.metrics, *MEASURED)) or ACCURACY,)
        self.exact = tuple(c for c in self.constraints if c.metric in space.metrics)
        self.trained = tuple(c for c in self.constraints if c.metric == ACCURACY)
        for constraint in self.trained:
            if constraint.is_upper:
                least = f"accuracy>={constraint.bound:g}"
                raise ConstraintError(f"accuracy is bounded from below, got {constraint}: say {least}")
        self.measured = tuple(c for c in self.constraints if c not in self.exact and c not in self.trained)
        if (self.minimised == (ACCURACY,)) == bool(self.trained):
            bound = str(*self.trained[:1]) or "none"
            remedy = "say objective 'min macs'" if self.trained else "add accuracy>=0.8"
            raise ConstraintError(
                f"a bound on accuracy goes with the objective min METRIC, got {bound} with {objective}: {remedy}"
            )
        self._meter, self._reported, self._seed = meter, tuple(reported), seed
        self.forecast = self._make_forecast()

    def _make_forecast(self) -> Forecast | None:
        """Return the forecast of the measured metrics that constraints, the objective and the report need."""
        wanted = [c.metric for c in self.measured]
        wanted += [m for m in self.minimised if m != ACCURACY and m not in self.space.metrics]
        if not (wanted or self._reported):
            return None
        if self._meter is None:
            raise ConstraintError(
                f"{[*wanted, *self._reported][0]} is measured on a device, got a search without one: give it meter=Meter(…)"
            )
        return Forecast(self.space, self._meter, wanted, self._reported, self._seed)

    def as_front(self, metric: str, codes: Codes) -> Query:
        """Return this query with two objectives, accuracy and a cost; a measured one is forecast for (n, knobs) codes.

        Raises `SearchError` for what is no cost, `ConstraintError` for a metric that cannot be measured here.
        """
        measured = MEASURED if self._meter is not None else ()
        known = [m for m in (*self.space.metrics, *measured) if m not in LARGER_IS_BETTER]
        if metric not in known:
            raise SearchError(
                f"a front is of accuracy and one of {', '.join(known)}, got {metric!r}: choose one of them"
            )
        query = copy.copy(self)
        query.minimised = (ACCURACY, metric)
        if metric not in (*self.space.metrics, *(self.forecast.metrics if self.forecast else ())):
            query.forecast = query._make_forecast()
            query.promising(codes)
        return query

    @property
    def measures_objective(self) -> bool:
        """Whether the (first) objective is measured on the device."""
        return self.forecast is not None and self.minimised[0] in self.forecast.measured

    def feasible(self, codes: Codes) -> NDArray[np.bool_]:
        """Return which of (n, knobs) codes meet the exact constraints."""
        return feasible(self.space, self.exact, codes)

    def believed(self, codes: Codes) -> NDArray[np.bool_]:
        """Return which of (n, knobs) codes meet the exact constraints, and the measured ones as the forecast has it."""
        held = self.feasible(codes)
        if self.forecast is not None and self.measured:
            held &= violations(self.measured, self.forecast.predict(codes)).sum(axis=1) == 0
        return held

    def costs(self, codes: Codes) -> dict[str, NDArray[np.float64]]:
        """Return exact costs and forecasts of (n, knobs) codes."""
        return {**self.space.costs(codes), **(self.forecast.predict(codes) if self.forecast else {})}

    def evaluation(self, codes: Codes, accuracies: NDArray[np.float64]) -> Evaluation:
        """Return how (n, knobs) codes with (n,) accuracies stand to the objectives and the bounds that are not exact.

        A candidate without an accuracy (NaN) has failed.
        """
        bounds = (*self.trained, *self.measured)
        known = {} if self.minimised == (ACCURACY,) and not bounds else self.costs(codes)
        known[ACCURACY] = accuracies
        columns = [-known[m] if m == ACCURACY else known[m] for m in self.minimised]
        held = violations(bounds, known) if bounds else np.zeros((len(codes), 0))
        return Evaluation(np.stack(columns, axis=1), held, np.isnan(accuracies))

    def worth(self, codes: Codes, accuracies: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (n,) scores, larger is better, of candidates that are believed to have these accuracies."""
        if self.minimised == (ACCURACY,):
            return accuracies
        found = self.evaluation(codes, accuracies)
        short = found.violations.sum(axis=1)
        return np.where(
            short > 0, -short, np.arctan2(1.0, found.objectives[:, 0])
        )  # falls from π to 0, exact where large

    def promising(self, codes: Codes) -> Codes:
        """Return those of a pool that may meet the measured bounds, as the forecast has it. Raises `ConstraintError`."""
        if self.forecast is None:
            return codes
        self.forecast.calibrate(codes)
        if not self.measured:
            return codes
        values = self.forecast.predict(codes)
        kept: Codes = codes[violations(self.measured, values).sum(axis=1) == 0]
        if not len(kept):
            reached = ", ".join(
                f"{format_metric(c.metric, values[c.metric].min() if c.is_upper else values[c.metric].max())} of {c.metric}"
                for c in self.measured
            )
            raise ConstraintError(
                f"nothing in {len(codes)} candidates is forecast to meet {', '.join(map(str, self.measured))}, the nearest "
                f"are {reached} (forecast): change the bound or the space"
            )
        return kept

    def measure(self, codes: Codes, ranked: Sequence[int], k: int) -> tuple[list[int], dict[int, dict[str, float]]]:
        """Return the first k of the ranked rows of codes that are measured to meet the bounds, and what was measured.

        Where the objective is measured, they come in its order. Where nothing is measured, the first k. An architecture that
        breaks a bound at inference breaks it with every recipe that scores as many views: it is measured once. At most 10 k rows are
        measured. Raises `ConstraintError` when none meets the bounds.
        """
        if self.forecast is None:
            return list(ranked[:k]), {}
        chosen: list[int] = []
        measured: dict[int, dict[str, float]] = {}
        at_inference = [c for c in self.measured if c.metric not in TRAINING_METRICS]
        broken: set[bytes] = set()
        scored = np.column_stack([codes[:, : self.space.n_architecture], self.space.views(codes)])
        inferences = [row.tobytes() for row in scored]
        for i in ranked:
            if len(chosen) >= k or len(measured) >= k * MOST_MEASURED:
                break
            if inferences[i] in broken:
                continue
            (values,) = self.forecast.measure(self.space.to_candidates(codes[[i]]))
            measured[i] = values
            columns = {metric: np.array([value]) for metric, value in values.items()}
            if violations(at_inference, columns).sum() > 0:
                broken.add(inferences[i])
            known = not any(np.isnan(values[m]) for m in self.minimised if m in values)
            if known and violations(self.measured, columns).sum() == 0:
                chosen.append(i)
        if not chosen:
            failures = self.forecast.meter.failures
            reason = f" (measuring failed: {failures[0]})" if failures else ""
            raise ConstraintError(
                f"a winner is measured to meet {', '.join(map(str, self.measured))}, got none in {len(measured)} "
                f"candidates that were forecast to{reason}: loosen the bound"
            )
        if self.measures_objective:
            chosen.sort(key=lambda i: measured[i][self.minimised[0]])
        return chosen, measured


def parse_objective(text: str, metrics: Sequence[str]) -> str | None:
    """Return the metric that "min METRIC" names, or None for "max accuracy". Raises `SearchError`."""
    match = re.fullmatch(r"\s*(min|max)\s+(\w+)\s*", text)
    side, metric = match.groups() if match else ("", "")
    if (side, metric) == ("max", ACCURACY):
        return None
    if side != "min":
        raise SearchError(f"an objective is 'max accuracy' or 'min METRIC', got {text!r}: say it like 'min macs'")
    if metric not in metrics:
        raise SearchError(f"no metric is called {metric!r} in {text!r}: {suggest(metric, metrics)}")
    if metric in LARGER_IS_BETTER:
        raise SearchError(
            f"an objective is a cost, got {text!r}, of which more is better: bound it, as in '{metric}>2000'"
        )
    return metric
