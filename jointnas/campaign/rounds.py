"""Algorithm 1 over real trainings: batches that refit the predictor, then trainings of the leaders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np

from jointnas.campaign.early_stop import at_fraction, stop_fraction
from jointnas.campaign.events import Activity, Callback, RoundEnded, RoundStarted
from jointnas.campaign.runner import Runner
from jointnas.campaign.spec import SearchSpec
from jointnas.campaign.store import Run
from jointnas.campaign.trial import CONFIRMATION, FINAL, Trial
from jointnas.errors import ConstraintError, SearchError
from jointnas.predictor.contract import MIN_FIT_EXAMPLES
from jointnas.search.search import Search
from jointnas.search.winners import Selection, Winner
from jointnas.space.constraint import violations
from jointnas.training.observation import ACCURACY, mean_observation

WINNER_DEVIATIONS = 1.0  # standard deviations from the median to the lower bound that ranks winners
LEADER_DEVIATIONS = 1.0  # and to the upper bound that chooses the leaders


class Rounds:
    """`spec.rounds` batches, then `spec.confirmations` trainings of the leaders. What the run already holds is not trained again."""

    def __init__(self, search: Search, runner: Runner, run: Run, spec: SearchSpec, emit: Callback) -> None:
        self._search, self._runner, self._run, self._spec, self._emit = search, runner, run, spec, emit
        self._ended = {row["number"]: row["rank_correlation"] for row in run.rounds()}
        self._fraction = 1.0  # of the budget that the trainings of the rounds ran

    def train(self) -> None:
        """Train until all budgets are spent, or the pool has nothing left.

        Raises `SearchError` when every training of the first round failed; when the run is resumed, they are trained again.
        """
        if self._spec.streams:
            self._stream()
        else:
            for number, size in self._sizes().items():
                self._round(number, size)
        self._confirm()

    def _sizes(self) -> dict[int, int]:
        """Return how many candidates each round trains: what the run holds already, and what is left of the budgets for later rounds.

        A resumed run may have other budgets than the rounds that it holds.
        """
        spec, held = self._spec, Counter(trial.round for trial in self._trials())
        left = sum(spec.batch_of(number) for number in range(1, spec.rounds + 1)) - held.total()
        new = [number for number in range(1, spec.rounds + 1) if number not in held] or [max(held) + 1]
        each, rest = divmod(max(0, left), len(new))
        sizes = {**held, **{number: each + (i < rest) for i, number in enumerate(new)}}
        return {number: sizes[number] for number in sorted(sizes) if sizes[number]}

    def winners(self) -> list[Winner]:
        """Return the search's winners, where accuracy is the objective in the order of `trained_first`.

        After an early stop only trainings of the whole budget count, by what they reached.
        """
        spec, query = self._spec, self._search.query
        leaders = self._search.best(spec.top + spec.confirmations, spec.engine, deviations=WINNER_DEVIATIONS)
        if self._fraction < 1:
            leaders = by_whole_trainings(self._search, leaders, list(self._runner.trials.values()))
        elif query.objectives == (ACCURACY,):
            if all(w.accuracy is None for w in leaders) and not query.measured:
                leaders += self._best_trained(-WINNER_DEVIATIONS)
            leaders = trained_first(leaders)
        return leaders[: spec.top]

    def train_final(self, winner: Winner) -> None:
        """Train the first winner on the training and validation images together; a run does that once for each first winner."""
        trials = [t for t in self._runner.trials.values() if t.kind == FINAL and t.candidate == winner.candidate]
        if not trials:
            identities = self._search.space.identities(self._search.space.to_codes([winner.candidate]))
            self._emit(Activity("training on all images"))
            trials = self._runner.add(self._spec.rounds, [winner.candidate], identities, kind=FINAL)
        self._runner.train(trials)

    def _trials(self, last_round: int | None = None) -> list[Trial]:
        trials = [t for t in self._runner.trials.values() if t.kind not in (CONFIRMATION, FINAL)]
        return [t for t in trials if last_round is None or t.round <= last_round]

    def _confirmed(self) -> list[Trial]:
        return [t for t in self._runner.trials.values() if t.kind == CONFIRMATION]

    def _round(self, number: int, size: int) -> None:
        trials = [t for t in self._trials() if t.round == number]
        if not trials and self._search.exhausted:
            return
        self._emit(RoundStarted(number, self._runner.stop_at))
        if number == 1 and trials and all(t.observation and t.accuracy is None for t in trials):
            trials = self._runner.retry(trials)
        trials = self._runner.train(trials or self._ask(number, size), repeat_disturbed=number not in self._ended)
        self._tell(number, trials)
        self._check_trained(trials)
        self._end_round(number)

    def _check_trained(self, trials: Sequence[Trial]) -> None:
        """Raise `SearchError` where all trainings failed."""
        if self._search.trained == 0:
            reason = min(str(t.observation.failure) for t in trials if t.observation is not None)
            raise SearchError(
                f"all {len(trials)} trainings of the first round failed ({reason}): remove the cause, then go on with --resume"
            )

    def _end_round(self, number: int) -> None:
        """Record that a round has ended, once, and report it."""
        if number not in self._ended:
            self._emit(Activity("fitting the predictor"))
            self._ended[number] = self._search.rank_correlation
            self._run.end_round(number, len(self._trials(number)), self._ended[number])
        self._emit(RoundEnded(number, self._ended[number]))

    def _stream(self) -> None:
        """Keep more workers than a batch has candidates busy: where trainings end, others are proposed at once beside those that run.

        A round then is as many trainings, in the order in which they were asked.
        """
        spec, runner = self._spec, self._runner
        last = np.cumsum([spec.batch_of(number) for number in range(1, spec.rounds + 1)])  # of each round
        held = self._trials()
        if not any(t.accuracy is not None for t in held if t.observation):
            held = runner.retry(held)
        self._tell(spec.rounds, [t for t in held if t.observation])
        running = [t for t in held if t.observation is None]  # also those that were set aside
        self._search.mark_asked([t.candidate for t in running])
        runner.start(running)
        count, left = len(held), len(running)
        while left or (count < last[-1] and not self._search.exhausted):
            free = min(spec.at_a_time - left, int(last[-1]) - count)
            if free > 0 and not self._search.exhausted:
                number = int(np.searchsorted(last, count, side="right")) + 1
                self._emit(RoundStarted(number, 1.0))
                added = self._ask(number, free)
                runner.start(added)
                count, left = count + len(added), left + len(added)
            ended = runner.ended()
            again = runner.set_aside(ended)
            runner.start(again)
            left += len(again) - len(ended)
            self._tell(spec.rounds, [t for t in ended if runner.trials[t.number].observation])
            done = count - left
            if done >= last[0]:
                self._check_trained([t for t in self._trials() if t.observation])
            for number in range(len(self._ended) + 1, int(np.searchsorted(last, done, side="right")) + 1):
                self._end_round(number)
        if count < last[-1]:  # the pool ran out
            self._check_trained(self._trials())
            number = len(self._ended) + 1
            if any(trial.round == number for trial in self._trials()):
                self._end_round(number)

    def _ask(self, number: int, n: int) -> list[Trial]:
        self._emit(Activity("choosing candidates"))
        self._report([t for t in self._confirmed() if t.observation])  # of the run that a resumed search goes on with
        batch = self._search.ask(n)
        return self._runner.add(number, batch, batch.identities, batch.predictions)

    def _tell(self, number: int, trials: Sequence[Trial]) -> None:
        """Tell the search a round's observations; once trainings are cut short, all of them as of that fraction."""
        if self._spec.early_stop is not None and self._runner.stop_at == 1:
            until_now = self._trials(number)
            observations = [t.observation for t in until_now if t.observation is not None]
            self._runner.stop_at = stop_fraction(observations, self._spec.early_stop, self._spec.seed)
            trials = until_now if self._runner.stop_at < 1 else trials
        ended = [(t.candidate, t.outcome) for t in trials if t.outcome is not None]
        self._search.tell([c for c, _ in ended], [at_fraction(o, self._runner.stop_at) for _, o in ended])

    # ------------------------------------------------------------------------------------------------ confirmation

    def _confirm(self) -> None:
        """Spend what is left of the budgets on the leaders, as many at a time as there are workers; nothing where none meets the bounds."""
        self._fraction, self._runner.stop_at = self._runner.stop_at, 1.0
        self._report(self._runner.train(self._confirmed()))
        enough = self._search.trained >= MIN_FIT_EXAMPLES
        while enough and (left := self._spec.confirmations - len(self._confirmed())) > 0:
            self._emit(Activity("choosing what to train again"))
            try:
                with self._search.query.meter or nullcontext():  # its worker ends before the trainings begin
                    leaders = self._uncertain_leaders(min(left, self._spec.at_a_time))
            except ConstraintError:  # which `winners` raises too, once the predictor is saved
                break
            identities = self._search.space.identities(self._search.space.to_codes([w.candidate for w in leaders]))
            done = [t.identity for t in self._confirmed()]
            added = self._runner.add(
                self._spec.rounds,
                [w.candidate for w in leaders],
                identities,
                [(w.mean, w.std) for w in leaders],
                kind=CONFIRMATION,
                repeats=[done.count(identity) for identity in identities],
            )
            self._report(self._runner.train(added))

    def _uncertain_leaders(self, n: int) -> list[Winner]:
        """Return n leading candidates to train: every other one was trained before.

        The leaders are the candidates that may still be the best: they have the highest upper confidence bounds; where a cost is the objective,
        the least trained. New candidates are more uncertain, so by that bound alone leaders are seldom trained again, and the luckiest one
        wins.
        """
        search, spec = self._search, self._spec
        leaders = search.best(max(spec.top, spec.confirmations), spec.engine, deviations=0.0)
        by_accuracy = search.query.objectives == (ACCURACY,)
        if by_accuracy and all(w.accuracy is None for w in leaders):
            leaders += self._best_trained(LEADER_DEVIATIONS)
        codes = search.space.to_codes([w.candidate for w in leaders])
        if by_accuracy:
            by_upper_bound = np.argsort(-search.fitted().bound_codes(codes, LEADER_DEVIATIONS), kind="stable").tolist()
            order = alternating(by_upper_bound, [w.accuracy is not None for w in leaders], len(self._confirmed()))
        else:
            trained = [t.identity for t in self._runner.trials.values()]
            order = np.argsort([trained.count(i) for i in search.space.identities(codes)], kind="stable").tolist()
        return [leaders[i] for i in order[:n]]

    def _best_trained(self, deviations: float) -> list[Winner]:
        """Return the trained candidate with the highest bound, so many deviations above its median, if one meets the exact bounds."""
        search, observed = self._search, self._search.observed_codes
        trained = observed[~np.isnan(search.observed_accuracies(observed))]
        if not len(trained):
            return []
        best = int(search.fitted().bound_codes(trained, deviations).argmax())
        return search.to_winners(Selection.of_rows(trained, [best], {}))

    def _report(self, confirmed: Sequence[Trial]) -> None:
        """Report candidates that were trained again to the search, each with the mean of all its trainings."""
        fraction = min(self._fraction, self._runner.stop_at)
        for identity in dict.fromkeys(t.identity for t in confirmed):
            trials = [t for t in self._runner.trials.values() if t.identity == identity and t.observation]
            observations = [at_fraction(t.outcome, fraction) for t in trials if t.outcome]
            self._search.tell([trials[0].candidate], [mean_observation(observations)])


