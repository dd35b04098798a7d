"""Stage two of algorithm 1: engines search the fitted predictor; their best candidates and the best trained ones are ranked together.

Of thousands of predictions the highest are too high. So candidates are ranked by a lower confidence bound of their mean accuracy, a number
of standard deviations (`deviations`) below its median: one that was trained is known better than one that was not, and stands above it unless
the prediction is clearly higher.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jointnas.errors import ConstraintError
from jointnas.predictor.contract import Predictor
from jointnas.search.engines import Engine, Evaluation, Problem, evolve_front
from jointnas.search.objective import EFFICIENCY, Query
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Codes
from jointnas.training.observation import ACCURACY

START_BEST, START_RANDOM = 60, 40  # p and q of algorithm 1
STAGE_TWO_BUDGET = 20_000  # candidates that an engine may evaluate
FINALISTS = 1024  # candidates, those with the best medians first, that are ranked by their lower bounds at a time
RESOLUTION = 0.3  # of scores: two candidates that differ by less under every sampled function are duplicates


@dataclass(frozen=True)
class Winner:
    """One of the best candidates; iterates as (candidate, mean, std)."""

    candidate: Candidate
    mean: float  # predicted accuracy
    std: float  # of the prediction
    accuracy: float | None  # mean of its trainings; None for a candidate that was not trained
    costs: dict[str, float]  # exact ones, and those measured on the device
    found_by: tuple[str, ...] = ()  # the engines that evaluated it, where several were used

    def __iter__(self) -> Iterator[Any]:
        return iter((self.candidate, self.mean, self.std))


@dataclass(frozen=True)
class EngineReport:
    """What an engine did in stage two: candidates scored, seconds, and the best objective (None without a feasible candidate)."""

    engine: str
    scored: int
    seconds: float
    best: float | None


class Selection(NamedTuple):
    """Selected candidates in their order, with the measured metrics of each and the engines that evaluated it."""

    codes: Codes  # (n, knobs)
    measured: list[Mapping[str, float]]
    engines: list[tuple[str, ...]]  # empty where one engine was used
    reports: tuple[EngineReport, ...]

    @classmethod
    def of_rows(
        cls,
        codes: Codes,
        rows: Sequence[int],
        measured: Mapping[int, Mapping[str, float]],
        engines: list[tuple[str, ...]] | None = None,
        reports: tuple[EngineReport, ...] = (),
    ) -> Selection:
        """Return the selection of these rows of codes; measured metrics are given by row."""
        return cls(codes[rows], [measured.get(i, {}) for i in rows], engines or [()] * len(rows), reports)


class PredictorSearch:
    """The search of a fitted predictor under a query.

    observed, pool: (n, knobs) feasible codes from which engines start; where `closed`, only those of the pool may be returned.
    failed: identities of candidates whose training failed.
    """

    def __init__(
        self,
        predictor: Predictor,
        query: Query,
        observed: Codes,
        pool: Codes,
        failed: Set[str],
        seed: int,
        *,
        closed: bool,
        deviations: float,
    ) -> None:
        self.predictor, self.query, self.seed, self.deviations = predictor, query, seed, deviations
        self._space, self._failed, self._closed = query.space, failed, closed
        self._observed = observed[:0] if closed else observed
        self._candidates = np.concatenate([self._observed, pool])

    def best(self, engines: Mapping[str, Engine], k: int) -> Selection:
        """Return the k best that meet all bounds; see `Search.best`. Raises `ConstraintError`."""
        problems, reports = self._run(engines)
        results = [problem.results() for problem in problems.values()]
        codes = np.concatenate([codes for codes, _ in results])
        objectives = np.concatenate([objectives[:, 0] for _, objectives in results])
        codes = np.concatenate([self._leading_observed(), codes[np.argsort(objectives, kind="stable")]])
        codes, ranked = self._finalists(codes[self._space.distinct(codes)[0]], k)
        if not len(codes):
            bounds = ", ".join(map(str, (*self.query.accuracy_bounds, *self.query.measured)))
            evaluated = sum(problem.spent for problem in problems.values())
            raise ConstraintError(
                f"none of {evaluated} candidates is predicted to meet {bounds}: loosen the bound or train more"
            )
        chosen, measured = self.query.measure(codes, ranked, k)
        if not self.query.measures_objective:
            chosen = [chosen[i] for i in self._evaluate(codes[chosen], self._lower_bounds).ranked()]
        names = [
            tuple(n for n, p in problems.items() if not p.is_fresh(codes[i : i + 1])[0]) if len(problems) > 1 else ()
            for i in chosen
        ]
        return Selection.of_rows(codes, chosen, measured, names, reports)

    def front(self, metric: str, k: int) -> Selection:
        """Return at most k of the front of accuracy and a cost; see `Search.front`. Raises `ConstraintError`."""
        problems, reports = self._run({"nsga2": evolve_front})
        (problem,) = problems.values()
        codes, objectives = problem.results()
        codes = self._ranked(codes[front(objectives)], self._mean)
        if not len(codes):
            raise ConstraintError(f"none of {problem.spent} candidates meets the bounds of the front: loosen them")
        objectives = self._evaluate(codes, self._mean).objectives
        best = front(objectives)
        first = spread_out(objectives, best, k).tolist()
        substitutes = [i for i in best.tolist() if i not in first] if self.query.forecast else []
        chosen, measured = self.query.measure(codes, [*first, *substitutes], k)
        values = [[objectives[i, 0], measured.get(i, {}).get(metric, objectives[i, 1])] for i in chosen]
        rows = [chosen[i] for i in front(np.array(values))]
        return Selection.of_rows(codes, rows, measured, reports=reports)

    def _run(self, engines: Mapping[str, Engine]) -> tuple[dict[str, Problem], tuple[EngineReport, ...]]:
        """Return each engine's problem after its search, and the reports; a closed pool is one problem, evaluated whole."""
        if self._closed:
            pool, exact = self._candidates, self.query.exact
            problem = Problem(self._space, exact, self._evaluate, pool, len(pool), self.seed)
            problem.evaluate(pool)
            return {"": problem}, ()
        rng = np.random.default_rng([self.seed, 2])
        random = rng.permutation(len(self._candidates))[:START_RANDOM]
        best = _leading(self._evaluate(self._candidates), START_BEST)
        start = self._candidates[np.concatenate([best, random])]
        problems = {
            name: Problem(self._space, self.query.exact, self._evaluate, start, STAGE_TWO_BUDGET, self.seed)
            for name in engines
        }
        sign = -1 if self.query.objectives[0] in (ACCURACY, EFFICIENCY) else 1
        return problems, tuple(_timed(name, run, problems[name], sign) for name, run in engines.items())

    def _evaluate(
        self, codes: Codes, accuracies_of: Callable[[Codes], NDArray[np.float64]] | None = None
    ) -> Evaluation:
        """Return the evaluation of codes by their median accuracies, or by those that a function returns."""
        accuracies = (accuracies_of or self.predictor.median_codes)(codes)
        if self._failed:
            accuracies[[identity in self._failed for identity in self._space.identities(codes)]] = np.nan
        return self.query.evaluate(codes, accuracies)

    def _mean(self, codes: Codes) -> NDArray[np.float64]:
        return self.predictor.predict_codes(codes)[0]

    def _lower_bounds(self, codes: Codes) -> NDArray[np.float64]:
        """Return the accuracies that rank (n, knobs) codes: their lower bounds, or their means where a cost is the objective."""
        if self.query.objectives != (ACCURACY,):
            return self._mean(codes)
        return self.predictor.bound_codes(codes, -self.deviations)

    def _leading_observed(self) -> Codes:
        """Return the best of the observed candidates, at most `START_BEST`."""
        if not len(self._observed):
            return self._observed
        ranked: Codes = self._observed[self._evaluate(self._observed, self._lower_bounds).ranked()[:START_BEST]]
        return ranked

    def _finalists(self, codes: Codes, k: int) -> tuple[Codes, list[int]]:
        """Return the best of (n, knobs) codes, and the order in which to choose k of them: duplicates come last.

        Reads on in the codes until there are k that are no duplicates.
        """
        finalists, members, distinct = codes[:0], np.zeros((self.predictor.members, 0)), list[int]()
        for start in range(0, len(codes), FINALISTS):
            part = self._ranked(codes[start : start + FINALISTS], self._lower_bounds)
            finalists = np.concatenate([finalists, part])
            if self._closed:
                distinct = list(range(len(finalists)))
            else:
                scores = self.predictor.sample_scores(part, len(members), [self.seed])
                members = np.concatenate([members, scores], axis=1)
                distinct = distinct_columns(members, k)
            if len(distinct) >= k:
                break
        duplicates = sorted(set(range(len(finalists))) - set(distinct))
        return finalists, [*distinct, *duplicates]

    def _ranked(self, codes: Codes, accuracies_of: Callable[[Codes], NDArray[np.float64]]) -> Codes:
        """Return those of (n, knobs) codes that meet the bounds by these accuracies, best first."""
        evaluation = self._evaluate(codes, accuracies_of)
        feasible: Codes = codes[[i for i in evaluation.ranked() if evaluation.violations[i].sum() == 0]]
        return feasible


