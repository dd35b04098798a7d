"""A campaign: a search over real trainings, in rounds, every step of it in the run store before it is relied on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from jointnas.campaign.early_stop import at_fraction, stop_fraction
from jointnas.campaign.runner import Status, Trainings, Watch
from jointnas.campaign.store import CONFIRMING, Run, Trial
from jointnas.errors import SearchError
from jointnas.execution import Executor, LocalExecutor, Slot
from jointnas.search.objective import ACCURACY
from jointnas.search.search import Search, Winner
from jointnas.space.constraint import violations
from jointnas.training.clock import Clock
from jointnas.training.job import WORKER_MODULES, prepare_trials


@dataclass
class Campaign:
    """Algorithm 1, stage one: `rounds` batches of `batch` candidates, trained under `clock` in `executor`'s slots."""

    search: Search
    run: Run
    executor: Executor
    clock: Clock
    rounds: int
    batch: int
    seed: int
    watch: Watch
    early_stop: float | None = None  # rank correlation from which later rounds train a part of the budget alone

    def __post_init__(self) -> None:
        self.status = Status(self.rounds)
        self._trainings = Trainings(self.run, self.executor, self.clock, self.seed, self.watch, self.status)
        self._ended = {row["number"]: row["rank_correlation"] for row in self.run.rounds()}

    def conduct(self) -> None:
        """Take up what the run already holds, then ask, train and tell until all rounds have ended.

        Ends early when the pool runs out. Raises `SearchError` when every training of the first round failed.
        """
        rounds = {trial.round for trial in self.status.trials.values()}
        for number in range(1, max([self.rounds, *rounds]) + 1):
            if number not in rounds and self.search.exhausted:
                break  # every candidate there is has been trained
            self._round(number)

    def _round(self, number: int) -> None:
        self.status.round = number
        trials = [t for t in self.status.trials.values() if t.round == number] or self._ask(number)
        trials = self._trainings.train(trials)
        self._tell(number, trials)
        if self.search.trained == 0:
            reason = min(str(t.observation.failure) for t in trials if t.observation is not None)
            raise SearchError(
                f"a first round has a training that succeeds, got {len(trials)} failures ({reason}): mend it and start a new run"
            )
        if number in self._ended:  # in an earlier session of this run
            self.status.rank_correlation = self._ended[number]
            return
        self._trainings.show("fitting the predictor")
        self.status.rank_correlation = self.search.rank_correlation
        told = sum(0 < t.round <= number for t in self.status.trials.values())
        self.run.end_round(number, told, self.status.rank_correlation)
        self._trainings.show("")

    def _tell(self, number: int, trials: list[Trial]) -> None:
        """Tell the search a round's trials, and all before them again where their labels change to those of a fraction."""
        if self.early_stop is not None and self.status.stop_at == 1:
            known = [t for t in self.status.trials.values() if 0 < t.round <= number]
            observations = [t.observation for t in known if t.observation is not None]
            self.status.stop_at = stop_fraction(observations, self.early_stop, self.seed)
            trials = known if self.status.stop_at < 1 else trials
        told = [at_fraction(t.observation, self.status.stop_at) for t in trials if t.observation is not None]
        self.search.tell([t.candidate for t in trials], told)

    def confirm(self, winners: Sequence[Winner]) -> list[Winner]:
        """Return winners with the accuracies of a new training each, at the whole budget.

        Those that fail or break a bound on accuracy come last; before them the most accurate first or, where a cost is the
        objective, in the order they had. What a search has found best looks better than it is; a training with another seed
        does not know that it was chosen.
        """
        self.status.stop_at, self.status.round = 1.0, CONFIRMING
        identities = self.search.space.identities(self.search.space.to_codes([w.candidate for w in winners]))
        known = {
            self.search.space.identity(t.candidate): t for t in self.status.trials.values() if t.round == CONFIRMING
        }
        missing = [i for i, identity in enumerate(identities) if identity not in known]
        added = self._trainings.add(
            CONFIRMING,
            [winners[i].candidate for i in missing],
            [f"{identities[i]} confirmed" for i in missing],
            [(winners[i].mean, winners[i].std) for i in missing],
        )
        known |= {identities[i]: trial for i, trial in zip(missing, added, strict=True)}
        trials = self._trainings.train([known[identity] for identity in identities])
        confirmed = [
            replace(w, accuracy=t.observation.accuracy if t.observation else None)
            for w, t in zip(winners, trials, strict=True)
        ]
        query = self.search.query
        accuracies = np.array([np.nan if w.accuracy is None else w.accuracy for w in confirmed])
        short = violations(query.trained, {ACCURACY: accuracies}).any(axis=1) if query.trained else np.isnan(accuracies)
        ranks = np.nan_to_num(-accuracies) if query.minimised == (ACCURACY,) else np.arange(len(confirmed))
        return [confirmed[i] for i in np.lexsort([ranks, short])]

    def _ask(self, number: int) -> list[Trial]:
        self._trainings.show("choosing candidates")
        candidates = self.search.ask(self.batch)
        identities = [self.search.space.identity(candidate) for candidate in candidates]
        return self._trainings.add(number, candidates, identities, self.search.predict(candidates))


def local_executor(data: dict[str, Any], slot: Slot, fingerprint: str) -> LocalExecutor:
    """Return the executor that trains candidates on the data of a `DataSpec` in JSON, which must have this fingerprint."""
    return LocalExecutor(partial(prepare_trials, data, slot.device, fingerprint), slot, preload=WORKER_MODULES)
