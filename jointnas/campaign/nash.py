"""NASH: hill climbing by network morphisms over real trainings (Elsken, Metzen & Hutter 2017).

Each step trains children of the best network beside the best network itself, all from its weights and for the same budget, by cosine
annealing with warm restarts. The most accurate on the validation images is the best of the next step. The last one is trained on the
training and validation images together, and scored on the test images once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jointnas.campaign.best import WEIGHTS, keep_network
from jointnas.campaign.candidate_file import find_candidate
from jointnas.campaign.events import (
    Activity,
    Callback,
    Notice,
    RoundEnded,
    RoundStarted,
    RunOpened,
    WinnersFound,
    broadcast,
)
from jointnas.campaign.folders import open_run
from jointnas.campaign.result import Campaign
from jointnas.campaign.runner import SEED_STRIDE, Runner, weights_file
from jointnas.campaign.spec import ALL_IMAGES, NashSpec
from jointnas.campaign.store import Context, Run
from jointnas.campaign.trial import FINAL, Trial
from jointnas.data.dataset import Data, load_data
from jointnas.errors import ConstraintError, MorphismError, RunError, SearchError, SpaceError
from jointnas.execution.executor import Executor
from jointnas.execution.slots import Slot
from jointnas.network.blueprint import Blueprint
from jointnas.network.cost import METRICS, blueprint_cost, scoring_cost
from jointnas.network.families import MORPHISMS, make_blueprint
from jointnas.network.morphisms import draw, preview
from jointnas.network.quantisation import quantised
from jointnas.search.winners import Winner
from jointnas.space.constraint import MEASURED, Constraint, format_metric, parse_all, violations
from jointnas.space.knob_space import Candidate
from jointnas.space.sampling import smallest_network
from jointnas.space.space import Space
from jointnas.training.job import Parent, TrainingJob, trial_executor
from jointnas.training.observation import ACCURACY
from jointnas.training.recipe import Recipe
from jointnas.training.recipe_columns import effective

START = "nash"  # the built-in recipe
SAMPLED = 512  # candidates of a space, from which the descent to its smallest network begins
DRAWING_SEED = 3_000_000_000  # far from the seeds of trainings


def run_nash(
    spec: NashSpec,
    callbacks: Sequence[Callback] = (),
    *,
    out: Path | None = None,
    resume: bool = False,
    executor: Executor | None = None,
) -> Campaign:
    """Climb, and return the result, which reads the run's folder; see `campaign.run` for the arguments.

    Raises `JointNASError` for what cannot be searched, and `SearchError` when all trainings of a step failed.
    """
    emit = broadcast(callbacks)
    task = NashTask.of(spec)
    for note in task.data.notes:
        emit(Notice(note))
    with ExitStack() as stack:
        store = stack.enter_context(open_run(out, spec, task.context, resume, spec.kind))
        emit(RunOpened(store.path, spec, task.context, store.trials()))
        if not store.queries():  # it has not ended before
            data, slot = task.data, task.context.slot
            if executor is None:
                own = trial_executor(task.source, slot, data.fingerprint, kind=spec.executor)
                executor = stack.enter_context(own)
            Climb(task, store, executor, emit).run()
        shutil.rmtree(store.path / WEIGHTS, ignore_errors=True)
        return Campaign(store.path)


@dataclass(frozen=True)
class NashTask:
    """What a climb has before its first training: the data, the first network with its recipe, and the bounds."""

    spec: NashSpec
    data: Data
    slot: Slot
    start: Candidate
    constraints: tuple[Constraint, ...]

    @classmethod
    def of(cls, spec: NashSpec) -> NashTask:
        """Return the task of a spec. Raises `JointNASError` for a start that breaks a bound, and for what does not fit together."""
        if spec.data is None:
            raise SearchError("NASH trains networks on images, got none: name them with --data")
        data = load_data(spec.data)
        task = cls(spec, data, spec.slot, _start(spec, data), _bounds(spec))
        rate = task.recipe.learning_rate
        if spec.last_learning_rate > rate:
            raise SearchError(
                f"a learning rate falls from {rate:g}, that of the start, got --last-learning-rate {spec.last_learning_rate:g}: lower it"
            )
        costs = task.costs(task.start)
        broken = [c for c in task.constraints if c.violation(np.array([costs[c.metric]])).any()]
        if broken:
            metric = broken[0].metric
            raise ConstraintError(
                f"NASH grows its first network, of {format_metric(metric, costs[metric])} {metric}, got the bound {broken[0]}: "
                "loosen it or start from a smaller network with --start"
            )
        return task

    @property
    def context(self) -> Context:
        """What the run is started on."""
        return Context.of(None, self.data, self.slot)

    @property
    def source(self) -> Any:
        """The specification of the data."""
        return self.spec.data

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe of all trainings."""
        return Recipe.from_knobs(self.start["recipe"])

    def blueprint(self, candidate: Candidate) -> Blueprint:
        """Return a candidate's network."""
        return make_blueprint(candidate["architecture"], self.data.input_shape, len(self.data.classes))

    def costs(self, candidate: Candidate) -> dict[str, Any]:
        """Return what a candidate costs by all views of an image that it scores."""
        return self._costs(self.blueprint(candidate))

    def _costs(self, blueprint: Blueprint) -> dict[str, Any]:
        return scoring_cost(blueprint_cost(quantised(blueprint, self.recipe.quantisation)), self.recipe.views)

    def fits(self, blueprint: Blueprint) -> bool:
        """Return whether a network meets the bounds."""
        costs = {name: np.array([value], dtype=np.float64) for name, value in self._costs(blueprint).items()}
        return not violations(self.constraints, costs).any()

    def plan(self) -> dict[str, Any]:
        """Return what will be trained and how long that takes, as `search --dry-run --json` prints it."""
        spec, data = self.spec, self.data
        return {
            "trainings": spec.budgets,
            "rounds": spec.rounds,
            "batch": spec.batch,
            "morphisms": spec.morphisms,
            "workers": self.slot.workers,
            "threads_each": self.slot.threads,
            "device": self.slot.name,
            "train_images": len(data.train),
            "val_images": len(data.val),
            "test_images": data.test_images,
            "start": dict(self.start["architecture"]),
            "costs": self.costs(self.start),
            "constraints": [str(c) for c in self.constraints],
            "train_seconds": spec.planned_seconds,
        }


