"""Trainings of a run's candidates: asked for in the store, trained in an executor's slots, recorded one by one, shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from jointnas.campaign.store import Run, Trial
from jointnas.execution import Event, Executor, Job
from jointnas.space.knob_space import Candidate
from jointnas.training.clock import Clock
from jointnas.training.observation import Observation

SEED_STRIDE = 10_000  # between the trials' seeds of two searches with neighbouring seeds
LARGEST_SEED = 99_999  # of a search: beyond it its trials' seeds would be those that winners are retrained with

Prediction = tuple[float | None, float | None]
"""Mean and standard deviation of a predicted accuracy, where there is a predictor."""


@dataclass
class Status:
    """What a campaign shows while it runs."""

    rounds: int | None  # None where an engine decides
    round: int = 0
    trials: dict[int, Trial] = field(default_factory=dict)
    running: dict[int, tuple[float, float]] = field(default_factory=dict)  # trial: fraction, seconds
    rank_correlation: float | None = None
    stop_at: float = 1.0  # fraction of the budget that trainings run
    activity: str = ""
    planned: int = 0  # trainings, where an engine decides
    leader: str = ""  # accuracy and trial of the best by another measure than accuracy alone

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
class Trainings:
    """The trials of one run: what the store holds already, and what is added and trained under `clock`."""

    run: Run
    executor: Executor
    clock: Clock
    seed: int
    watch: Watch
    status: Status

    def __post_init__(self) -> None:
        self.status.trials.update({trial.number: trial for trial in self.run.trials()})

    def add(
        self,
        round_number: int,
        candidates: Sequence[Candidate],
        identities: Sequence[str],
        predicted: Sequence[Prediction] | None = None,
    ) -> list[Trial]:
        """Return new trials of these candidates, recorded in the store. No two trials of a run have one identity."""
        first = len(self.status.trials) + 1
        said = predicted or [(None, None)] * len(candidates)
        trials = [
            Trial(first + i, round_number, candidate, self.seed * SEED_STRIDE + first + i, mean, std)
            for i, (candidate, (mean, std)) in enumerate(zip(candidates, said, strict=True))
        ]
        self.run.add_trials(trials, identities)
        self.status.trials.update({t.number: t for t in trials})
        return trials

    def train(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return trials with what came of them; those that have ended before are not trained again."""
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
            if t.observation is None
        ]
        for event in self.executor.results(jobs):
            self._take(event)
        return [self.status.trials[t.number] for t in trials]

    def _take(self, event: Event) -> None:
        if event.kind in ("started", "progress"):
            self.status.running[event.number] = (event.fraction, event.seconds)
            self.show("")
            return
        done = event.kind == "done"
        observation = Observation.from_json(event.result["observation"]) if done else Observation.failed(event.reason)
        self.status.running.pop(event.number, None)
        self.run.end_trial(event.number, observation)
        self.status.trials[event.number] = replace(self.status.trials[event.number], observation=observation)
        self.watch(self.status, self.status.trials[event.number])

    def show(self, activity: str) -> None:
        """Show the state, and what goes on beside trainings."""
        self.status.activity = activity
        self.watch(self.status, None)