def trained_first(winners: Sequence[Winner]) -> list[Winner]:
    """Return the trained winners, then the predicted ones, then trained ones that are clearly worse. The first trained one stays first.

    Clearly worse: the expected accuracy plus one standard deviation is below that of a predicted winner minus one.
    """
    first = next((winner for winner in winners if winner.accuracy is not None), None)
    bound = max((winner.mean - winner.std for winner in winners if winner.accuracy is None), default=-np.inf)

    def place(winner: Winner) -> int:
        if winner.accuracy is None:
            return 1
        return 2 if winner is not first and winner.mean + winner.std < bound else 0

    return sorted(winners, key=place)


def alternating(order: Sequence[int], trained: Sequence[bool], done: int) -> list[int]:
    """Return an order in which every other index is of a trained candidate, as long as there are any; done: how many came before."""
    left, alternated = list(order), list[int]()
    while left:
        wanted = [i for i in left if trained[i]] if (done + len(alternated)) % 2 == 0 else left
        alternated.append((wanted or left)[0])
        left.remove(alternated[-1])
    return alternated


def by_whole_trainings(search: Search, winners: Sequence[Winner], trials: Sequence[Trial]) -> list[Winner]:
    """Return winners with their mean accuracies at the whole budget, best first where accuracy is the objective.

    Those without such a training, and those that break a bound on accuracy, come last.
    """
    identities = search.space.identities(search.space.to_codes([w.candidate for w in winners]))
    whole = [(t.identity, t.outcome) for t in trials if t.outcome and t.outcome.fraction == 1]
    observed = [[o for own, o in whole if own == identity] for identity in identities]
    reached = [mean_observation(o).accuracy if o else None for o in observed]
    query, accuracies = search.query, np.array([np.nan if a is None else a for a in reached])
    short = (
        violations(query.accuracy_bounds, {ACCURACY: accuracies}).any(axis=1)
        if query.accuracy_bounds
        else np.isnan(accuracies)
    )
    ranks = np.nan_to_num(-accuracies) if query.objectives == (ACCURACY,) else np.arange(len(winners))
    return [replace(winners[i], accuracy=reached[i]) for i in np.lexsort([ranks, short])]