def distinct_columns(scores: NDArray[np.float64], k: int) -> list[int]:
    """Return the first columns, at most k, of (m, n) scores that differ by `RESOLUTION` in a row from each column before them."""
    differs = np.ones(scores.shape[1], dtype=bool)
    columns: list[int] = []
    while differs.any() and len(columns) < k:
        columns.append(int(differs.argmax()))
        differs &= np.abs(scores - scores[:, columns[-1:]]).max(axis=0) >= RESOLUTION
    return columns


def _timed(name: str, engine: Engine, problem: Problem, sign: int) -> EngineReport:
    """Run an engine and return its report. sign: -1 where the objective is minimised as its negative."""
    began = time.perf_counter()
    engine(problem)
    seconds = time.perf_counter() - began
    objectives = problem.results()[1]
    best = float(sign * objectives[:, 0].min()) if len(objectives) else None
    return EngineReport(name, problem.spent, seconds, best)


def _leading(evaluation: Evaluation, n: int) -> NDArray[np.int64]:
    """Return n rows to start from: the best by one objective, or rows spread over the front of two."""
    ranked = evaluation.ranked()
    if evaluation.objectives.shape[1] == 1 or not len(ranked):
        return ranked[:n]
    objectives = evaluation.objectives[ranked]
    return np.asarray(ranked[spread_out(objectives, front(objectives), n)], dtype=np.int64)


def front(objectives: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the Pareto-optimal rows of (n, 2) objectives, both minimised, in ascending order of the second."""
    if not len(objectives):
        return np.zeros(0, dtype=np.int64)
    order = np.lexsort([objectives[:, 0], objectives[:, 1]])
    best = np.minimum.accumulate(objectives[order, 0])
    better = np.concatenate([[True], best[1:] < best[:-1]])
    return np.asarray(order[better], dtype=np.int64)


def spread_out(objectives: NDArray[np.float64], front: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Return at most k rows of a front in its order: both ends, then always the row farthest from those chosen.

    Distances are in accuracy and in the logarithm of the cost (the cost itself where it is not positive), each as a share of its range.
    """
    if len(front) <= k:
        return front
    points = objectives[front]
    if points[:, 1].min() > 0:
        points[:, 1] = np.log(points[:, 1])
    points = (points - points.min(axis=0)) / np.maximum(np.ptp(points, axis=0), 1e-12)
    chosen = [0, len(front) - 1][:k]
    while len(chosen) < k:
        distance = np.linalg.norm(points[:, None] - points[chosen], axis=2).min(axis=1)
        distance[chosen] = -1.0
        chosen.append(int(distance.argmax()))
    return front[sorted(chosen)]
