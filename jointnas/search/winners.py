"""Stage two of algorithm 1: engines search a fitted predictor, and what they found is compared by expected accuracies."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jointnas.errors import ConstraintError
from jointnas.predictor.gp_predictor import Predictor
from jointnas.search.engines import Engine, Evaluation, Problem, evolve_front
from jointnas.search.objective import Query
from jointnas.space.knobs import Codes

START_BEST, START_RANDOM = 60, 40  # p and q of algorithm 1
STAGE_TWO_BUDGET = 20_000  # candidates an engine may score
FINALISTS = 1024  # of what an engine found by medians, which are compared by expected accuracies
TELL_APART = 0.3  # difference, as a share of the accuracies' spread, below which two predictions say the same


@dataclass(frozen=True)
class EngineReport:
    """What an engine did in stage two: candidates scored, seconds, and the objective of the best, None where it found none."""

    engine: str
    scored: int
    seconds: float
    best: float | None


class Found(NamedTuple):
    """What a query is answered with, in this order: codes, what was measured of each, which engines scored each, their reports."""

    codes: Codes  # (n, knobs)
    measured: list[Mapping[str, float]]
    finders: list[tuple[str, ...]]  # named where several were asked
    reports: tuple[EngineReport, ...]

    @classmethod
    def of(
        cls,
        codes: Codes,
        rows: Sequence[int],
        measured: Mapping[int, Mapping[str, float]],
        finders: list[tuple[str, ...]] | None = None,
        reports: tuple[EngineReport, ...] = (),
    ) -> Found:
        """Return these rows of codes, with what was measured by row."""
        return cls(codes[rows], [measured.get(i, {}) for i in rows], finders or [()] * len(rows), reports)


class StageTwo:
    """What a predictor believes best under a query.

    known: (n, knobs) codes within the exact constraints, from which engines start; `closed`: nothing else is ever returned.
    failed: identities of candidates whose training failed.
    """

    def __init__(
        self, predictor: Predictor, query: Query, known: Codes, failed: Set[str], seed: int, *, closed: bool
    ) -> None:
        self.predictor, self.query, self.seed = predictor, query, seed
        self._space, self._known, self._failed, self._closed = query.space, known, failed, closed

    def best(self, engines: Mapping[str, Engine], k: int) -> Found:
        """Return the k best by predicted accuracy that meet all bounds; see `Search.best`. Raises `ConstraintError`."""
        problems, reports = self._searched(engines)
        found = [problem.results() for problem in problems.values()]
        codes = np.concatenate([codes for codes, _ in found])
        objectives = np.concatenate([objectives[:, 0] for _, objectives in found])
        codes = codes[np.argsort(objectives, kind="stable")]
        codes = codes[self._space.distinct(codes)[0]] if len(problems) > 1 else codes
        codes, ranked = self._finalists(codes, k)
        if not len(codes):
            bounds = ", ".join(map(str, (*self.query.trained, *self.query.measured)))
            scored = sum(problem.spent for problem in problems.values())
            raise ConstraintError(
                f"a winner is predicted to meet {bounds}, got none among {scored} candidates: loosen the bound or train more"
            )
        chosen, measured = self.query.measure(codes, ranked, k)
        if not self.query.measures_objective:
            chosen = [chosen[i] for i in self._score(codes[chosen], expected=True).ranked()]
        finders = [
            tuple(n for n, p in problems.items() if not p.is_fresh(codes[i : i + 1])[0]) if len(problems) > 1 else ()
            for i in chosen
        ]
        return Found.of(codes, chosen, measured, finders, reports)

    def front(self, metric: str, k: int) -> Found:
        """Return at most k of the front of accuracy and a cost; see `Search.front`. Raises `ConstraintError`."""
        problems, reports = self._searched({"nsga2": evolve_front})
        (problem,) = problems.values()
        codes, objectives = problem.results()
        codes = self._expected(codes[front(objectives)])
        if not len(codes):
            raise ConstraintError(f"a front has a candidate, got none among {problem.spent}: loosen the bounds")
        objectives = self._score(codes, expected=True).objectives
        best = front(objectives)
        first = spread_out(objectives, best, k).tolist()
        others = (
            [i for i in best.tolist() if i not in first] if self.query.forecast else []
        )  # where the first break a bound
        chosen, measured = self.query.measure(codes, [*first, *others], k)
        values = [[objectives[i, 0], measured.get(i, {}).get(metric, objectives[i, 1])] for i in chosen]
        rows = [chosen[i] for i in front(np.array(values))]
        return Found.of(codes, rows, measured, reports=reports)

    def _searched(self, engines: Mapping[str, Engine]) -> tuple[dict[str, Problem], tuple[EngineReport, ...]]:
        """Return each engine's problem, searched, with its report; where it is closed one problem that holds all that is known."""
        if self._closed:
            known, exact = self._known, self.query.exact
            problem = Problem(self._space, exact, self._score, known, len(known), self.seed)
            problem.evaluate(known)
            return {"": problem}, ()
        rng = np.random.default_rng([self.seed, 2])
        spread = rng.permutation(len(self._known))[:START_RANDOM]
        start = self._known[np.concatenate([_leading(self._score(self._known), START_BEST), spread])]
        problems = {
            name: Problem(self._space, self.query.exact, self._score, start, STAGE_TWO_BUDGET, self.seed)
            for name in engines
        }
        return problems, tuple(_timed(name, run, problems[name]) for name, run in engines.items())

    def _score(self, codes: Codes, *, expected: bool = False) -> Evaluation:
        """Return how codes stand to the query by the medians of their predicted accuracies, or by the expected ones."""
        accuracies = self.predictor.predict_codes(codes)[0] if expected else self.predictor.median_codes(codes)
        if self._failed:
            accuracies[[identity in self._failed for identity in self._space.identities(codes)]] = np.nan
        return self.query.evaluation(codes, accuracies)

    def _finalists(self, codes: Codes, k: int) -> tuple[Codes, list[int]]:
        """Return those of (n, knobs) codes, the best first, to choose k of, and the order to choose them in.

        Behind all others come those that no member tells apart from one before them. Looks on until k are told apart.
        """
        kept, members, distinct = codes[:0], np.zeros((self.predictor.members, 0)), list[int]()
        for start in range(0, len(codes), FINALISTS):
            part = self._expected(codes[start : start + FINALISTS])
            kept = np.concatenate([kept, part])
            if self._closed:
                distinct = list(range(len(kept)))
            else:
                members = np.concatenate([members, self.predictor.draw_scores(part, len(members), [self.seed])], axis=1)
                distinct = told_apart(members, k)
            if len(distinct) >= k:
                break
        chosen = set(distinct)
        return kept, [*distinct, *(i for i in range(len(kept)) if i not in chosen)]

    def _expected(self, codes: Codes) -> Codes:
        """Return those of (n, knobs) codes that meet the bounds by expected accuracy, in its order."""
        found = self._score(codes, expected=True)
        kept: Codes = codes[[i for i in found.ranked() if found.violations[i].sum() == 0]]
        return kept