def _start(spec: NashSpec, data: Data) -> Candidate:
    if spec.start:
        return spec.start[0]
    own = find_candidate(START).candidate
    if spec.space is None:
        return own
    space = Space.from_toml(spec.space)
    if space.is_abstract:
        raise SpaceError(f"NASH grows networks, but the space {space.name!r} has none: choose another or give --start")
    space = space.bind(data.input_shape, len(data.classes))
    smallest = smallest_network(space, next(space.stream(spec.seed, chunk=SAMPLED)))
    return {"architecture": smallest["architecture"], "recipe": own["recipe"]}


def _bounds(spec: NashSpec) -> tuple[Constraint, ...]:
    """Return the bounds. Raises `ConstraintError` for those that are not exact."""
    parsed = parse_all(spec.constraints, (*METRICS, *MEASURED, ACCURACY))
    for constraint in parsed:
        if constraint.metric not in METRICS:
            raise ConstraintError(
                f"NASH keeps bounds that are exact before a training ({', '.join(METRICS)}), got {constraint}: drop it"
            )
    return parsed


class Lineage(Runner):
    """The trials of a climb: each starts from its parent's weights, and those of the present step and its parent are kept."""

    def __init__(self, task: NashTask, run: Run, executor: Executor, emit: Callback) -> None:
        weights = (run.path / WEIGHTS).resolve()
        clock, seed, mixes = task.spec.clock, task.spec.seed, task.spec.mix_machines
        super().__init__(run, executor, clock, seed, emit, weights=weights, mixes_machines=mixes)
        self._spec, self._rate = task.spec, task.recipe.learning_rate
        self.folder = weights
        self.step, self.best = 0, 0  # the number of the present step, and that of the trial that it starts from

    def job(self, trial: Trial) -> TrainingJob:
        """Return how a trial is trained: from fresh weights, or from its parent's."""
        spec, final = self._spec, trial.kind == FINAL
        parent = None
        if trial.parent is not None and (spec.inherit or final):
            weights = str(weights_file(self.folder, trial.parent))
            parent = asdict(Parent(self.trials[trial.parent].candidate["architecture"], weights))
        return TrainingJob(
            trial.candidate,
            spec.clock_of(spec.budgets_of(trial.round, final)),
            trial.seed,
            test=final,
            weights=weights_file(self.folder, trial.number),
            with_val=final,
            parent=parent,
            last_rate=spec.last_learning_rate / self._rate,
        )

    def worth_keeping(self) -> set[int]:
        """Return the numbers of the trial that the present step starts from, and of all from this step on: a resumed run has later ones."""
        return {t.number for t in self.trials.values() if t.round >= self.step or t.number == self.best}


