"""The search: FBNetV3's algorithm 1 as ask-and-tell.

Stage one draws a pool by quasi-Monte Carlo under the constraints, asks for batches of it by predicted score, and refits the
predictor to what it is told. Stage two lets an engine search the predictor under the constraints and returns the best.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jointnas.constraint import MEASURED, Constraint, format_metric, parse_all, violations
from jointnas.engines import Evaluation, Problem, find_engine
from jointnas.errors import ConstraintError, SearchError, SpaceError, suggest
from jointnas.knobs import Codes
from jointnas.measurement.forecast import Forecast
from jointnas.measurement.meter import Meter
from jointnas.pool import feasible, pool
from jointnas.predictor import SMALLEST_FIT, Predictor, mean_and_std
from jointnas.space import Candidate, CostFunction, Space
from jointnas.training.observation import Observation

POOL = 20_000
START_BEST, START_RANDOM = 60, 40  # p and q of algorithm 1
STAGE_TWO_BUDGET = 20_000  # candidates an engine may score
CONTENDERS = 2000  # from which winners are chosen
TELL_APART = 1e-3  # difference in accuracy below which two predictions say the same
FILLING_POOL = 4096  # pool members a space-filling batch is chosen from
MOST_MEASURED = 10  # candidates measured for each winner, before too few hold their measured bounds
ACCURACY = "accuracy"


@dataclass(frozen=True)
class Winner:
    """One of the best candidates; iterates as (candidate, mean, std)."""

    candidate: Candidate
    mean: float  # predicted accuracy
    std: float  # standard deviation of the ensemble's predictions
    accuracy: float | None  # measured by this search's own training, if it was trained
    costs: dict[str, float]  # exact ones, and what was measured on the device

    def __iter__(self) -> Iterator[Any]:
        return iter((self.candidate, self.mean, self.std))


class Search:
    """Proposes candidates of a bound space that meet the constraints, learns from their accuracies, names the best.

    pool: only these candidates are ever asked or returned. cost: for an abstract space, a function from a candidate to its
    costs. predictor: a fitted one, whose examples count as told. No candidate is asked twice, and none that was told.

    objective: "max accuracy", or "min METRIC" under a constraint such as "accuracy>=0.8", which the prediction has to meet.
    meter: what measures metrics of candidates on the device (see `measurement.Meter`), for constraints and objectives on
    `constraint.MEASURED`: a forecast, whose error is `forecast_errors`, leads the search; winners are measured and meet
    their bounds. reported: further metrics to measure of winners.
    Raises `ConstraintError` when nothing meets the constraints, `SpaceError` when the space is not bound.
    """

    def __init__(
        self,
        space: Space,
        constraints: Sequence[str | Constraint] = (),
        seed: int = 0,
        *,
        pool: Sequence[Mapping[str, Any]] | None = None,
        cost: CostFunction | None = None,
        predictor: Predictor | None = None,
        pool_size: int = POOL,
        objective: str = "max accuracy",
        meter: Meter | None = None,
        reported: Sequence[str] = (),
    ) -> None:
        if predictor is not None and predictor.space != space.with_cost(cost):
            raise SearchError(
                f"a predictor answers for the space it was fitted on, got another than {space.name!r}: use predictor.space"
            )
        if not space.is_bound:
            raise SpaceError(f"a search needs a space bound to its data, got {space.name!r} unbound: use Space.bind")
        self.space = space.with_cost(cost)
        self.constraints = parse_all(constraints, (*self.space.metrics, *MEASURED, ACCURACY))
        self.objective = parse_objective(objective, (*self.space.metrics, *MEASURED))
        self.seed = seed
        self.closed = pool is not None
        self._exact = tuple(c for c in self.constraints if c.metric in self.space.metrics)
        self._trained = tuple(c for c in self.constraints if c.metric == ACCURACY)
        self._measured = tuple(c for c in self.constraints if c not in self._exact and c not in self._trained)
        self._check_accuracy_bound()
        self._reported = tuple(reported)
        self._forecast = self._make_forecast(meter)
        self._pool = self._make_pool(pool, pool_size)
        self._pool_identities = self.space.identities(self._pool)
        self._seen: set[str] = set()  # identities asked or told
        self._results: dict[str, Observation] = {}  # by identity
        self._told: list[Candidate] = []
        self._stale = False
        self.predictor = (
            copy.copy(predictor) if predictor else Predictor(self.space, seed)
        )  # fits rebind, they change nothing
        if predictor is not None:
            self.tell(predictor.candidates, list(predictor.accuracies))
            self._stale = False

    def _check_accuracy_bound(self) -> None:
        if (self.objective is None) == bool(self._trained):
            bound, remedy = (
                str(*self._trained[:1]) or "none",
                "say objective 'min macs'" if self._trained else "add accuracy>=0.8",
            )
            raise ConstraintError(
                f"a bound on accuracy goes with the objective min METRIC, got {bound} with "
                f"{'max accuracy' if self.objective is None else f'min {self.objective}'}: {remedy}"
            )

    def _make_forecast(self, meter: Meter | None) -> Forecast | None:
        """Return the forecast of the measured metrics that constraints, the objective and the report need."""
        wanted = [c.metric for c in self._measured]
        if self.objective is not None and self.objective not in self.space.metrics:
            wanted.append(self.objective)
        if not (wanted or self._reported):
            return None
        if meter is None:
            raise ConstraintError(
                f"{[*wanted, *self._reported][0]} is measured on a device, got a search without one: give it meter=Meter(…)"
            )
        return Forecast(self.space, meter, wanted, self._reported, self.seed)

    @property
    def forecast_errors(self) -> dict[str, float]:
        """The cross-validated median relative error of each measured metric's forecast; empty where none is used."""
        return self._forecast.errors if self._forecast else {}

    def _make_pool(self, given: Sequence[Mapping[str, Any]] | None, size: int) -> Codes:
        if given is None:
            return self._promising(pool(self.space, size, self._exact, self.seed))
        codes = self.space.to_codes(given)
        codes = codes[feasible(self.space, self._exact, codes)]
        if not len(codes):
            asked = ", ".join(map(str, self.constraints)) or "no constraint"
            raise ConstraintError(
                f"a pool holds a candidate that meets {asked}, got none in {len(given)}: widen the pool"
            )
        first = {identity: i for i, identity in reversed(list(enumerate(self.space.identities(codes))))}
        return self._promising(codes[sorted(first.values())])

    def _promising(self, codes: Codes) -> Codes:
        """Return those of a pool that may meet the measured bounds, as the forecast has it. Raises `ConstraintError`."""
        if self._forecast is None:
            return codes
        self._forecast.calibrate(codes)
        if not self._measured:
            return codes
        values = self._forecast.predict(codes)
        kept: Codes = codes[violations(self._measured, values).sum(axis=1) == 0]
        if not len(kept):
            reached = ", ".join(
                f"{format_metric(c.metric, values[c.metric].min() if c.is_upper else values[c.metric].max())} of {c.metric}"
                for c in self._measured
            )
            raise ConstraintError(
                f"nothing in {len(codes)} candidates is forecast to meet {', '.join(map(str, self._measured))}, the nearest "
                f"are {reached} (forecast): change the bound or the space"
            )
        return kept

    # -------------------------------------------------------------------------------------------------- stage one

    def ask(self, n: int = 1) -> list[Candidate]:
        """Return n candidates of the pool to train next: fewer when the pool runs out, none twice.

        Before two accuracies are known the batch fills the space. After that it is chosen by predicted score: the first
        by the ensemble's mean, each further one by another member, so that a batch spreads over what the ensemble holds
        possible. Raises `SearchError` when nothing is left to ask.
        """
        if n < 1:
            raise SearchError(f"a batch has one candidate or more, got {n}: ask for more")
        left = np.array(
            [i for i, identity in enumerate(self._pool_identities) if identity not in self._seen], dtype=int
        )
        if not len(left):
            raise SearchError(
                f"all {len(self._pool)} candidates of the pool were asked: loosen the constraints or the space"
            )
        rows = left[self._choose(self._pool[left], min(n, len(left)))]
        self._seen.update(self._pool_identities[i] for i in rows)
        return self.space.to_candidates(self._pool[rows])

    def _choose(self, codes: Codes, n: int) -> NDArray[np.int64]:
        if self.trained < SMALLEST_FIT:
            return space_filling(np.concatenate(self.space.encode_codes(codes[:FILLING_POOL]), axis=1), n)
        members, _ = self._refit().predict_codes(codes)  # (m, candidates)
        rng = np.random.default_rng([self.seed, len(self._seen)])
        believed = [members.mean(axis=0), *members[rng.permutation(len(members))]]
        opinions = [self._worth(codes, accuracies) for accuracies in believed]
        chosen: list[int] = []
        for i in range(n):
            order = np.argsort(-opinions[i % len(opinions)], kind="stable")
            chosen.append(next(int(j) for j in order if j not in chosen))
        return np.array(chosen)

    def _worth(self, codes: Codes, accuracies: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (n,) scores, larger is better, of candidates that are believed to have these accuracies."""
        if self.objective is None:
            return accuracies
        short = violations(self._trained, {ACCURACY: accuracies}).sum(axis=1)
        cost = self._costs(codes)[self.objective]
        return np.where(short > 0, -short, 1 / (1 + cost))

    def _costs(self, codes: Codes) -> dict[str, NDArray[np.float64]]:
        """Return exact costs and forecasts of (n, knobs) codes."""
        return {**self.space.costs(codes), **(self._forecast.predict(codes) if self._forecast else {})}

    def predict(self, candidates: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]] | None:
        """Return (mean, std) of each candidate's predicted accuracy, or None while there is nothing to predict from."""
        if self.trained < SMALLEST_FIT:
            return None
        mean, std = self._refit().predict(candidates)
        return list(zip(mean.tolist(), std.tolist(), strict=True))

    def tell(self, candidates: Sequence[Mapping[str, Any]], results: Sequence[float | Observation | None]) -> None:
        """Take the outcome of each candidate: an accuracy (larger is better), an `Observation`, or None for a failure.

        Candidates need not have been asked. Raises `CandidateError` or `SearchError`, and then takes nothing.
        """
        if len(candidates) != len(results):
            raise SearchError(
                f"every candidate has one result, got {len(candidates)} and {len(results)}: give as many of each"
            )
        observations = []
        for result in results:
            found = result if isinstance(result, Observation) else _observe(result)
            if found.accuracy is not None and not np.isfinite(found.accuracy):
                raise SearchError(f"an accuracy is a finite number, got {found.accuracy}: tell a failure as None")
            observations.append(found)
        codes = self.space.to_codes(candidates)
        identities = self.space.identities(codes)
        for candidate, identity, observation in zip(
            self.space.to_candidates(codes), identities, observations, strict=True
        ):
            before = self._results.get(identity)
            if before is None:
                self._told.append(candidate)
            self._stale |= (before.accuracy if before else None) != observation.accuracy
            self._results[identity] = observation
            self._seen.add(identity)

    @property
    def pool_size(self) -> int:
        """How many candidates the pool holds."""
        return len(self._pool)

    @property
    def exhausted(self) -> bool:
        """Whether every candidate of the pool was asked or told."""
        return self._seen.issuperset(self._pool_identities)

    @property
    def trained(self) -> int:
        """How many candidates have an accuracy."""
        return sum(o.accuracy is not None for o in self._results.values())

    @property
    def rank_correlation(self) -> float | None:
        """Kendall's τ of the predictor, cross-validated on all that was told; None before there is enough of it."""
        return self._refit().rank_correlation if self.trained >= SMALLEST_FIT else None

    def _refit(self) -> Predictor:
        """Return the predictor, fitted to everything that was told."""
        if self._stale:
            self.predictor.fit(self._told, list(self._results.values()))
            self._stale = False
        return self.predictor

    # -------------------------------------------------------------------------------------------------- stage two

    def best(self, k: int = 5, engine: str = "evolution") -> list[Winner]:
        """Return the k best candidates by predicted accuracy, none twice, all within the constraints.

        Of candidates that no member of the predictor tells apart (to 0.001) the first stands for all while others are left.

        The engine starts from the best of the pool and of what was told, and random ones of the pool; a closed pool is
        ranked whole instead. Raises `SearchError` before two accuracies are known.
        """
        run = find_engine(engine)
        if k < 1:
            raise SearchError(f"a search returns one winner or more, got {k}: ask for more")
        if self.trained < SMALLEST_FIT:
            raise SearchError(f"winners are named from {SMALLEST_FIT} accuracies on, got {self.trained}: train more")
        self._refit()
        told = self.space.to_codes(self._told)
        known = (
            self._pool if self.closed else np.concatenate([told[feasible(self.space, self._exact, told)], self._pool])
        )
        problem = Problem(self.space, self._exact, self._score, known, len(known), self.seed)
        if self.closed:
            problem.evaluate(known)
        else:
            rng = np.random.default_rng([self.seed, 2])
            found = self._score(known)
            order = np.lexsort([found.objectives[:, 0], found.violations.sum(axis=1)])
            spread = rng.permutation(len(known))[:START_RANDOM]
            problem.start = known[np.concatenate([order[:START_BEST], spread])]
            problem.budget = STAGE_TWO_BUDGET
            run(problem)
        return self._winners(problem, k)

    def _score(self, codes: Codes) -> Evaluation:
        accuracies = self.predictor.predict_codes(codes)[0].mean(axis=0)
        bounds = (*self._trained, *self._measured)
        known = {**self._costs(codes), ACCURACY: accuracies} if bounds or self.objective else {}
        objective = -accuracies if self.objective is None else known[self.objective]
        held = violations(bounds, known) if bounds else np.zeros((len(codes), 0))
        failed = np.array([self._failed(identity) for identity in self.space.identities(codes)], dtype=bool)
        return Evaluation(objective[:, None], held, failed)

    def _failed(self, identity: str) -> bool:
        return identity in self._results and self._results[identity].accuracy is None

    def _winners(self, problem: Problem, k: int) -> list[Winner]:
        """Return the k best; candidates that no member tells apart from a better one come only when too few are left."""
        codes, objectives = np.concatenate(problem.codes), np.concatenate(problem.objectives)[:, 0]
        if not len(codes):
            raise ConstraintError(
                f"a winner is predicted to meet {', '.join(map(str, (*self._trained, *self._measured)))}, got none among "
                f"{problem.spent} candidates: loosen the bound or train more"
            )
        codes = codes[np.argsort(objectives, kind="stable")[: max(CONTENDERS, k)]]
        members, shared = self.predictor.predict_codes(codes)
        distinct: list[int] = []
        wanted = k if self._forecast is None else k * MOST_MEASURED
        for i in range(len(codes)):
            if self.closed or all(np.abs(members[:, i] - members[:, j]).max() >= TELL_APART for j in distinct):
                distinct.append(i)
            if len(distinct) == wanted:
                break
        alike = [i for i in range(len(codes)) if i not in distinct][: wanted - len(distinct)]
        chosen, measured = self._measured_winners(codes, distinct + alike, k)
        mean, std = mean_and_std(members, shared)
        identities = self.space.identities(codes)
        return [
            Winner(
                candidate,
                float(mean[i]),
                float(std[i]),
                self._results[identities[i]].accuracy if identities[i] in self._results else None,
                {**self.space.cost(candidate), **measured.get(i, {})},
            )
            for i, candidate in zip(chosen, self.space.to_candidates(codes[chosen]), strict=True)
        ]

    def _measured_winners(
        self, codes: Codes, ranked: list[int], k: int
    ) -> tuple[list[int], dict[int, dict[str, float]]]:
        """Return the first k of the ranked rows that meet the measured bounds, best first, with what was measured of them."""
        if self._forecast is None:
            return sorted(ranked[:k]), {}
        chosen: list[int] = []
        measured: dict[int, dict[str, float]] = {}
        for start in range(0, len(ranked), k):
            part = ranked[start : start + k]
            for i, values in zip(part, self._forecast.measure(self.space.to_candidates(codes[part])), strict=True):
                measured[i] = values
                columns = {metric: np.array([value]) for metric, value in values.items()}
                if violations(self._measured, columns).sum() == 0:
                    chosen.append(i)
            if len(chosen) >= k:
                break
        if not chosen:
            raise ConstraintError(
                f"a winner is measured to meet {', '.join(map(str, self._measured))}, got none in {len(measured)} "
                "candidates that were forecast to: loosen the bound"
            )
        return sorted(chosen[:k]), measured


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
    return metric


def _observe(result: float | None) -> Observation:
    return Observation.failed("told as a failure") if result is None else Observation(accuracy=float(result))


def space_filling(features: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """Return n rows of (m, d) features that lie far from each other: the most central, then always the farthest."""
    chosen = [int(((features - features.mean(axis=0)) ** 2).sum(axis=1).argmin())]
    nearest = np.full(len(features), np.inf)
    for _ in range(n - 1):
        nearest = np.minimum(nearest, ((features - features[chosen[-1]]) ** 2).sum(axis=1))
        nearest[chosen] = -1.0
        chosen.append(int(nearest.argmax()))
    return np.array(chosen)
