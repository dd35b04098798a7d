"""Stage one of algorithm 1 over real trainings: ask for a batch, train it, report it to the search, refit the predictor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jointnas.campaign.early_stop import at_fraction, stop_fraction
from jointnas.campaign.events import Activity, Callback, RoundEnded, RoundStarted
from jointnas.campaign.runner import Runner
from jointnas.campaign.spec import SearchSpec
from jointnas.campaign.store import Run, Trial
from jointnas.errors import SearchError
from jointnas.search.objective import ACCURACY
from jointnas.search.search import Search
from jointnas.search.winners import Winner
from jointnas.space.constraint import violations


class Rounds:
    """`spec.rounds` batches of `spec.batch` candidates. What the run already holds is not trained again."""

    def __init__(self, search: Search, runner: Runner, run: Run, spec: SearchSpec, emit: Callback) -> None:
        self._search, self._runner, self._run, self._spec, self._emit = search, runner, run, spec, emit
        self._ended = {row["number"]: row["rank_correlation"] for row in run.rounds()}

    def train(self) -> None:
        """Train until all rounds have ended, or the pool has nothing left.

        Raises `SearchError` when every training of the first round failed; when the run is resumed, they are trained again.
        """
        held = {trial.round for trial in self._trials()}
        for number in range(1, max([self._spec.rounds, *held]) + 1):
            if number not in held and self._search.exhausted:
                return
            self._round(number)

    def winners(self) -> list[Winner]:
        """Return the search's winners, the first `spec.confirm` of them confirmed by one more training each."""
        spec = self._spec
        winners = self._search.best(spec.top, spec.engine)
        return self._confirmed(winners[: spec.confirm]) + winners[spec.confirm :]

    def _trials(self, last_round: int | None = None) -> list[Trial]:
        trials = [t for t in self._runner.trials.values() if t.kind == "trial"]
        return [t for t in trials if last_round is None or t.round <= last_round]

    def _round(self, number: int) -> None:
        self._emit(RoundStarted(number, self._runner.stop_at))
        trials = [t for t in self._trials() if t.round == number]
        if number == 1 and trials and all(t.observation and t.accuracy is None for t in trials):
            trials = self._runner.retry(trials)
        trials = self._runner.train(trials or self._ask(number))
        self._tell(number, trials)
        if self._search.trained == 0:
            reason = min(str(t.observation.failure) for t in trials if t.observation is not None)
            raise SearchError(
                f"all {len(trials)} trainings of the first round failed ({reason}): remove the cause, then go on with --resume"
            )
        if number not in self._ended:
            self._emit(Activity("fitting the predictor"))
            self._ended[number] = self._search.rank_correlation
            self._run.end_round(number, len(self._trials(number)), self._ended[number])
        self._emit(RoundEnded(number, self._ended[number]))

    def _ask(self, number: int) -> list[Trial]:
        self._emit(Activity("choosing candidates"))
        batch = self._search.ask(self._spec.batch)
        return self._runner.add(number, batch, batch.identities, batch.predictions)

    def _tell(self, number: int, trials: Sequence[Trial]) -> None:
        """Tell the search a round's observations; once trainings are cut short, all of them as of that fraction."""
        if self._spec.early_stop is not None and self._runner.stop_at == 1:
            until_now = self._trials(number)
            observations = [t.observation for t in until_now if t.observation is not None]
            self._runner.stop_at = stop_fraction(observations, self._spec.early_stop, self._spec.seed)
            trials = until_now if self._runner.stop_at < 1 else trials
        ended = [(t.candidate, t.observation) for t in trials if t.observation is not None]
        self._search.tell([c for c, _ in ended], [at_fraction(o, self._runner.stop_at) for _, o in ended])

    def _confirmed(self, winners: Sequence[Winner]) -> list[Winner]:
        """Return winners with the accuracies of a new training each, at the whole budget.

        The accuracy of a selected candidate is biased upwards; a training with another seed is not. Winners that fail or break a
        bound on accuracy come last; before them the most accurate first or, where a cost is the objective, in their order.
        """
        if not winners:
            return []
        self._emit(Activity("confirming winners"))
        self._runner.stop_at = 1.0
        space = self._search.space
        identities = space.identities(space.to_codes([w.candidate for w in winners]))
        confirmations = {t.identity: t for t in self._runner.trials.values() if t.kind == "confirmation"}
        missing = [i for i, identity in enumerate(identities) if identity not in confirmations]
        added = self._runner.add(
            self._spec.rounds,
            [winners[i].candidate for i in missing],
            [identities[i] for i in missing],
            [(winners[i].mean, winners[i].std) for i in missing],
            kind="confirmation",
        )
        confirmations |= {trial.identity: trial for trial in added}
        trials = self._runner.train([confirmations[identity] for identity in identities])
        return self._ranked([replace(w, accuracy=t.accuracy) for w, t in zip(winners, trials, strict=True)])

    def _ranked(self, confirmed: Sequence[Winner]) -> list[Winner]:
        query = self._search.query
        accuracies = np.array([np.nan if w.accuracy is None else w.accuracy for w in confirmed])
        short = violations(query.trained, {ACCURACY: accuracies}).any(axis=1) if query.trained else np.isnan(accuracies)
        ranks = np.nan_to_num(-accuracies) if query.minimised == (ACCURACY,) else np.arange(len(confirmed))
        return [confirmed[i] for i in np.lexsort([ranks, short])]
