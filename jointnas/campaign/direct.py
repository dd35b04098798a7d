"""Direct search: an engine over real trainings, without a predictor in the loop (`--real`).

A run is resumed by replaying it: the engine, deterministic in its seed, proposes the same candidates again, and the store
answers for those that were trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from jointnas.campaign.events import Activity, Callback, IncumbentChanged, Notice, Planned, RoundEnded, RoundStarted
from jointnas.campaign.runner import Runner
from jointnas.campaign.spec import DirectSpec, PolicySpec
from jointnas.campaign.trial import Trial
from jointnas.errors import ConstraintError, SearchError
from jointnas.search.engines import Evaluation, Problem, find_engine
from jointnas.search.engines.problem import FAILURE, Merit
from jointnas.search.search import Search
from jointnas.search.winners import Selection, Winner
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Codes
from jointnas.training.observation import Observation, mean_observation


class DirectSearch:
    """`spec.engine` over real trainings: `spec.rounds × spec.batch` candidates at most, about `spec.batch` at a time.

    It starts from the search's own start, or from a batch that is drawn from the space. A candidate that would be the best so far is trained
    `spec.repeats` times, each with another seed, and its mean accuracy counts; so are the winners at the end. One lucky
    training then meets no bound on accuracy. Repeats do not count as candidates.
    """

    def __init__(self, search: Search, runner: Runner, spec: DirectSpec | PolicySpec, emit: Callback) -> None:
        self._search, self._runner, self._spec, self._emit = search, runner, spec, emit
        self._budget = spec.rounds * spec.batch
        self._trials: dict[str, list[Trial]] = {}  # by identity, the repeats in their order
        for trial in runner.trials.values():
            self._trials.setdefault(trial.identity, []).append(trial)
        self._repeats_planned = len(runner.trials) - len(self._trials)
        self._batch = 0
        self._best: Merit = FAILURE

    def train(self) -> None:
        """Run the engine until its budget is spent or it finds nothing better; then the search has all observations.

        Raises `SearchError` when every training of the first batch failed; when the run is resumed, they are trained again.
        """
        if self._trials and all(t.observation and t.accuracy is None for t in self._runner.trials.values()):
            self._trials = {name: self._runner.retry(trials) for name, trials in self._trials.items()}
        start = self._search.ask(len(self._search.pool.start) or self._spec.batch).codes
        optimise(self._search, self._spec.engine, self._evaluate, start, self._budget, self._spec.batch)
        if len(self._trials) < self._budget:
            self._emit(
                Notice(
                    f"the engine {self._spec.engine} ended after {len(self._trials)} of {self._budget} candidates: it proposed no new one"
                )
            )
        self._tell(self._trials)  # also those of an earlier session that the engine did not propose again
        self._confirm()
        self._emit(Activity("fitting the predictor"))

    def winners(self) -> list[Winner]:
        """Return the best of the trained candidates by their mean accuracies."""
        return best_trained(self._search, self._spec.top)

    def _confirm(self) -> None:
        """Repeat the best until all winners were trained equally often: what falls behind gives its place to the next."""
        candidates = {identity: trials[0].candidate for identity, trials in self._trials.items()}
        identities = list(candidates)
        codes = self._search.space.to_codes(list(candidates.values()))
        feasible = self._search.query.feasible(codes)
        while True:
            evaluation = observed_evaluation(self._search, codes)
            ranked = [i for i in evaluation.ranked() if feasible[i] and evaluation.violations[i].sum() == 0]
            short = [identities[i] for i in ranked[: self._spec.top] if self._is_short(identities[i])]
            if not short:
                return
            self._train([candidates[identity] for identity in short], short, self._spec.repeats)

    def _is_short(self, identity: str) -> bool:
        return len(self._trials[identity]) < self._spec.repeats

    def _evaluate(self, codes: Codes) -> Evaluation:
        """Train (n, knobs) codes and return their evaluation, the best of them confirmed by repeats.

        Candidates beyond the run's budget, which a run with another engine may have spent, fail untrained.
        """
        self._batch += 1
        self._emit(RoundStarted(self._batch, 1.0))
        candidates = self._search.space.to_candidates(codes)
        identities = self._search.space.identities(codes)
        fresh = [i for i, identity in enumerate(identities) if identity not in self._trials]
        beyond = set(fresh[max(0, self._budget - len(self._trials)) :])
        kept = [i for i in range(len(codes)) if i not in beyond]
        self._train([candidates[i] for i in kept], [identities[i] for i in kept], 1)
        if self._search.trained == 0:
            reason = min(
                str(t.observation.failure) for trials in self._trials.values() for t in trials if t.observation
            )
            raise SearchError(
                f"all {len(kept)} trainings of the first batch failed ({reason}): remove the cause, then go on with --resume"
            )
        for i in observed_evaluation(self._search, codes).ranked():
            if not self._improves(codes, int(i)):
                break
            self._train([candidates[i]], [identities[i]], self._spec.repeats)
            if self._improves(codes, int(i)):
                self._best = observed_evaluation(self._search, codes).merit(int(i))
                trials = self._trials[identities[i]]
                accuracy = mean_observation(_observed(trials)).accuracy
                self._emit(IncumbentChanged(accuracy or 0.0, trials[0]))
        self._emit(RoundEnded(self._batch, None))
        return observed_evaluation(self._search, codes)

    def _improves(self, codes: Codes, row: int) -> bool:
        merit = observed_evaluation(self._search, codes).merit(row)
        return merit.violation == 0 and merit < self._best

    def _train(self, candidates: Sequence[Candidate], identities: Sequence[str], repeats: int) -> None:
        """Train each candidate until it has so many trainings, and pass their mean accuracies to the search."""
        for candidate, identity in zip(candidates, identities, strict=True):
            trials = self._trials.setdefault(identity, [])
            for number in range(len(trials), repeats):
                kind = "repeat" if number else "trial"
                trials += self._runner.add(self._batch, [candidate], [identity], kind=kind, repeats=[number])
                self._repeats_planned += number > 0
        self._emit(Planned(self._budget + self._repeats_planned))
        self._runner.train([trial for identity in identities for trial in self._trials[identity][:repeats]])
        for identity in identities:
            self._trials[identity] = [self._runner.trials[t.number] for t in self._trials[identity]]
        self._tell({identity: self._trials[identity][:repeats] for identity in identities})

    def _tell(self, trials: Mapping[str, Sequence[Trial]]) -> None:
        """Tell the search the mean accuracy of each candidate's trainings that have ended."""
        ended = [(repeats[0].candidate, observed) for repeats in trials.values() if (observed := _observed(repeats))]
        self._search.tell([c for c, _ in ended], [mean_observation(observed) for _, observed in ended])


