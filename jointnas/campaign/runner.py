"""Trainings of a run's trials: recorded in the store before they start, trained in an executor's slots, recorded as they end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jointnas.campaign.events import Callback, Notice, TrialEnded, TrialProgress, TrialStarted
from jointnas.campaign.store import FINAL, Run, Trial
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

    weights: the folder that keeps the weights of the `KEPT` most accurate trainings, None for none. members, ensemble: see
    `TrainingJob`. trained_as: returns what is trained for a candidate of the space. mixes_machines: whether trainings under one clock may
    have machines of several kinds.
    """

    def __init__(
        self,
        run: Run,
        executor: Executor,
        clock: Mapping[str, float],
        seed: int,
        emit: Callback,
        weights: Path | None = None,
        members: int = 1,
        ensemble: str = SEEDS,
        trained_as: Callable[[Candidate], Candidate] = lambda candidate: candidate,
        mixes_machines: bool = False,
    ) -> None:
        self._run, self._executor, self._clock, self._seed, self._emit = run, executor, dict(clock), seed, emit
        self._weights, self._members, self._ensemble, self._trained_as = weights, members, ensemble, trained_as
        self.trials: dict[int, Trial] = {trial.number: trial for trial in run.trials()}
        self.stop_at = 1.0  # fraction of the budget that trainings run
        self._mixes_machines = mixes_machines
        self._machine: str | None = None  # the kind of the first training's, once it is known
        # whether training again would not help: the machine stays busy, or steps are counted
        self._is_busy = "train_seconds" not in clock

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
            trial = Trial(number, round_number, candidate, seed, identities[i], kind, repeat, mean, std, parent=parent)
            trials.append(trial)
        self._run.add_trials(trials)
        self.trials.update({trial.number: trial for trial in trials})
        return trials

    def train(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return the trials with their observations; those that have one already are not trained again.

        A training that other programs disturbed is done once more at the end, and its first observation is set aside. Where most are
        disturbed again, the machine stays busy, and no later one is repeated.
        """
        waiting = [t for t in trials if t.observation is None]
        self._train(waiting)
        self.train_again(waiting)
        return self._now(trials)

    def start(self, trials: Sequence[Trial]) -> None:
        """Submit trials without waiting for them; `ended` returns them."""
        self._executor.submit([self.job(t).numbered(t.number) for t in trials])

    def ended(self) -> list[Trial]:
        """Wait until submitted trials have ended, and return all that have by then."""
        ended: list[Trial] = []
        while not ended:
            events = self._executor.poll(POLL_SECONDS)
            while events:
                for event in events:
                    self._handle(event)
                ended += [self.trials[e.number] for e in events if e.kind in ("done", "failed")]
                events = self._executor.poll(0)
        return ended

    def train_again(self, trials: Sequence[Trial]) -> list[Trial]:
        """Train those trials once more that other programs disturbed, and return them; each once."""
        again = [t for t in self._now(trials) if t.observation and t.observation.was_disturbed and not t.disturbed]
        if self._is_busy:
            return []
        if again:
            self._emit(Notice(f"trained again, as other programs used their cores: {_numbers(again)}"))
            self._run.set_aside([t.number for t in again])
            for trial in again:
                self.trials[trial.number] = replace(trial, observation=None, disturbed=trial.observation)
            self._train(self._now(again))
            still = [t for t in self._now(again) if t.observation and t.observation.was_disturbed]
            self._is_busy = len(still) > len(again) / 2
            if self._is_busy:
                self._emit(Notice(f"disturbed again, so nothing more is repeated: {_numbers(still)}"))
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
        return {t.number for t in sorted(ended, key=lambda t: -(t.accuracy or 0.0))[:KEPT]}

    def retry(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return trials as if they had not been trained yet."""
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
            self._check_machine(result.observation.machine)
            observation = replace(result.observation, test_accuracy=result.test_accuracy, attempts=event.attempts)
            self._run.end_trial(event.number, observation)
            self.trials[event.number] = replace(trial, observation=observation)
            self._emit(TrialEnded(self.trials[event.number]))
            self.drop_weights()

    def _check_machine(self, machine: str | None) -> None:
        """Raise `SearchError` for a training on another kind of machine than those before: in equal seconds it is another training."""
        if machine is None or self._mixes_machines or "train_seconds" not in self._clock:
            return
        if self._machine is None:
            seen = [t.observation.machine for t in self.trials.values() if t.observation and t.observation.machine]
            self._machine = seen[0] if seen else machine
        if machine != self._machine:
            raise SearchError(
                f"trainings of one run have machines of one kind, got {machine!r} after {self._machine!r}: go on with nodes of one kind, "
                "or start a run with --mix-machines or --train-steps"
            )

    def drop_weights(self) -> None:
        """Delete the weights of the trials that are not worth keeping."""
        if self._weights is not None:
            ended = {t.number for t in self.trials.values() if t.accuracy is not None}
            for number in ended - self.worth_keeping():
                for file in trained_members(self._weights, number):
                    file.unlink()


def _numbers(trials: Sequence[Trial]) -> str:
    return f"trial{'s' if len(trials) > 1 else ''} {', '.join(str(t.number) for t in trials)}"


def trained_members(folder: Path, number: int) -> list[Path]:
    """Return the files of the weights of each member that a trial kept, none where they are not kept."""
    first = Path(str(weights_file(folder, number)))
    return [path for path in member_files(first, LARGEST_ENSEMBLE) if path.is_file()]


def weights_file(folder: Path | None, number: int) -> str | None:
    """Return the file of a trial's weights, None without a folder."""
    return None if folder is None else str(folder / f"trial-{number}.safetensors")
