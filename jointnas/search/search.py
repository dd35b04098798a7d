"""The search: FBNetV3's algorithm 1 as ask-and-tell.

Stage one draws a pool by quasi-Monte Carlo under the constraints, asks for batches of it and of what lies near the best by predicted
score, and refits the predictor to what it is told. Stage two lets an engine search the predictor under the constraints and returns the best.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jointnas.errors import ConstraintError, SearchError, SpaceError
from jointnas.predictor.gp_predictor import SMALLEST_FIT, Predictor
from jointnas.search.batch import children_of_the_best, choose, fill
from jointnas.search.engines import ENGINES, Evaluation, Problem, find_engine
from jointnas.search.objective import Query
from jointnas.search.winners import EngineReport, Found, StageTwo
from jointnas.space.constraint import Constraint
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Codes
from jointnas.space.sampling import draw_pool
from jointnas.space.space import CostFunction, Space
from jointnas.training.observation import Observation, mean_observation

if TYPE_CHECKING:
    from jointnas.measurement.meter import Meter

POOL = 20_000
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


class Search:
    """Proposes candidates of a bound space that meet the constraints, learns from their accuracies, names the best.

    pool: only these candidates are ever asked or returned. cost: for an abstract space, a function from a candidate to its
    costs. predictor: a fitted one, whose examples count as told. prior: one of an earlier campaign, from whose scores a new
    predictor starts. No candidate is asked twice, and none that was told.
    start: candidates that are asked first.

    objective: "max accuracy", or "min METRIC" under a constraint such as "accuracy>=0.8", which the prediction has to meet.
    meter: what measures metrics of candidates on the device (see `measurement.meter.Meter`), for constraints and objectives on
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
        rows, identities = self.space.distinct(codes)
        self._pool, self._pool_identities = codes[rows], identities
        self._seen: set[str] = set()  # identities asked or told
        self._results: dict[str, Observation] = {}  # by identity
        self._told: list[Candidate] = []
        self._stale = False
        self.reports: tuple[EngineReport, ...] = ()  # of the latest stage two
        self.predictor = (
            copy.copy(predictor) if predictor else Predictor(self.space, seed, prior=prior)
        )  # fits rebind, they change nothing
        if predictor is not None:
            self._tell_of(predictor)

    def _tell_of(self, predictor: Predictor) -> None:
        """Take the examples of a fitted predictor as told, the mean of those of one candidate."""
        repeats: dict[str, list[int]] = {}
        for i, identity in enumerate(self.space.identities(self.space.to_codes(predictor.candidates))):
            repeats.setdefault(identity, []).append(i)
        means = [mean_observation([predictor.observations[i] for i in rows]) for rows in repeats.values()]
        self.tell([predictor.candidates[rows[0]] for rows in repeats.values()], means)
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
            return self.query.promising(draw_pool(self.space, size, self.query.exact, self.seed))
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
        return codes[self.space.distinct(codes)[0]]

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
            return fill(self.space, codes, n)
        predictor = self.predictor if self.trained < SMALLEST_FIT else self.fitted()
        told = codes[:0] if self.closed else self._feasible_told()
        known = np.concatenate([told, codes])
        medians = predictor.median_codes(known)
        if not self.closed:
            met, rng = self._seen.union(self._pool_identities), np.random.default_rng([self.seed, len(self._seen), 1])
            children, theirs = children_of_the_best(predictor, self.query, known, medians, met, rng)
            known, medians = np.concatenate([known, children]), np.concatenate([medians, theirs])
        return choose(predictor, self.query, known[len(told) :], medians[len(told) :], n, [self.seed, len(self._seen)])

    def _feasible_told(self) -> Codes:
        """Return the codes of what was told that meet the exact constraints."""
        told = self.space.to_codes(self._told)
        return told[self.query.feasible(told)]

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
        self.reports = ()
        found = self._stage_two(self.query).best(engines, k)
        self.reports = found.reports
        return self._winners(found)

    def best_trained(self, k: int = 5) -> list[Winner]:
        """Return the k best of what was told, by the accuracies that were told, all within the constraints.

        Raises `SearchError` before two accuracies are known, `ConstraintError` when nothing meets the constraints.
        """
        self._check_answerable(k)
        codes = self._feasible_told()
        found = self.evaluation(codes)
        ranked = [int(i) for i in found.ranked() if found.violations[i].sum() == 0]
        if not ranked:
            asked = ", ".join(map(str, self.constraints))
            raise ConstraintError(
                f"a winner meets {asked}, got none among {len(codes)} trained candidates: loosen a bound or train more"
            )
        chosen, measured = self.query.measure(codes, ranked, k)
        return self._winners(Found.of(codes, chosen, measured))

    def front(self, metric: str = "macs", k: int = 20) -> list[Winner]:
        """Return at most k candidates that trade predicted accuracy for a cost, the cheapest first, none better in both.

        NSGA-II searches the predictor; where its front has more, those that lie farthest apart stand for it.
        A measured cost is forecast, and measured of what is returned.
        Raises `SearchError` before two accuracies are known, or for what is no cost.
        """
        self._check_answerable(k)
        self.reports = ()
        found = self._stage_two(self.query.as_front(metric, self._pool)).front(metric, k)
        self.reports = found.reports
        return self._winners(found)

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

    def _stage_two(self, query: Query) -> StageTwo:
        """Return what answers a query from the fitted predictor."""
        known = self._pool if self.closed else np.concatenate([self._feasible_told(), self._pool])
        failed = {identity for identity, told in self._results.items() if told.accuracy is None}
        return StageTwo(self.fitted(), query, known, failed, self.seed, closed=self.closed)

    def _winners(self, found: Found) -> list[Winner]:
        """Return what was found as winners."""
        mean, std = self.predictor.predict_codes(found.codes)
        results = [self._results.get(identity) for identity in self.space.identities(found.codes)]
        return [
            Winner(
                candidate,
                float(mean[i]),
                float(std[i]),
                told.accuracy if (told := results[i]) else None,
                {**self.space.cost(candidate), **found.measured[i]},
                found.finders[i],
            )
            for i, candidate in enumerate(self.space.to_candidates(found.codes))
        ]


def _observe(result: float | None) -> Observation:
    return Observation.failed("told as a failure") if result is None else Observation(accuracy=float(result))
