"""A campaign: a search over real trainings, in rounds, every step of it in the run store before it is relied on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jointnas.early_stop import at_fraction, stop_fraction
from jointnas.errors import SearchError
from jointnas.execution import Event, Executor, Job, LocalExecutor, Slot
from jointnas.execution.trials import prepare_trials
from jointnas.run import Run, Trial
from jointnas.search import Search
from jointnas.training import Clock, Observation

SEED_STRIDE = 10_000  # between the trials' seeds of two searches with neighbouring seeds


@dataclass
class Status:
    """What a campaign shows while it runs."""

    rounds: int
    round: int = 0
    trials: dict[int, Trial] = field(default_factory=dict)
    running: dict[int, tuple[float, float]] = field(default_factory=dict)  # trial: fraction, seconds
    rank_correlation: float | None = None
    stop_at: float = 1.0  # fraction of the budget that trainings run
    activity: str = ""

    @property
    def best(self) -> Trial | None:
        """The trial with the highest accuracy so far."""
        ended = [t for t in self.trials.values() if t.observation and t.observation.accuracy is not None]
        return max(
            ended,
            key=lambda t: t.observation.accuracy if t.observation and t.observation.accuracy else 0.0,
            default=None,
        )


Watch = Callable[[Status, Trial | None], None]
"""Called at every change; with a trial when that trial has just ended."""


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
        self._ended = {row["number"]: row["rank_correlation"] for row in self.run.rounds()}

    def conduct(self) -> None:
        """Take up what the run already holds, then ask, train and tell until all rounds have ended.

        Ends early when the pool runs out. Raises `SearchError` when every training of the first round failed.
        """
        for trial in self.run.trials():
            self.status.trials[trial.number] = trial
        rounds = {trial.round for trial in self.status.trials.values()}
        for number in range(1, max([self.rounds, *rounds]) + 1):
            if number not in rounds and self.search.exhausted:
                break  # every candidate there is has been trained
            self._round(number)

    def _round(self, number: int) -> None:
        self.status.round = number
        trials = [t for t in self.status.trials.values() if t.round == number] or self._ask(number)
        self._train([t for t in trials if t.observation is None])
        trials = [self.status.trials[t.number] for t in trials]
        observations = [t.observation for t in trials if t.observation is not None]
        if number == 1 and self.early_stop is not None:
            self.status.stop_at = stop_fraction(observations, self.early_stop)
        told_as = [at_fraction(o, self.status.stop_at) for o in observations]
        self.search.tell([t.candidate for t in trials], told_as)
        if self.search.trained == 0:
            reason = min(str(o.failure) for o in observations)
            raise SearchError(
                f"a first round has a training that succeeds, got {len(trials)} failures ({reason}): mend it and start a new run"
            )
        if number in self._ended:  # in an earlier session of this run
            self.status.rank_correlation = self._ended[number]
            return
        self._show("fitting the predictor")
        self.status.rank_correlation = self.search.rank_correlation
        told = sum(t.round <= number for t in self.status.trials.values())
        self.run.end_round(number, told, self.status.rank_correlation)
        self._show("")

    def _ask(self, number: int) -> list[Trial]:
        self._show("choosing candidates")
        candidates = self.search.ask(self.batch)
        predicted: Sequence[tuple[float | None, float | None]]
        predicted = self.search.predict(candidates) or [(None, None)] * len(candidates)
        first = len(self.status.trials) + 1
        trials = [
            Trial(first + i, number, candidate, self.seed * SEED_STRIDE + first + i, mean, std)
            for i, (candidate, (mean, std)) in enumerate(zip(candidates, predicted, strict=True))
        ]
        self.run.add_trials(trials, [self.search.space.identity(t.candidate) for t in trials])
        self.status.trials.update({t.number: t for t in trials})
        return trials

    def _train(self, trials: list[Trial]) -> None:
        jobs = [
            Job(
                t.number,
                {
                    "candidate": t.candidate,
                    "clock": self.clock.to_json(),
                    "seed": t.seed,
                    "stop_at": self.status.stop_at,
                },
            )
            for t in trials
        ]
        for event in self.executor.results(jobs):
            self._take(event)

    def _take(self, event: Event) -> None:
        if event.kind in ("started", "progress"):
            self.status.running[event.number] = (event.fraction, event.seconds)
            self._show("")
            return
        done = event.kind == "done"
        observation = Observation.from_json(event.result["observation"]) if done else Observation.failed(event.reason)
        self.status.running.pop(event.number, None)
        old = self.status.trials[event.number]
        self.run.end_trial(event.number, observation)
        self.status.trials[event.number] = Trial(
            old.number, old.round, old.candidate, old.seed, old.predicted, old.std, observation
        )
        self.watch(self.status, self.status.trials[event.number])

    def _show(self, activity: str) -> None:
        self.status.activity = activity
        self.watch(self.status, None)


def local_executor(data: dict[str, Any], slot: Slot, fingerprint: str) -> LocalExecutor:
    """Return the executor that trains candidates on the data of a `DataSpec` in JSON, which must have this fingerprint."""
    return LocalExecutor(partial(prepare_trials, data, slot.device, fingerprint), slot)
