"""The search: FBNetV3's algorithm 1 (Dai et al., CVPR 2021) as ask-and-tell.

Stage one draws a pool by quasi-Monte Carlo under the constraints, asks for batches from it and from children of the best, and refits the
predictor to the observed accuracies. In stage two an engine searches the predictor under the constraints.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jointnas.errors import SearchError, SpaceError
from jointnas.predictor.contract import DEFAULT_KIND, MIN_FIT_EXAMPLES, Predictor
from jointnas.predictor.prior import Prior
from jointnas.predictor.task import Task
from jointnas.search.batch import Batch, Prediction, children_of_the_best, choose
from jointnas.search.engines import engine_names, find_engine
from jointnas.search.objective import EFFICIENCY, Query
from jointnas.search.pool import Pool
from jointnas.search.reference import Reference
from jointnas.search.storage import Observations, Storage
from jointnas.search.winners import EngineReport, PredictorSearch, Selection, Winner
from jointnas.space.constraint import Constraint
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Codes
from jointnas.space.space import CostFunction, Space
from jointnas.training.observation import Observation, mean_observation

if TYPE_CHECKING:
    from jointnas.measurement.meter import Meter

POOL_SIZE = 20_000
CONSIDERED = 65_536  # members of a pool that one batch is chosen from
GUARD_EVERY = 4  # candidates of a first batch with a prior, one of which is drawn without it
FEWEST_GREEDY = 4  # candidates of a batch whose first has the highest median: smaller ones would explore too little
LOWER_BOUND_DEVIATIONS = 0.5  # standard deviations
ALL = "all"  # every engine, one after the other


class Search:
    """Proposes candidates that meet the constraints, learns from their accuracies, and returns the best.

    space: one whose image shape and classes are set (`Space.bind`).
    pool: only these candidates and those of `start` are ever asked or returned. cost: for an abstract space, a function from a candidate to its
    costs; with a pool it is called for the pool and for observed candidates only. predictor: a fitted one, whose examples count as observed; or
    predictor_kind: the kind of a new one, by name, and prior: a predictor of an earlier campaign from which the new one starts.
    start: candidates that are asked first. task: what a new predictor knows before the first training.

    objective: "max accuracy", "min METRIC" with a constraint such as "accuracy>=0.8", which the prediction has to meet, or "max efficiency"
    relative to the models of `reference`.
    storage: a SQLite file that keeps the search; any number of processes of one machine may share it: none asks for a candidate that another
    one has asked for, and each learns from all results. A search of the same name is continued. Candidates left without a result by an ended
    process of this machine are asked again first; otherwise none is asked twice, and none that was observed.
    meter: measures metrics of candidates on the device (see `measurement.meter.Meter`), for constraints and objectives on
    `constraint.MEASURED`. A forecast guides the search; it is calibrated on the device when the pool is first used. Winners are measured
    and meet their bounds. reported: further metrics to measure on the winners.
    Raises `ConstraintError` when nothing meets the exact constraints, `SpaceError` when the space is not bound.
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
        predictor_kind: str = DEFAULT_KIND,
        prior: Predictor | Prior | None = None,
        pool_size: int = POOL_SIZE,
        objective: str = "max accuracy",
        meter: Meter | None = None,
        reported: Sequence[str] = (),
        reference: Reference | None = None,
        start: Sequence[Mapping[str, Any]] = (),
        task: Task = Task(),  # noqa: B008  (frozen)
        storage: str | Path | None = None,
        name: str = "search",
    ) -> None:
        if not space.is_bound:
            raise SpaceError(f"the space {space.name!r} is not bound to its data: call Space.bind first")
        if seed < 0:
            raise SearchError(f"a seed is 0 or more, got {seed}: change it")
        if pool_size < 1:
            raise SearchError(f"a pool has at least 1 candidate, got pool_size={pool_size}: raise it")
        given = None if pool is None else space.to_codes(pool)
        self.seed, self.space = seed, _with_cost(space, cost, given)
        self.query = Query(self.space, constraints, objective, meter, reported, seed, reference)
        self._answered = self.query  # by the latest stage two
        self.pool = Pool(self.query, start, given, pool_size, seed)
        self._observations = Observations(self.space)
        self._fitted = False  # to all observations
        self.reports: tuple[EngineReport, ...] = ()  # of the latest stage two
        if predictor is None:
            drawn = self.pool.drawn if self.pool.closed and self.space.is_abstract else None
            self.predictor = Predictor(self.space, seed, prior=prior, kind=predictor_kind, reference=drawn, task=task)
        else:
            self.predictor = self._adopt(predictor, prior)
        self._ids: dict[str, int] = {}  # in the storage, by identity
        self._storage = None if storage is None else Storage(storage, name, self._settings())
        self._read_storage()

    def _adopt(self, predictor: Predictor, prior: Predictor | Prior | None) -> Predictor:
        """Take over a fitted predictor and its examples, the mean of those of one candidate; return a copy to fit on."""
        if prior is not None:
            raise SearchError("a predictor already has its prior, got both predictor and prior: pass one of them")
        if predictor.space != self.space:
            raise SearchError(
                f"the predictor was fitted on another space than {self.space.name!r}: search predictor.space, or pass it as prior"
            )
        codes = self.space.to_codes(predictor.candidates)
        repeats: dict[str, list[int]] = {}
        for i, identity in enumerate(self.space.identities(codes)):
            repeats.setdefault(identity, []).append(i)
        means = [mean_observation([predictor.observations[i] for i in rows]) for rows in repeats.values()]
        self._observations.add(codes[[rows[0] for rows in repeats.values()]], list(repeats), means)
        self._fitted = True
        return copy.copy(predictor)

    # -------------------------------------------------------------------------------------------------- stage one

    def ask(self, n: int = 1) -> Batch:
        """Return n candidates to train next: fewer when the pool runs out, none twice.

        Without a prior, batches are the next members of the pool until two accuracies are observed. With a prior, until the first accuracy is
        observed, the last quarter of a batch comes from the pool, in case the prior is wrong.
        Otherwise a batch comes from the pool and from children of the best. The first of four or more has the highest median accuracy, if no
        result is pending. Each other one is the best under its own function, sampled from the posterior (Thompson sampling). Report
        failures as None, or they stay pending.
        Raises `SearchError` when the pool is exhausted.
        """
        if n < 1:
            raise SearchError(f"a batch has at least 1 candidate, got {n}: ask for more")
        batch = self._next(n) if self._storage is None else self._claim(self._storage, n)
        identities = self.space.identities(batch)
        self._observations.ask(batch, identities)
        ids = [self._ids[identity] for identity in identities] if self._storage else ()
        return Batch(self.space, batch, self._predictions(batch) or [None] * len(batch), ids)

    def _next(self, n: int) -> Codes:
        """Return n codes to train next, or fewer. Raises `SearchError` when the pool is exhausted."""
        waiting, n_start = self.pool.waiting(self._observations.asked), len(self.pool.start)
        if not len(waiting):
            raise SearchError(
                f"all {self.pool_size} candidates of the pool were asked: loosen the constraints or the space"
            )
        first, others = waiting[waiting < n_start][:n], self._considered(waiting[waiting >= n_start])
        batch = self.pool.codes[first]
        if n_chosen := min(n - len(first), len(others)):
            batch = np.concatenate([batch, self._choose(self.pool.codes[others], n_chosen, n)])
        return batch

    def _claim(self, storage: Storage, n: int) -> Codes:
        """Return n codes that no other process trains: first what processes that have ended left without a result."""
        self._read_storage()
        left = storage.adopt(n)
        self._ids.update({trial.identity: trial.id for trial in left})
        batch = self.space.to_codes([trial.candidate for trial in left])
        while len(batch) < n and not (len(batch) and self.exhausted):
            new = self._next(n - len(batch))
            ids = storage.claim(self.space.to_candidates(new), self.space.identities(new))
            batch = np.concatenate([batch, new[[i is not None for i in ids]]])
            self._read_storage()  # also what another process has just claimed
        return batch

    def _read_storage(self) -> None:
        """Add the candidates and results that other processes have written to the storage since the last call."""
        news = self._storage.news() if self._storage else []
        if not news:
            return
        codes = self.space.to_codes([trial.candidate for trial in news])
        self._ids.update({trial.identity: trial.id for trial in news})
        self._observations.ask(codes, [trial.identity for trial in news])
        ended = [(row, t.identity, t.observation) for row, t in zip(codes, news, strict=True) if t.observation]
        if ended:
            rows, identities, observations = zip(*ended, strict=True)
            self._fitted &= not self._observations.add(np.array(rows), identities, observations)

    def _settings(self) -> dict[str, Any]:
        """Return what all processes of a search share."""
        return {
            "space": self.space.to_toml(),
            "input_shape": self.space.input_shape and list(self.space.input_shape),
            "classes": self.space.classes,
            "constraints": [str(c) for c in self.constraints],
            "objective": list(self.query.objectives),
        }

    def _considered(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return rows of the pool to choose a batch from: all of them, or of a large pool `CONSIDERED` others each time."""
        if len(rows) <= CONSIDERED:
            return rows
        rng = np.random.default_rng([self.seed, len(self._observations.asked), 2])
        return np.sort(rng.choice(rows, CONSIDERED, replace=False))

    def mark_asked(self, candidates: Sequence[Mapping[str, Any]]) -> None:
        """Count candidates as asked that were asked before, by a search that this one continues. Raises `CandidateError`."""
        codes = self.space.to_codes(candidates)
        self._observations.ask(codes, self.space.identities(codes))

    def tell(self, candidates: Sequence[Mapping[str, Any]], results: Sequence[float | Observation | None]) -> None:
        """Add the result of each candidate: an accuracy (larger is better), an `Observation`, or None for a failure.

        Candidates need not have been asked; a later result of a candidate replaces an earlier one. Raises `CandidateError` or
        `SearchError`, and then adds nothing.
        """
        if len(candidates) != len(results):
            raise SearchError(
                f"got {len(candidates)} candidates and {len(results)} results: give one result for each candidate"
            )
        observations = [r if isinstance(r, Observation) else _observation(r) for r in results]
        for observation in observations:
            if observation.accuracy is not None and not np.isfinite(observation.accuracy):
                raise SearchError(f"got {observation.accuracy} as an accuracy: report a failed training as None")
        if isinstance(candidates, Batch) and candidates.belongs_to(self.space):
            codes, identities = candidates.codes, candidates.identities
        else:
            codes = self.space.to_codes(candidates)
            identities = self.space.identities(codes)
        if self._storage is not None:
            self._storage.tell(self.space.to_candidates(codes), identities, observations)
            self._read_storage()
        elif self._observations.add(codes, identities, observations):
            self._fitted = False

    def predict(self, candidates: Sequence[Mapping[str, Any]]) -> list[Prediction] | None:
        """Return (mean, std) of each candidate's predicted accuracy, or None before two accuracies are observed."""
        return self._predictions(self.space.to_codes(candidates))

    def fitted(self) -> Predictor:
        """Return the predictor, fitted to all observations. Raises `SearchError` before two accuracies are observed."""
        if self.trained < MIN_FIT_EXAMPLES:
            raise SearchError(
                f"a fit needs {MIN_FIT_EXAMPLES} accuracies, got {self.trained}: train more candidates first"
            )
        if not self._fitted:
            self.predictor.fit_codes(self._observations.codes, self._observations.observations)
            self._fitted = True
        return self.predictor

    def _choose(self, codes: Codes, n: int, batch: int) -> Codes:
        """Return n of the codes, or of the children of the best, to train next in a batch of this size."""
        predictor = self.predictor if self.trained < MIN_FIT_EXAMPLES else self.fitted()
        if not predictor.is_fitted:
            return codes[:n]
        n_drawn = 0 if self.trained else min(n, batch // GUARD_EVERY)
        return np.concatenate([self._predicted_best(predictor, codes[n_drawn:], n - n_drawn), codes[:n_drawn]])

    def _predicted_best(self, predictor: Predictor, codes: Codes, n: int) -> Codes:
        """Return n of the codes, or of the children of the best, by Thompson sampling.

        Parents are the codes and what was observed. Before anything was, they are what the search starts from alone: far away from it a
        prior of other images and budgets is often wrong.
        """
        if n < 1:
            return codes[:0]
        own = codes[:0] if self.pool.closed else self.observed_codes if self.trained else self.pool.start
        varied = len(own) > 0 and not self.trained
        parents = own if varied else np.concatenate([own, codes])
        medians = predictor.median_codes(parents)
        candidates, candidate_medians = parents[len(own) :], medians[len(own) :]
        n_asked = len(self._observations.asked)
        if not self.pool.closed:
            excluded = self._observations.asked.union(self.pool.identities)
            rng = np.random.default_rng([self.seed, n_asked, 1])
            children = children_of_the_best(predictor, self.query, parents, medians, excluded, rng)
            candidates = np.concatenate([candidates, children[0]])
            candidate_medians = np.concatenate([candidate_medians, children[1]])
        if len(candidates) < n:  # of a small space
            candidates = np.concatenate([candidates, codes])
            candidate_medians = np.concatenate([candidate_medians, predictor.median_codes(codes)])
        greedy = n >= FEWEST_GREEDY and not len(self._observations.pending)
        return choose(predictor, self.query, candidates, candidate_medians, n, [self.seed, n_asked], greedy=greedy)

    def _predictions(self, codes: Codes) -> list[Prediction] | None:
        if self.trained < MIN_FIT_EXAMPLES:
            return None
        mean, std = self.fitted().predict_codes(codes)
        return list(zip(mean.tolist(), std.tolist(), strict=True))

    # -------------------------------------------------------------------------------------------------- stage two

    def best(
        self, k: int = 5, engine: str = "evolution", *, deviations: float = LOWER_BOUND_DEVIATIONS
    ) -> list[Winner]:
        """Return the k best candidates, trained ones and others, none twice, all within the constraints.

        The engine starts from the best of the pool and of the observed candidates, and from random ones; "all" runs every engine and
        returns the best of all. The order is that of a lower confidence bound, `deviations` standard deviations below the accuracy (see
        `winners`). A closed pool is ranked whole. Of candidates that are predicted alike in every sampled function one is returned, unless
        too few others exist. `reports` has what each engine did. Raises `SearchError` before two accuracies are observed.
        """
        engines = {name: find_engine(name) for name in (engine_names() if engine == ALL else [engine])}
        self.check_answerable(k)
        return self._report(self._stage_two(self.query, deviations).best(engines, k))

    def front(self, metric: str = "macs", k: int = 20) -> list[Winner]:
        """Return at most k candidates of the front of predicted accuracy and a cost, the cheapest first.

        NSGA-II searches the predictor; of a larger front the candidates farthest apart are returned. A measured cost is forecast, and
        measured of what is returned. Raises `SearchError` before two accuracies are observed, and for a metric that is not a cost.
        """
        self.check_answerable(k)
        return self._report(self._stage_two(self.query.as_front(metric, self.pool.codes)).front(metric, k))

    def _stage_two(self, query: Query, deviations: float = LOWER_BOUND_DEVIATIONS) -> PredictorSearch:
        self.reports, self._answered = (), query
        failed, closed = self._observations.failed, self.pool.closed
        observed, pool = self.observed_codes, self.pool.codes
        if not closed:
            known = self._observations.identities
            pool = pool[[i for i, identity in enumerate(self.pool.identities) if identity not in known]]
        predictor = self.fitted()
        return PredictorSearch(
            predictor, query, observed, pool, failed, self.seed, closed=closed, deviations=deviations
        )

    def _report(self, selection: Selection) -> list[Winner]:
        self.reports = selection.reports
        winners = self.to_winners(selection)
        if (
            EFFICIENCY in self._answered.objectives
        ):  # the measured costs may change the order; without a measurement (NaN) last
            winners.sort(key=lambda winner: np.nan_to_num(-winner.costs[EFFICIENCY], nan=np.inf))
        return winners

    def _efficiencies(self, selection: Selection, mean: NDArray[np.float64]) -> list[dict[str, float]]:
        """Return the efficiency of each selected candidate by its mean accuracy, where it is the objective."""
        reference = self.query.reference
        if reference is None:
            return [{} for _ in selection.measured]
        costs = self.query.costs(selection.codes)
        for i, measured in enumerate(selection.measured):
            for name, value in measured.items():
                costs.setdefault(name, np.full(len(mean), np.nan))[i] = value
        return [{EFFICIENCY: float(value)} for value in reference.efficiencies(mean, costs)]

    def to_winners(self, selection: Selection) -> list[Winner]:
        """Return selected candidates with their predictions, observed accuracies and costs."""
        mean, std = self.predictor.predict_codes(selection.codes)
        accuracies = self.observed_accuracies(selection.codes)
        efficiencies = self._efficiencies(selection, mean)
        return [
            Winner(
                candidate,
                float(mean[i]),
                float(std[i]),
                None if np.isnan(accuracies[i]) else float(accuracies[i]),
                {**self.space.cost(candidate), **selection.measured[i], **efficiencies[i]},
                selection.engines[i],
            )
            for i, candidate in enumerate(self.space.to_candidates(selection.codes))
        ]

    def check_answerable(self, k: int) -> None:
        """Raise `SearchError` for k below 1, and before two accuracies are observed."""
        if k < 1:
            raise SearchError(f"a search returns at least 1 winner, got {k}: ask for more")
        self.fitted()

    # ------------------------------------------------------------------------------------------------------- its state

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """The bounds that winners meet."""
        return self.query.constraints

    @property
    def forecast_errors(self) -> dict[str, float]:
        """The cross-validated median relative error of each measured metric's forecast, calibrated now if it was not; empty without one."""
        _ = self.pool.codes
        return self.query.forecast.errors if self.query.forecast else {}

    @property
    def warnings(self) -> list[str]:
        """A sentence for each forecast, of the search or of its latest front, that is too inaccurate to rely on."""
        _ = self.pool.codes  # which calibrates the search's own
        return self._answered.warnings if self._answered.forecast else []

    @property
    def pool_size(self) -> int:
        """How many candidates the pool holds."""
        return len(self.pool.codes)

    @property
    def exhausted(self) -> bool:
        """Whether every candidate of the pool was asked or observed."""
        return self._observations.asked.issuperset(self.pool.identities)

    @property
    def pending(self) -> list[Candidate]:
        """The candidates that were asked, by this process or another one that shares the storage, and have no result yet."""
        return self.space.to_candidates(self._observations.pending)

    @property
    def trained(self) -> int:
        """How many candidates have an accuracy."""
        return self._observations.n_trained

    @property
    def observed_codes(self) -> Codes:
        """The (n, knobs) codes of the observed candidates that meet the exact constraints."""
        codes = self._observations.codes
        feasible: Codes = codes[self.query.feasible(codes)]
        return feasible

    def observed_accuracies(self, codes: Codes) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return the observed accuracies of (n, knobs) codes, NaN for a failure and for what was not observed."""
        return self._observations.accuracies(self.space.identities(codes))

    @property
    def rank_correlation(self) -> float | None:
        """Kendall's τ of the predictor, cross-validated on all observations; None before there are enough."""
        return self.fitted().rank_correlation if self.trained >= MIN_FIT_EXAMPLES else None


def _with_cost(space: Space, cost: CostFunction | None, pool: Codes | None) -> Space:
    """Return the space with its cost function, which reads the names of the metrics from the first candidate of a pool."""
    if not space.is_abstract or pool is None or not len(pool):
        return space.with_cost(cost)
    return space.with_cost(cost or space.cost_function, space.to_candidates(pool[:1])[0])


def _observation(accuracy: float | None) -> Observation:
    return Observation.failed("no accuracy") if accuracy is None else Observation(accuracy=float(accuracy))
