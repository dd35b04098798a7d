"""Trainings of a run's trials: recorded in the store before they start, trained in an executor's slots, recorded as they end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jointnas.campaign.events import Callback, Notice, TrialEnded, TrialProgress, TrialStarted
from jointnas.campaign.store import Run
from jointnas.campaign.trial import FINAL, Trial
from jointnas.errors import SearchError
from jointnas.execution.executor import Event, Executor
from jointnas.space.knob_space import Candidate
from jointnas.training.job import TrainingJob, TrainingResult, member_files
from jointnas.training.members import LARGEST_ENSEMBLE, SEEDS

POLL_SECONDS = 0.5
KEPT = 12  # trainings whose weights are kept while a search runs
SEED_STRIDE = 10_000  # between the trials' seeds of two searches with neighbouring seeds

Prediction = tuple[float, float] | None
"""Mean and standard deviation of a predicted accuracy, None without a predictor."""


class Runner:
    """The trials of one run: those that the store holds, and those that are added and trained.

    weights: the folder that keeps the weights of the `kept` most accurate trainings, or of all where that is None; None keeps none. members,
    ensemble: see `TrainingJob`. trained_as: returns what is trained for a candidate of the space. mixes_machines: whether trainings under one
    clock may have machines of several kinds.
    """

    def __init__(
        self,
        run: Run,
        executor: Executor,
        clock: Mapping[str, float],
        seed: int,
        emit: Callback,
        *,
        weights: Path | None = None,
        kept: int | None = KEPT,
        members: int = 1,
        ensemble: str = SEEDS,
        trained_as: Callable[[Candidate], Candidate] = lambda candidate: candidate,
        mixes_machines: bool = False,
    ) -> None:
        self._run, self._executor, self._clock, self._seed, self._emit = run, executor, dict(clock), seed, emit
        self._weights, self._members, self._ensemble, self._trained_as = weights, members, ensemble, trained_as
        self.trials: dict[int, Trial] = {trial.number: trial for trial in run.trials()}
        self.stop_at = 1.0  # fraction of the budget that trainings run
        self._mixes_machines, self._metric, self._kept = mixes_machines, run.score, kept
        self._dropped: set[int] = set()  # trials whose weights were deleted
        if weights is not None:
            weights.mkdir(parents=True, exist_ok=True)  # by this machine: a node that does not see it keeps no weights

    def add(
        self,
        round_number: int,
        candidates: Sequence[Candidate],
        identities: Sequence[str],
        predictions: Sequence[Prediction] | None = None,
        *,
        kind: str = "trial",
        repeats: Sequence[int] | None = None,
        parent: int | None = None,
    ) -> list[Trial]:
        """Return new trials of these candidates, recorded in the store.

        repeats: the number of each training among those of its candidate, 0 for the first. A run holds one trial of each
        (identity, kind, repeat). parent: the trial whose weights they start from.
        """
        first = len(self.trials) + 1
        trials = []
        for i, candidate in enumerate(candidates):
            mean, std = (predictions[i] if predictions else None) or (None, None)
            number = first + i
            seed, repeat = self._seed * SEED_STRIDE + number, repeats[i] if repeats else 0
            own = (number, round_number, candidate, seed, identities[i], kind, repeat, mean, std)
            trial = Trial(*own, parent=parent, metric=self._metric)
            trials.append(trial)
        self._run.add_trials(trials)
        self.trials.update({trial.number: trial for trial in trials})
        return trials

    def train(self, trials: Sequence[Trial], *, repeat_disturbed: bool = True) -> list[Trial]:
        """Return the trials with their observations; those that have one already are not trained again.

        Those that other programs disturbed are trained once more at the end (`set_aside`).
        """
        self._check_machines()
        self._train([t for t in trials if t.observation is None])
        if repeat_disturbed:
            self._train(self.set_aside(self._now(trials)))
        return self._now(trials)

    def start(self, trials: Sequence[Trial]) -> None:
        """Submit trials without waiting for them; `ended` returns them."""
        self._check_machines()
        self._executor.submit([self.job(t).numbered(t.number) for t in trials])

    def ended(self) -> list[Trial]:
        """Wait until submitted trials have ended, and return all that have by then."""
        ended: list[Trial] = []
        while not ended:
            events = self._executor.poll(POLL_SECONDS)
            while events:
                for event in events:
                    self._handle(event)
                new = [self.trials[e.number] for e in events if e.kind in ("done", "failed")]
                ended += new
                events = self._executor.poll(0) if new else []
        return ended

    def set_aside(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return those of the trials that other programs disturbed, to be trained once more; their observations are kept aside.

        None where steps are counted, which a busy machine does not change, and where most of the repeated ones were disturbed again: then
        the machine stays busy.
        """
        again = [t for t in trials if t.observation and t.observation.was_disturbed and not t.disturbed]
        if not again or "train_seconds" not in self._clock:
            return []
        repeated = [t.observation for t in self.trials.values() if t.disturbed and t.observation]
        if sum(o.was_disturbed for o in repeated) > len(repeated) / 2:
            self._emit(
                Notice(f"disturbed by other programs, but not repeated, as this machine stays busy: {_numbers(again)}")
            )
            return []
        self._emit(Notice(f"trained again, as other programs used their cores: {_numbers(again)}"))
        self._run.reopen([t.number for t in again], disturbed=True)
        self.trials.update({t.number: replace(t, observation=None, disturbed=t.observation) for t in again})
        return self._now(again)

    def _train(self, trials: Sequence[Trial]) -> None:
        for event in self._executor.results([self.job(t).numbered(t.number) for t in trials]):
            self._handle(event)

    def _now(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return trials as they stand now."""
        return [self.trials[t.number] for t in trials]

    def job(self, trial: Trial) -> TrainingJob:
        """Return how a trial is trained."""
        return TrainingJob(
            self._trained_as(trial.candidate),
            self._clock,
            trial.seed,
            stop_at=self.stop_at,
            weights=weights_file(self._weights, trial.number),
            with_val=trial.kind == FINAL,
            members=self._members,
            ensemble=self._ensemble,
        )

    def worth_keeping(self) -> set[int]:
        """Return the numbers of the trials whose weights are kept: the most accurate ones."""
        ended = [t for t in self.trials.values() if t.accuracy is not None]
        return {t.number for t in sorted(ended, key=lambda t: -(t.accuracy or 0.0))[: self._kept]}

    def retry(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return trials as if they had not been trained yet."""
        self._run.reopen([trial.number for trial in trials], disturbed=False)
        waiting = [replace(trial, observation=None) for trial in trials]
        self.trials.update({trial.number: trial for trial in waiting})
        return waiting

    def _handle(self, event: Event) -> None:
        trial = self.trials[event.number]
        if event.kind == "started":
            self._emit(TrialStarted(trial))
        elif event.kind == "progress":
            self._emit(TrialProgress(trial, event.fraction, event.seconds))
        elif event.kind == "retried":
            self._emit(Notice(f"trial {trial.number} is run again: {event.reason}"))
        else:
            result = TrainingResult.of(event)
            observation = replace(result.observation, test_accuracy=result.test_accuracy, attempts=event.attempts)
            if observation.failure and trial.disturbed:
                observation = trial.disturbed  # a busy machine may make the repeat fail too
            self._run.end_trial(event.number, observation)
            self.trials[event.number] = replace(trial, observation=observation)
            self._emit(TrialEnded(self.trials[event.number]))
            if result.unsaved:
                self._emit(Notice(f"the weights of trial {event.number} were not kept ({result.unsaved})"))
            self.drop_weights()
            self._check_machines()

    def _check_machines(self) -> None:
        """Raise `SearchError` where trainings under a clock had machines of several kinds: in equal seconds they are not the same training."""
        seen = [t.observation.machine for t in self.trials.values() if t.observation and t.observation.machine]
        kinds = list(dict.fromkeys(seen))
        if len(kinds) > 1 and "train_seconds" in self._clock and not self._mixes_machines:
            raise SearchError(
                f"trainings of one run have machines of one kind, got {kinds[1]!r} after {kinds[0]!r}: go on with --mix-machines, or start "
                "a run on nodes of one kind or with --train-steps"
            )

    def drop_weights(self) -> None:
        """Delete the weights of the trials that are not worth keeping."""
        if self._weights is not None:
            ended = {t.number for t in self.trials.values() if t.accuracy is not None}
            for number in ended - self.worth_keeping() - self._dropped:
                for file in trained_members(self._weights, number):
                    file.unlink()
                self._dropped.add(number)


def _numbers(trials: Sequence[Trial]) -> str:
    return f"trial{'s' if len(trials) > 1 else ''} {', '.join(str(t.number) for t in trials)}"


def trained_members(folder: Path, number: int) -> list[Path]:
    """Return the files of the weights of each member that a trial kept, none where they are not kept."""
    first = Path(str(weights_file(folder, number)))
    return [path for path in member_files(first, LARGEST_ENSEMBLE) if path.is_file()]


def weights_file(folder: Path | None, number: int) -> str | None:
    """Return the file of a trial's weights, None without a folder."""
    return None if folder is None else str(folder / f"trial-{number}.safetensors")
