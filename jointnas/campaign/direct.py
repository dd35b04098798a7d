"""Direct search: an engine whose evaluations are trainings, each in the run store before it is relied on.

A run is resumed by replaying it: the engine, deterministic in its seed, proposes the same candidates again, and those that the store holds
are answered from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jointnas.campaign.runner import Status, Trainings, Watch
from jointnas.campaign.store import Run, Trial
from jointnas.errors import ConstraintError, SearchError
from jointnas.execution import Executor
from jointnas.search.engines import Evaluation, Problem, find_engine
from jointnas.search.engines.problem import FAILURE, Merit
from jointnas.search.search import Search
from jointnas.search.winners import Selection, Winner
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Codes
from jointnas.training.clock import Clock
from jointnas.training.observation import Observation, mean_observation


@dataclass
class RealSearch:
    """`engine` over trainings under `clock` in `executor`'s slots: `candidates` at most, about `batch` side by side.

    It starts from the search's own start, or from `batch` candidates that fill the space where there is none.
    repeats: a candidate that would be the best so far is trained so often, with a seed of its own each time, before it is; the mean of its
    accuracies stands. At the end so are the `winners` best. So a bound on accuracy is not met by one lucky training. Repeats are
    not counted as candidates.
    """

    search: Search
    run: Run
    executor: Executor
    clock: Clock
    engine: str
    candidates: int
    batch: int
    repeats: int
    winners: int
    seed: int
    watch: Watch

    def __post_init__(self) -> None:
        self.status = Status(None, planned=self.candidates)
        self._trainings = Trainings(self.run, self.executor, self.clock, self.seed, self.watch, self.status)
        self._trials: dict[str, list[Trial]] = {}  # by identity, the repeats in their order
        trials = list(self.status.trials.values())
        space = self.search.space
        for trial, identity in zip(
            trials, space.identities(space.to_codes([t.candidate for t in trials])), strict=True
        ):
            self._trials.setdefault(identity, []).append(trial)
        self.status.planned += sum(len(repeats) - 1 for repeats in self._trials.values())
        self._best: Merit = FAILURE

    def conduct(self) -> None:
        """Run the engine until its budget is spent or it finds nothing better; the search has been told everything.

        Raises `SearchError` when every training of the first batch failed.
        """
        start = self.search.ask(len(self.search.pool.start) or self.batch).codes
        optimise(self.search, self.engine, self._evaluate, start, self.candidates, self.batch)
        self._tell(self._trials)  # also what an earlier session trained that this one did not propose
        self._confirm()
        self._trainings.show("fitting the predictor")
        self.status.rank_correlation = self.search.rank_correlation
        self._trainings.show("")

    def _confirm(self) -> None:
        """Repeat the best until all winners were trained as often: what falls behind gives its place to the next."""
        known = {identity: trials[0].candidate for identity, trials in self._trials.items()}
        identities, candidates = list(known), list(known.values())
        codes = self.search.space.to_codes(candidates)
        codes_held = self.search.query.feasible(codes)
        while True:
            evaluation = observed_evaluation(self.search, codes)
            best = [i for i in evaluation.ranked() if codes_held[i] and evaluation.violations[i].sum() == 0][
                : self.winners
            ]
            short = [i for i in best if len(self._trials[identities[i]]) < self.repeats]
            if not short:
                return
            self._train([candidates[i] for i in short], [identities[i] for i in short], self.repeats)

    def _evaluate(self, codes: Codes) -> Evaluation:
        """Train (n, knobs) codes and return how they stand, the best of them confirmed by repeats.

        Those beyond the run's own count of candidates, which another engine may have trained before, are not and fail.
        """
        self.status.round += 1
        candidates = self.search.space.to_candidates(codes)
        identities = self.search.space.identities(codes)
        fresh = [i for i, identity in enumerate(identities) if identity not in self._trials]
        beyond = set(fresh[max(0, self.candidates - len(self._trials)) :])
        kept = [i for i in range(len(codes)) if i not in beyond]
        self._train([candidates[i] for i in kept], [identities[i] for i in kept], 1)
        if self.search.trained == 0:
            reason = min(
                str(trials[0].observation and trials[0].observation.failure) for trials in self._trials.values()
            )
            raise SearchError(
                f"a first batch has a training that succeeds, got {len(codes)} failures ({reason}): mend it and start a new run"
            )
        for i in observed_evaluation(self.search, codes).ranked():
            merit = observed_evaluation(self.search, codes).merit(i)
            if merit.violation > 0 or not merit < self._best:
                break
            self._train([candidates[i]], [identities[i]], self.repeats)
            merit = observed_evaluation(self.search, codes).merit(i)
            if merit < self._best:
                self._best = merit
                trials = self._trials[identities[i]]
                self.status.leader = f"{mean_observation(_observed(trials)).accuracy:.4f} (trial {trials[0].number})"
        return observed_evaluation(self.search, codes)

    def _train(self, candidates: list[Candidate], identities: list[str], repeats: int) -> None:
        """See that each candidate was trained so often, and tell the search their mean accuracies."""
        for candidate, identity in zip(candidates, identities, strict=True):
            known = self._trials.setdefault(identity, [])
            names = [identity if n == 0 else f"{identity} {n + 1}" for n in range(len(known), repeats)]
            known += self._trainings.add(self.status.round, [candidate] * len(names), names)
            self.status.planned += len(names) if repeats > 1 else 0
        self._trainings.train([trial for identity in identities for trial in self._trials[identity][:repeats]])
        for identity in identities:
            self._trials[identity] = [self.status.trials[t.number] for t in self._trials[identity]]
        self._tell({identity: self._trials[identity][:repeats] for identity in identities})

    def _tell(self, trials: Mapping[str, list[Trial]]) -> None:
        """Tell the search the mean accuracy of each candidate's trainings, those that have ended."""
        told = [(repeats[0].candidate, ended) for repeats in trials.values() if (ended := _observed(repeats))]
        self.search.tell([candidate for candidate, _ in told], [mean_observation(ended) for _, ended in told])


def _observed(trials: Sequence[Trial]) -> list[Observation]:
    """Return what the trials that have ended found."""
    return [t.observation for t in trials if t.observation is not None]


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
        batch,
        search.pool.codes if search.pool.closed else None,
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