def told_apart(members: NDArray[np.float64], k: int) -> list[int]:
    """Return the first columns, at most k, of (m, n) scores that one member or more tells apart from each column before them."""
    apart = np.ones(members.shape[1], dtype=bool)
    found: list[int] = []
    while apart.any() and len(found) < k:
        found.append(int(apart.argmax()))
        apart &= np.abs(members - members[:, found[-1:]]).max(axis=0) >= TELL_APART
    return found


def _timed(name: str, engine: Engine, problem: Problem) -> EngineReport:
    began = time.perf_counter()
    engine(problem)
    seconds = time.perf_counter() - began
    objectives = problem.results()[1]
    return EngineReport(name, problem.spent, seconds, float(objectives[:, 0].min()) if len(objectives) else None)


def _leading(found: Evaluation, n: int) -> NDArray[np.int64]:
    """Return the n rows to start from: the best by one objective, or those spread over the front of two."""
    ranked = found.ranked()
    if found.objectives.shape[1] == 1 or not len(ranked):
        return ranked[:n]
    objectives = found.objectives[ranked]
    return np.asarray(ranked[spread_out(objectives, front(objectives), n)], dtype=np.int64)


def front(objectives: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the rows of (n, 2) objectives that no other beats in both, by the second from the least on."""
    if not len(objectives):
        return np.zeros(0, dtype=np.int64)
    order = np.lexsort([objectives[:, 0], objectives[:, 1]])
    best = np.minimum.accumulate(objectives[order, 0])
    better = np.concatenate([[True], best[1:] < best[:-1]])
    return np.asarray(order[better], dtype=np.int64)


def spread_out(objectives: NDArray[np.float64], front: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Return at most k rows of a front in its order: both ends, and between them those farthest from what was chosen.

    Distances are in accuracy and in the cost, or its logarithm where it has one, each as a share of its range.
    """
    if len(front) <= k:
        return front
    points = objectives[front]
    if points[:, 1].min() > 0:
        points[:, 1] = np.log(points[:, 1])
    points = (points - points.min(axis=0)) / np.maximum(np.ptp(points, axis=0), 1e-12)
    chosen = [0, len(front) - 1][:k]
    while len(chosen) < k:
        away = np.linalg.norm(points[:, None] - points[chosen], axis=2).min(axis=1)
        away[chosen] = -1.0
        chosen.append(int(away.argmax()))
    return front[sorted(chosen)]