def _observed(trials: Sequence[Trial]) -> list[Observation]:
    return [t.outcome for t in trials if t.outcome is not None]


def optimise(
    search: Search, engine: str, evaluation: Callable[[Codes], Evaluation], start: Codes, budget: int, batch: int
) -> None:
    """Let an engine spend a budget of expensive evaluations, `batch` side by side, under the exact constraints of a search."""
    problem = Problem(
        search.space,
        search.query.exact,
        evaluation,
        start,
        budget,
        search.seed,
        batch=batch,
        pool=search.pool.codes if search.pool.closed else None,
        expensive=True,
    )
    find_engine(engine)(problem)


def observed_evaluation(search: Search, codes: Codes) -> Evaluation:
    """Return the evaluation of (n, knobs) codes by their observed accuracies; those without one have failed."""
    return search.query.evaluate(codes, search.observed_accuracies(codes))


def best_trained(search: Search, k: int = 5) -> list[Winner]:
    """Return the k best observed candidates by their accuracies, all within the constraints.

    Raises `SearchError` before two accuracies are observed, `ConstraintError` when no candidate meets the constraints.
    """
    search.check_answerable(k)
    codes = search.observed_codes
    evaluation = observed_evaluation(search, codes)
    ranked = [int(i) for i in evaluation.ranked() if evaluation.violations[i].sum() == 0]
    if not ranked:
        bounds = ", ".join(map(str, search.constraints))
        raise ConstraintError(
            f"none of {len(codes)} trained candidates meets {bounds}: loosen a bound or train more candidates"
        )
    chosen, measured = search.query.measure(codes, ranked, k)
    return search.to_winners(Selection.of_rows(codes, chosen, measured))