class Climb:
    """The climb itself. What the run already holds is not trained again."""

    def __init__(self, task: NashTask, run: Run, executor: Executor, emit: Callback) -> None:
        self._task, self._run, self._emit = task, run, emit
        self._spec = task.spec
        self._runner = Lineage(task, run, executor, emit)

    def run(self) -> None:
        """Train the first network, take the steps, and train the best network on all images. Raises `SearchError`, `RunError`."""
        best = self._step(0, None)
        for number in range(1, self._spec.rounds + 1):
            best = self._step(number, best)
        winner = self._winner(best)
        final = self._train_final(best)
        results = {
            "predicted_accuracy": winner.mean,
            "std": winner.std,
            "val_accuracies": [best.accuracy],
            "trained_on": ALL_IMAGES,
            "test_accuracy": final.observation.test_accuracy if final.observation else None,
        }
        keep_network(self._run.path, self._task.data, final, results)
        self._run.add_query([str(c) for c in self._task.constraints], self._spec.kind, self._spec.seed, [winner])
        self._emit(WinnersFound([winner], None))

    def _step(self, number: int, best: Trial | None) -> Trial:
        """Return the most accurate trial of a step."""
        self._emit(RoundStarted(number, 1.0))
        self._runner.step, self._runner.best = number, best.number if best else 0
        self._runner.drop_weights()
        trials = [t for t in self._runner.trials.values() if t.round == number and t.kind != FINAL]
        if trials and all(t.observation and t.accuracy is None for t in trials):
            trials = self._runner.retry(trials)
        trials = self._train(trials or self._neighbours(number, best))
        ended = [t for t in trials if t.accuracy is not None]
        if not ended:
            reason = min(str(t.observation.failure) for t in trials if t.observation is not None)
            which = f"all {len(trials)} trainings of step {number}" if number else "the training of the first network"
            raise SearchError(f"{which} failed ({reason}): remove the cause, then go on with --resume")
        if number not in {row["number"] for row in self._run.rounds()}:
            self._run.end_round(number, sum(t.round <= number for t in self._runner.trials.values()), None)
        self._emit(RoundEnded(number, None))
        return max(ended, key=lambda t: t.accuracy or 0.0)

    def _train(self, trials: Sequence[Trial]) -> list[Trial]:
        """Train a step's trials. Raises `RunError` where the weights that they start from are gone."""
        for trial in trials:
            if trial.observation is None and trial.parent is not None:
                self._weights_of(trial.parent)
        return self._runner.train(trials)

    def _neighbours(self, number: int, best: Trial | None) -> list[Trial]:
        """Return the new trials of a step: children of the best network, and that network unmodified as the last."""
        if best is None:
            return self._add(number, [self._task.start], None)
        self._emit(Activity("drawing morphisms"))
        count = max(1, self._spec.batch - 1)  # a step of one network trains a random child
        children = [self._child(best, i) for i in range(count)]
        grown = [child for child in children if child is not None]
        if len(grown) < count:
            self._emit(Notice(f"step {number}: no morphism of trial {best.number} fits the bounds any more"))
        unmodified = [best.candidate] if self._spec.batch > 1 or not grown else []
        return self._add(number, [*grown, *unmodified], best)

    def _child(self, best: Trial, index: int) -> Candidate | None:
        """Return a child of the best network after random morphisms, as many as the bounds allow; None where they allow none."""
        number = len(self._runner.trials) + 1 + index
        rng = torch.Generator().manual_seed(DRAWING_SEED + self._spec.seed * SEED_STRIDE + number)
        blueprint, drawn = self._task.blueprint(best.candidate), list[str]()
        for _ in range(self._spec.morphisms):
            try:
                (morphism,) = draw(blueprint, rng, 1, self._task.fits)
            except MorphismError:
                break
            drawn.append(str(morphism))
            blueprint = preview(blueprint, morphism)
        return with_morphisms(best.candidate, drawn) if drawn else None

    def _add(self, number: int, candidates: Sequence[Candidate], best: Trial | None) -> list[Trial]:
        weights = self._weights_of(best.number).read_bytes() if best and self._spec.inherit else b""
        _, height, width = self._task.data.input_shape
        recipe = json.dumps(effective(self._task.recipe, height, width), sort_keys=True)
        before = [trial.identity for trial in self._runner.trials.values()]
        identities, repeats = list[str](), list[int]()
        for candidate in candidates:
            text = self._task.blueprint(candidate).digest() + recipe
            identities.append(hashlib.sha256(text.encode() + weights).hexdigest()[:16])
            repeats.append([*before, *identities].count(identities[-1]) - 1)
        parent = None if best is None else best.number
        return self._runner.add(number, candidates, identities, repeats=repeats, parent=parent)

    def _weights_of(self, number: int) -> Path:
        """Return the file of a trial's weights. Raises `RunError` where it is gone."""
        file = Path(str(weights_file(self._runner.folder, number)))
        if not file.is_file():
            raise RunError(
                f"the weights of trial {number}, from which others grow, are not in {str(file)!r}: restore the file or start a new run"
            )
        return file

    def _train_final(self, best: Trial) -> Trial:
        trials = [t for t in self._runner.trials.values() if t.kind == FINAL]
        if not trials:
            trials = self._runner.add(
                self._spec.rounds, [best.candidate], [best.identity], kind=FINAL, parent=best.number
            )
        elif _has_failed(trials[0]):
            trials = self._runner.retry(trials)
        self._emit(Activity("training on all images"))
        (trial,) = self._train(trials)
        if trial.observation is None or _has_failed(trial):
            reason = trial.observation.failure if trial.observation else "no result"
            raise SearchError(
                f"the training on all images failed ({reason}): remove the cause, then go on with --resume"
            )
        return trial

    def _winner(self, best: Trial) -> Winner:
        """Return the best network; what is predicted of it is its accuracy on the validation images, within their sampling noise."""
        accuracy = best.accuracy or 0.0
        noise = sqrt(accuracy * (1 - accuracy) / len(self._task.data.val))
        costs = self._task.costs(best.candidate)
        return Winner(best.candidate, accuracy, noise, accuracy, costs)


def _has_failed(trial: Trial) -> bool:
    return trial.observation is not None and trial.observation.failure is not None


def with_morphisms(candidate: Candidate, texts: Sequence[str]) -> Candidate:
    """Return the candidate whose network is changed by more morphisms, in text form."""
    architecture: Any = dict(candidate["architecture"])
    architecture[MORPHISMS] = [*architecture.get(MORPHISMS, ()), *texts]
    return {"architecture": architecture, "recipe": candidate["recipe"]}
