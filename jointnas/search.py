"""The search: FBNetV3's algorithm 1 as ask-and-tell.

Stage one draws a pool by quasi-Monte Carlo under the constraints, asks for batches of it and of what lies near the best by predicted
score, and refits the predictor to what it is told. Stage two lets an engine search the predictor under the constraints and returns the best.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jointnas.constraint import Constraint
from jointnas.engines import ENGINES, Engine, Evaluation, Problem, evolve_front, find_engine
from jointnas.errors import ConstraintError, SearchError, SpaceError
from jointnas.knobs import Codes
from jointnas.pool import pool
from jointnas.predictor import SMALLEST_FIT, Predictor
from jointnas.query import Query
from jointnas.space import Candidate, CostFunction, Space
from jointnas.training.observation import Observation

if TYPE_CHECKING:
    from jointnas.measurement.meter import Meter

POOL = 20_000
START_BEST, START_RANDOM = 60, 40  # p and q of algorithm 1
STAGE_TWO_BUDGET = 20_000  # candidates an engine may score
FINALISTS = 1024  # of what stage two found by medians, which are compared by expected accuracies
TELL_APART = 0.3  # difference, as a share of the accuracies' spread, below which two predictions say the same
GENERATIONS, PARENTS, CHILDREN, CROSSOVER = 4, 32, 512, 0.5  # around the best, before a batch is chosen
FILLING_POOL = 4096  # pool members a space-filling batch is chosen from
ALL = "all"  # engines, one after the other


@dataclass(frozen=True)
class Winner:
    """One of the best candidates; iterates as (candidate, mean, std)."""

    candidate: Candidate
    mean: float  # predicted accuracy
    std: float  # of the prediction
    accuracy: float | None  # measured by this search's own training, if it was trained
    costs: dict[str, float]  # exact ones, and what was measured on the device
    found_by: tuple[str, ...] = ()  # the engines that scored it, where several were asked

    def __iter__(self) -> Iterator[Any]:
        return iter((self.candidate, self.mean, self.std))


@dataclass(frozen=True)
class EngineReport:
    """What an engine did in stage two: candidates scored, seconds, and the objective of the best, None where it found none."""

    engine: str
    scored: int
    seconds: float
    best: float | None


class Search:
    """Proposes candidates of a bound space that meet the constraints, learns from their accuracies, names the best.

    pool: only these candidates are ever asked or returned. cost: for an abstract space, a function from a candidate to its
    costs. predictor: a fitted one, whose examples count as told. prior: one of an earlier campaign, from whose scores a new
    predictor starts. No candidate is asked twice, and none that was told.
    start: candidates that are asked first.

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
        prior: Predictor | None = None,
        pool_size: int = POOL,
        objective: str = "max accuracy",
        meter: Meter | None = None,
        reported: Sequence[str] = (),
        start: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        if predictor is not None and predictor.space != space.with_cost(cost):
            raise SearchError(
                f"a predictor answers for the space it was fitted on, got another than {space.name!r}: use predictor.space"
            )
        if predictor is not None and prior is not None:
            raise SearchError("a predictor has its own prior, got predictor and prior: give one of them")
        if not space.is_bound:
            raise SpaceError(f"a search needs a space bound to its data, got {space.name!r} unbound: use Space.bind")
        self.space = space.with_cost(cost)
        self.query = Query(self.space, constraints, objective, meter, reported, seed)
        self.seed = seed
        self.closed = pool is not None
        self._start = self._distinct(self._make_start(start))
        codes = np.concatenate([self._start, self._make_pool(pool, pool_size)])
        identities = self.space.identities(codes)
        rows = _firsts(identities)
        self._pool, self._pool_identities = codes[rows], [identities[i] for i in rows]
        self._seen: set[str] = set()  # identities asked or told
        self._results: dict[str, Observation] = {}  # by identity
        self._told: list[Candidate] = []
        self._stale = False
        self.reports: tuple[EngineReport, ...] = ()  # of the latest stage two
        self.predictor = (
            copy.copy(predictor) if predictor else Predictor(self.space, seed, prior=prior)
        )  # fits rebind, they change nothing
        if predictor is not None:
            self.tell(predictor.candidates, predictor.observations)
            self._stale = False

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """The bounds that winners meet."""
        return self.query.constraints

    @property
    def forecast_errors(self) -> dict[str, float]:
        """The cross-validated median relative error of each measured metric's forecast; empty where none is used."""
        return self.query.forecast.errors if self.query.forecast else {}

    def _make_start(self, given: Sequence[Mapping[str, Any]]) -> Codes:
        codes = self.space.to_codes(given)
        for candidate, held in zip(given, self.query.feasible(codes), strict=True):
            if not held:
                asked = ", ".join(map(str, self.query.exact))
                raise ConstraintError(
                    f"a candidate to start from meets {asked}, got {self.space.cost(candidate)}: loosen the bound or drop it"
                )
        return codes

    def _make_pool(self, given: Sequence[Mapping[str, Any]] | None, size: int) -> Codes:
        if given is None:
            return self.query.promising(pool(self.space, size, self.query.exact, self.seed))
        codes = self.space.to_codes(given)
        codes = codes[self.query.feasible(codes)]
        if not len(codes):
            asked = ", ".join(map(str, self.constraints)) or "no constraint"
            raise ConstraintError(
                f"a pool holds a candidate that meets {asked}, got none in {len(given)}: widen the pool"
            )
        return self.query.promising(codes)

    def _distinct(self, codes: Codes) -> Codes:
        """Return those of (n, knobs) codes whose identity no row before them has."""
        return codes[_firsts(self.space.identities(codes))]

    # -------------------------------------------------------------------------------------------------- stage one

    def ask(self, n: int = 1) -> list[Candidate]:
        """Return n candidates to train next: fewer when the pool runs out, none twice.

        Before two accuracies are known the batch fills the space, unless an earlier campaign tells where to begin. After that it
        is chosen from the pool and from children of the best, of the pool and of those told, by predicted score: the first
        by its median, each further one by another function drawn from the posterior (Thompson sampling), so that a batch spreads
        over what the trainings so far leave possible. Raises `SearchError` when nothing is left to ask.
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
        first = left[left < len(self._start)][:n]
        others = left[left >= len(self._start)]
        wanted = min(n - len(first), len(others))
        codes = self._pool[first]
        if wanted:
            codes = np.concatenate([codes, self._choose(self._pool[others], wanted)])
        self._seen.update(self.space.identities(codes))
        return self.space.to_candidates(codes)

    def _choose(self, codes: Codes, n: int) -> Codes:
        """Return n of the codes, or of their neighbours, to train next."""
        if self.trained < SMALLEST_FIT and self.predictor.prior is None:
            features = np.concatenate(self.space.encode_codes(codes[:FILLING_POOL]), axis=1)
            return codes[space_filling(features, n)]
        predictor = self.predictor if self.trained < SMALLEST_FIT else self.fitted()
        codes, medians = self._with_neighbours(codes, predictor.median_codes(codes))
        drawn = predictor.draw_codes(codes, n - 1, [self.seed, len(self._seen)])
        chosen: list[int] = []
        for accuracies in (medians, *drawn):
            order = np.argsort(-self.query.worth(codes, accuracies), kind="stable")
            chosen.append(next(int(j) for j in order if j not in chosen))
        return codes[chosen]

    def _with_neighbours(self, codes: Codes, medians: NDArray[np.float64]) -> tuple[Codes, NDArray[np.float64]]:
        """Return codes with their predicted accuracies, and behind them new children of the best and of what was told."""
        if self.closed:
            return codes, medians
        rng = np.random.default_rng([self.seed, len(self._seen), 1])
        told = self.space.to_codes(self._told)
        told = told[self.query.feasible(told)]
        met = self._seen.union(self._pool_identities)
        parents = np.concatenate([told, codes])
        worth = self.query.worth(parents, np.concatenate([self.predictor.median_codes(told), medians]))
        made, found = [codes], [medians]
        for _ in range(GENERATIONS):
            best = np.argsort(-worth, kind="stable")[:PARENTS]
            made.append(self._children(parents[best], rng, met))
            found.append(self.predictor.median_codes(made[-1]))
            parents = np.concatenate([parents[best], made[-1]])
            worth = np.concatenate([worth[best], self.query.worth(made[-1], found[-1])])
        return np.concatenate(made), np.concatenate(found)

    def _children(self, parents: Codes, rng: np.random.Generator, met: set[str]) -> Codes:
        """Return feasible children of (n, knobs) parents by crossover and mutation that were not met before, and note them."""
        own, mates = (parents[rng.integers(0, len(parents), CHILDREN)] for _ in range(2))
        crossed = rng.random((CHILDREN, 1)) < CROSSOVER
        children = self.space.mutate_codes(np.where(crossed, self.space.cross_codes(own, mates, rng), own), rng)
        children = children[self.query.believed(children)]
        identities = self.space.identities(children)
        fresh = [i for i in _firsts(identities) if identities[i] not in met]
        met.update(identities)
        return children[fresh]

    def predict(self, candidates: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]] | None:
        """Return (mean, std) of each candidate's predicted accuracy, or None before two accuracies are known."""
        if self.trained < SMALLEST_FIT:
            return None
        mean, std = self.fitted().predict(candidates)
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
            self._stale |= before is None or before.accuracy != observation.accuracy
            self._results[identity] = observation
            self._seen.add(identity)

    @property
    def started(self) -> int:
        """How many candidates it was given to start from."""
        return len(self._start)

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
        return self.fitted().rank_correlation if self.trained >= SMALLEST_FIT else None

    def fitted(self) -> Predictor:
        """Return the predictor, fitted to everything that was told. Raises `SearchError` before two accuracies are known."""
        if self.trained < SMALLEST_FIT:
            raise SearchError(
                f"a predictor is fitted from {SMALLEST_FIT} accuracies on, got {self.trained}: train more"
            )
        if self._stale:
            self.predictor.fit(self._told, list(self._results.values()))
            self._stale = False
        return self.predictor

    # -------------------------------------------------------------------------------------------------- stage two

    def best(self, k: int = 5, engine: str = "evolution") -> list[Winner]:
        """Return the k best candidates by predicted accuracy, none twice, all within the constraints.

        Of candidates that no member of the predictor tells apart the first stands for all while others are left.

        The engine starts from the best of the pool and of what was told, and random ones of the pool; "all" asks every engine
        for the same and takes the best of what they found; a closed pool is ranked whole instead. `reports` says what each did.
        Raises `SearchError` before two accuracies are known.
        """
        engines = {name: find_engine(name) for name in (ENGINES if engine == ALL else [engine])}
        self._check_answerable(k)
        problems = self._stage_two(engines, self.query)
        found = [problem.results() for problem in problems.values()]
        codes = np.concatenate([codes for codes, _ in found])
        objectives = np.concatenate([objectives[:, 0] for _, objectives in found])
        codes = codes[np.argsort(objectives, kind="stable")]
        codes = self._distinct(codes) if len(problems) > 1 else codes
        codes = self._expected(self.query, codes, k)
        if not len(codes):
            bounds = ", ".join(map(str, (*self.query.trained, *self.query.measured)))
            scored = sum(problem.spent for problem in problems.values())
            raise ConstraintError(
                f"a winner is predicted to meet {bounds}, got none among {scored} candidates: loosen the bound or train more"
            )
        chosen, measured = self.query.measure(codes, self._told_apart(codes, k), k)
        chosen = chosen if self.query.measures_objective else sorted(chosen)
        finders = [
            tuple(n for n, p in problems.items() if not p.is_fresh(codes[i : i + 1])[0]) if len(problems) > 1 else ()
            for i in chosen
        ]
        return self._winners(codes[chosen], [measured.get(i, {}) for i in chosen], finders)

    def best_trained(self, k: int = 5) -> list[Winner]:
        """Return the k best of what was told, by the accuracies that were told, all within the constraints.

        Raises `SearchError` before two accuracies are known, `ConstraintError` when nothing meets the constraints.
        """
        self._check_answerable(k)
        codes = self.space.to_codes(self._told)
        codes = codes[self.query.feasible(codes)]
        found = self.evaluation(codes)
        ranked = [int(i) for i in found.ranked() if found.violations[i].sum() == 0]
        if not ranked:
            asked = ", ".join(map(str, self.constraints))
            raise ConstraintError(
                f"a winner meets {asked}, got none among {len(codes)} trained candidates: loosen a bound or train more"
            )
        chosen, measured = self.query.measure(codes, ranked, k)
        return self._winners(codes[chosen], [measured.get(i, {}) for i in chosen])

    def front(self, metric: str = "macs", k: int = 20) -> list[Winner]:
        """Return at most k candidates that trade predicted accuracy for a cost, the cheapest first, none better in both.

        NSGA-II searches the predictor; where its front has more, those that lie farthest apart stand for it.
        A measured cost is forecast, and measured of what is returned.
        Raises `SearchError` before two accuracies are known, or for what is no cost.
        """
        self._check_answerable(k)
        query = self.query.as_front(metric, self._pool)
        (problem,) = self._stage_two({"nsga2": evolve_front}, query).values()
        codes, objectives = problem.results()
        codes = self._expected(query, codes[_front(objectives)], len(codes))
        if not len(codes):
            raise ConstraintError(f"a front has a candidate, got none among {problem.spent}: loosen the bounds")
        objectives = self._score(query, codes, expected=True).objectives
        front = _front(objectives)
        first = _spread_out(objectives, front, k).tolist()
        others = (
            [i for i in front.tolist() if i not in first] if query.forecast else []
        )  # where the first break a bound
        chosen, measured = query.measure(codes, [*first, *others], k)
        values = [[objectives[i, 0], measured.get(i, {}).get(metric, objectives[i, 1])] for i in chosen]
        rows = [chosen[i] for i in _front(np.array(values))]
        return self._winners(codes[rows], [measured.get(i, {}) for i in rows])

    def optimise(
        self, engine: str, evaluation: Callable[[Codes], Evaluation], start: Codes, budget: int, batch: int
    ) -> Problem:
        """Let an engine search an evaluation of its own, `batch` candidates at a time, within the exact constraints."""
        closed = self._pool if self.closed else None
        problem = Problem(
            self.space, self.query.exact, evaluation, start, budget, self.seed, batch, closed, expensive=True
        )
        find_engine(engine)(problem)
        return problem

    def evaluation(self, codes: Codes) -> Evaluation:
        """Return how (n, knobs) codes stand to the query by the accuracies that were told; the others have failed."""
        results = [self._results.get(identity) for identity in self.space.identities(codes)]
        told = [np.nan if o is None or o.accuracy is None else o.accuracy for o in results]
        return self.query.evaluation(codes, np.array(told, dtype=np.float64))

    def _check_answerable(self, k: int) -> None:
        if k < 1:
            raise SearchError(f"a search returns one winner or more, got {k}: ask for more")
        if self.trained < SMALLEST_FIT:
            raise SearchError(f"winners are named from {SMALLEST_FIT} accuracies on, got {self.trained}: train more")
        self.fitted()

    def _stage_two(self, engines: Mapping[str, Engine], query: Query) -> dict[str, Problem]:
        """Return each engine's problem, searched; of a closed pool one that holds all of it."""

        def score(codes: Codes) -> Evaluation:
            return self._score(query, codes)

        told = self.space.to_codes(self._told)
        known = self._pool if self.closed else np.concatenate([told[query.feasible(told)], self._pool])
        if self.closed:
            problem = Problem(self.space, query.exact, score, known, len(known), self.seed)
            problem.evaluate(known)
            self.reports = ()
            return {"": problem}
        rng = np.random.default_rng([self.seed, 2])
        spread = rng.permutation(len(known))[:START_RANDOM]
        start = known[np.concatenate([_leading(score(known), START_BEST), spread])]
        problems = {
            name: Problem(self.space, query.exact, score, start, STAGE_TWO_BUDGET, self.seed) for name in engines
        }
        self.reports = tuple(_timed(name, run, problems[name]) for name, run in engines.items())
        return problems

    def _expected(self, query: Query, codes: Codes, k: int) -> Codes:
        """Return those of (n, knobs) codes in order, of the first ones that hold k, that meet the bounds by expected accuracy."""
        kept = [codes[:0]]
        for start in range(0, len(codes), FINALISTS):
            part = codes[start : start + FINALISTS]
            found = self._score(query, part, expected=True)
            kept.append(part[[i for i in found.ranked() if found.violations[i].sum() == 0]])
            if sum(map(len, kept)) >= k:
                break
        return np.concatenate(kept)

    def _score(self, query: Query, codes: Codes, *, expected: bool = False) -> Evaluation:
        """Return how codes stand to a query by the medians of their predicted accuracies, or by the expected ones."""
        accuracies = self.predictor.predict_codes(codes)[0] if expected else self.predictor.median_codes(codes)
        broken = {identity for identity, told in self._results.items() if told.accuracy is None}
        if broken:
            accuracies[[identity in broken for identity in self.space.identities(codes)]] = np.nan
        return query.evaluation(codes, accuracies)

    def _told_apart(self, codes: Codes, k: int) -> list[int]:
        """Return rows of (n, knobs) codes, best first, to choose k of: behind all others, those that no member tells apart."""
        if self.closed:
            return list(range(len(codes)))
        members = self.predictor.draw_scores(codes, self.predictor.members, [self.seed])
        apart = np.ones(len(codes), dtype=bool)
        distinct: list[int] = []
        while apart.any() and len(distinct) < k:
            distinct.append(int(apart.argmax()))
            apart &= np.abs(members - members[:, distinct[-1:]]).max(axis=0) >= TELL_APART
        chosen = set(distinct)
        return [*distinct, *(i for i in range(len(codes)) if i not in chosen)]

    def _winners(
        self, codes: Codes, measured: Sequence[Mapping[str, float]], finders: Sequence[tuple[str, ...]] | None = None
    ) -> list[Winner]:
        """Return (n, knobs) codes as winners, with what was measured of each."""
        mean, std = self.predictor.predict_codes(codes)
        results = [self._results.get(identity) for identity in self.space.identities(codes)]
        return [
            Winner(
                candidate,
                float(mean[i]),
                float(std[i]),
                told.accuracy if (told := results[i]) else None,
                {**self.space.cost(candidate), **measured[i]},
                finders[i] if finders else (),
            )
            for i, candidate in enumerate(self.space.to_candidates(codes))
        ]


def _firsts(identities: Sequence[str]) -> list[int]:
    """Return where each identity stands for the first time, in order."""
    first: dict[str, int] = {}
    for i, identity in enumerate(identities):
        first.setdefault(identity, i)
    return list(first.values())


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
    return np.asarray(ranked[_spread_out(objectives, _front(objectives), n)], dtype=np.int64)


def _front(objectives: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the rows of (n, 2) objectives that no other beats in both, by the second from the least on."""
    order = np.lexsort([objectives[:, 0], objectives[:, 1]])
    best = np.minimum.accumulate(objectives[order, 0])
    better = np.concatenate([[True], best[1:] < best[:-1]])
    return np.asarray(order[better], dtype=np.int64)


def _spread_out(objectives: NDArray[np.float64], front: NDArray[np.int64], k: int) -> NDArray[np.int64]:
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
