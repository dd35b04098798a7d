"""A campaign: the one procedure behind `jointnas.run_search`, `jointnas search` and `jointnas autotrain`.

Each step is in the run's store before the next one relies on it, so that a killed campaign can be resumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jointnas.campaign.best import WEIGHTS, keep_best
from jointnas.campaign.direct import DirectSearch
from jointnas.campaign.events import Activity, Callback, Notice, RunOpened, WinnersFound, broadcast
from jointnas.campaign.folders import BEST, open_run
from jointnas.campaign.nash import run_nash
from jointnas.campaign.portfolio import starting_candidates
from jointnas.campaign.registry import PREDICTOR, context_of, find_prior
from jointnas.campaign.result import Campaign
from jointnas.campaign.rounds import Rounds
from jointnas.campaign.runner import KEPT, Runner
from jointnas.campaign.shares import as_ensembles, bounds_of_member
from jointnas.campaign.spec import DirectSpec, NashSpec, PolicySpec, SearchSpec
from jointnas.campaign.store import Context, Run
from jointnas.campaign.timing import BudgetSteps, meets, task_of
from jointnas.campaign.trial import Trial
from jointnas.data.dataset import Data, load_data
from jointnas.data.symmetry import mirror_symmetry
from jointnas.errors import SearchError, SpaceError
from jointnas.execution.executor import Executor
from jointnas.measurement.device_command import DeviceCommand
from jointnas.measurement.meter import Meter
from jointnas.plugins import load_function
from jointnas.predictor.contract import MIN_FIT_EXAMPLES, Predictor
from jointnas.predictor.prior import Prior
from jointnas.predictor.task import Task, TrainingImages
from jointnas.search.objective import Query, predicted_objective
from jointnas.search.search import Search
from jointnas.space.constraint import format_metric, parse_all
from jointnas.space.knob_space import Candidate
from jointnas.space.sampling import draw_pool
from jointnas.space.space import Space
from jointnas.space.transfer import nearest_candidate
from jointnas.training.job import trial_executor
from jointnas.training.members import SNAPSHOTS, part_of
from jointnas.training.observation import ACCURACY, LOG_LOSS
from jointnas.training.policy_text import KNOB, check_policy_knob
from jointnas.training.recipe import Recipe, check_value
from jointnas.training.trained_blueprint import trained_blueprint
from jointnas.training.user_function import UserFunction, function_executor

DRAWS = 256  # samples of the predicted accuracies of the built-in recipes
TIMED = 3  # random candidates that are timed where no built-in recipe was


@dataclass(frozen=True)
class Setup:
    """What a campaign has before its first training: the data, the bound space, the search with its pool, the built-in recipes in it."""

    spec: SearchSpec
    context: Context
    data: Data | None
    search: Search
    meter: Meter | None
    recipes: Mapping[str, Candidate]


def run(
    spec: SearchSpec | NashSpec,
    callbacks: Sequence[Callback] = (),
    *,
    out: Path | None = None,
    resume: bool = False,
    executor: Executor | None = None,
) -> Campaign:
    """Run the campaign of `spec` and return its result, which reads the run's folder.

    out: the run's folder; by default a new one in runs/, or with `resume` the latest run of this spec. executor: trains the
    trials; by default local workers that end with the campaign. Callbacks get every `Event`.
    Raises `JointNASError` for what cannot be searched, and `SearchError` when all trainings of the first round failed.
    """
    if isinstance(spec, NashSpec):
        return run_nash(spec, callbacks, out=out, resume=resume, executor=executor)
    emit = broadcast(callbacks)
    setup = prepare(spec, emit)
    with ExitStack() as stack:
        store = stack.enter_context(open_run(out, spec, setup.context, resume, setup.search.space.name))
        emit(RunOpened(store.path, spec, setup.context, store.trials()))
        if setup.recipes:
            recipes = recipes_text(_recipe_macs(setup))
            emit(Notice(f"starts from built-in recipes: {recipes} (turn off with --portfolio 0)"))
        if setup.search.predictor.prior is not None:
            emit(Notice(f"warm start: {setup.search.predictor.prior.describe()} (turn off with --prior none)"))
        if spec.kind == "autotrain" and store.queries():  # it ended before, and nothing about it may change
            return Campaign(store.path)
        executor = executor or stack.enter_context(make_executor(setup))
        return _conduct(setup, store, executor, emit)


def _conduct(setup: Setup, store: Run, executor: Executor, emit: Callback) -> Campaign:
    spec, search = setup.spec, setup.search
    keeps_networks = spec.train_fn is None and not isinstance(spec, PolicySpec)
    weights = (store.path / WEIGHTS).resolve() if keeps_networks else None
    runner = Runner(
        store,
        executor,
        spec.clock,
        spec.seed,
        emit,
        weights=weights,
        kept=KEPT if search.query.objectives == (ACCURACY,) else None,  # else less accurate candidates may win
        members=spec.members,
        ensemble=spec.ensemble,
        trained_as=spec.trained_as,
        mixes_machines=spec.mix_machines,
    )
    conductor = (
        DirectSearch(search, runner, spec, emit)
        if isinstance(spec, DirectSpec | PolicySpec) and spec.is_direct
        else Rounds(search, runner, store, spec, emit)
    )
    if isinstance(conductor, Rounds) and runner.trials:
        search.mark_asked(list(setup.recipes.values()))  # timed anew, a recipe may have got another network
    conductor.train()
    if search.trained < MIN_FIT_EXAMPLES:
        raise SearchError(_too_few(search.trained, list(runner.trials.values())))
    predictor = search.fitted()
    predictor.context = context_of(spec, setup.context)
    predictor.save(
        store.path / PREDICTOR
    )  # before winners are named: other bounds can be asked when these have no winner
    with ExitStack() as stack:
        if setup.meter:
            stack.enter_context(setup.meter)
        winners = as_ensembles(conductor.winners(), spec.members)
    for reason in setup.meter.failures if setup.meter else ():
        emit(Notice(f"a metric could not be measured: {reason}"))
    constraints = [str(c) for c in parse_all(spec.constraints, [c.metric for c in search.constraints])]
    store.add_query(constraints, spec.engine, spec.seed, winners)
    emit(WinnersFound(winners, search.rank_correlation))
    if isinstance(conductor, Rounds) and spec.final_trainings:
        conductor.train_final(winners[0])
    if keeps_networks:
        rank = keep_best(store.path, setup.data, winners, list(runner.trials.values()))
        if setup.data is not None and rank != 1:
            held = f"the network of winner {rank}" if rank else "no network of these winners"
            emit(Notice(f"{store.path / BEST} holds {held}: jointnas retrain {store.path} --top 1 trains the first"))
    return Campaign(store.path, reports=search.reports)


def _too_few(trained: int, trials: Sequence[Trial]) -> str:
    """Return why nothing can be ranked: too few candidates were trained."""
    failures = [str(trial.observation.failure) for trial in trials if trial.observation and trial.observation.failure]
    reason = f" ({failures[0]})" if failures else ""
    return (
        f"a ranking needs {MIN_FIT_EXAMPLES} trained candidates, got {trained} after {len(trials)} trainings{reason}: "
        "raise --rounds and go on with --resume"
    )


def prepare(spec: SearchSpec, emit: Callback) -> Setup:
    """Return what the campaign of `spec` starts from; nothing is trained and no run is made.

    Raises `JointNASError` for data, a space, bounds or a prior that do not fit together.
    """
    slot = spec.slot
    space = Space.from_toml(spec.space)
    if spec.train_fn is None and space.is_abstract and not isinstance(spec, PolicySpec):
        raise SpaceError(
            f'the built-in trainer needs networks, but the space {space.name!r} has none: add network = "resnet9", '
            "or train with your own code (--train-fn)"
        )
    if spec.train_fn is not None:
        load_function(spec.train_fn)  # a wrong name costs nothing
    data = None if spec.data is None else load_data(spec.data)
    if isinstance(spec, PolicySpec):
        _check_trained(spec, space, data)
    for note in data.notes if data else ():
        emit(Notice(note))
    if data is not None and not space.is_abstract:
        space = space.bind(data.input_shape, len(data.classes)).restricted(len(data.train))
    cost = load_function(spec.cost_fn) if spec.cost_fn else None
    space = space.with_cost(cost)
    start = [_brought_in(candidate, space, emit) for candidate in spec.start]
    prior = find_prior(spec.prior, space)
    command = None if spec.latency_command is None else DeviceCommand(spec.latency_command)
    meter = None
    if data and not space.is_abstract:
        meter = Meter(slot, data.input_shape, len(data.classes), command=command)
    recipes, task = (
        _built_in_recipes(spec, space, meter, prior, data, emit)
        if meter and data
        else ({}, Task(val_images=_val_images(spec, data)))
    )
    search = Search(
        space,
        bounds_of_member(spec.constraints, spec.members),
        seed=spec.seed,
        objective=predicted_objective(spec.objective),
        meter=meter,
        reported=spec.measure,
        reference=spec.reference,
        start=[*start, *recipes.values()],
        prior=prior,
        predictor_kind=spec.predictor,
        task=task,
    )
    with ExitStack() as stack:
        if meter:
            stack.enter_context(meter)  # its worker ends before any training begins
        _ = search.pool_size  # draws the pool; a bound on a measured metric calibrates its forecast
    for metric, error in search.forecast_errors.items():
        emit(Notice(f"{metric} is forecast with a median error of {error:.1%}; winners are measured"))
    for text in search.warnings:
        emit(Notice(text))
    context = Context.of(space, data, slot, prior.digest if prior else None)
    return Setup(spec, context, data, search, meter, recipes)


def _check_trained(spec: PolicySpec, space: Space, data: Data | None) -> None:
    """Raise a `JointNASError` unless the space is one of policies, and its candidates can be trained on the data."""
    if not space.is_abstract:
        raise SpaceError(
            f"a policy is searched in a space without networks, got {space.name!r}: use augmentation-policy or randaugment"
        )
    candidate = spec.trained_as(space.sample(1)[0])
    Recipe.from_knobs(candidate["recipe"])
    for knob in space.knobs:
        for value in knob.extremes:
            if KNOB.fullmatch(knob.name):
                check_policy_knob(knob.name, value)
            else:
                check_value(knob.name, value)
    if data is not None:
        trained_blueprint(candidate, data.input_shape, len(data.classes))


def _val_images(spec: SearchSpec, data: Data | None) -> int | None:
    """Return of how many validation images a score is a share; None for the log-loss, which is no share, and where they are not known."""
    return None if data is None or spec.score == LOG_LOSS else len(data.val)


def _built_in_recipes(
    spec: SearchSpec, space: Space, meter: Meter, prior: Prior | None, data: Data, emit: Callback
) -> tuple[dict[str, Candidate], Task]:
    """Return the built-in recipes of the first batch by name, and the task: training images, and the steps that the budget holds."""
    bounds = bounds_of_member(spec.constraints, spec.members)
    objective = predicted_objective(spec.objective)
    query = Query(space, bounds, objective, meter, spec.measure, spec.seed, spec.reference)
    clock = (
        spec.clock if spec.ensemble == SNAPSHOTS else part_of(spec.clock, spec.members)
    )  # snapshots are of one training
    seconds, recipes = clock.get("train_seconds"), {}
    timed = None if seconds is None else BudgetSteps(meter, seconds)
    budget = clock["train_steps"] if seconds is None else seconds
    images = TrainingImages(len(data.train), mirror_symmetry(data))

    @cache
    def task() -> Task:
        measured = None if timed is None else timed.measured
        return replace(task_of(space, images, budget, prior, measured, spec.seed), val_images=_val_images(spec, data))

    def draws(candidates: Sequence[Candidate]) -> NDArray[np.float64]:
        predictor = Predictor(space, spec.seed, prior=prior, task=task())
        return predictor.sample_codes(space.to_codes(candidates), DRAWS, [spec.seed])

    if spec.portfolio_size:
        emit(Activity("timing the built-in recipes"))
        with meter:
            allowed, n = partial(meets, meter, query.measured), spec.portfolio_size
            recipes = starting_candidates(
                space, query.exact, n, timed or budget, spec.seed, allowed, draws if prior else None
            )
    if timed and not timed.measured and prior and not spec.is_remote:
        emit(Activity("timing a few candidates"))
        with meter:
            for candidate in space.to_candidates(draw_pool(space, TIMED, query.exact, spec.seed)[:TIMED]):
                timed(candidate)
    return recipes, task()


def _recipe_macs(setup: Setup) -> dict[str, float]:
    """Return the MACs of each built-in recipe that the first batch holds."""
    return {name: setup.search.space.cost(candidate)["macs"] for name, candidate in setup.recipes.items()}


def recipes_text(macs: Mapping[str, float]) -> str:
    """Return the names of recipes with their MACs."""
    return ", ".join(f"{name} ({format_metric('macs', own)} MACs)" for name, own in macs.items())


def make_executor(setup: Setup) -> Executor:
    """Return the workers that train a campaign's candidates."""
    spec, slot = setup.spec, setup.context.slot
    if spec.train_fn is not None:
        return function_executor(UserFunction(spec.train_fn), slot, spec.clock, spec.executor)
    assert spec.data is not None
    return trial_executor(spec.data, slot, setup.context.fingerprint, kind=spec.executor)


def plan(setup: Setup) -> dict[str, Any]:
    """Return what a campaign will train and how long that takes, as `search --dry-run --json` prints it."""
    spec, context, data = setup.spec, setup.context, setup.data
    return {
        "trainings": spec.budgets,
        "rounds": spec.rounds,
        "batch": spec.batch,
        "confirmations": spec.confirmations,
        "workers": context.slot.workers,
        "threads_each": context.slot.threads,
        "device": context.slot.name,
        "train_images": len(data.train) if data else None,
        "val_images": len(data.val) if data else None,
        "test_images": data.test_images if data else None,
        "recipes": _recipe_macs(setup),
        "pool": setup.search.pool_size,
        "members": spec.members,
        "constraints": [str(c) for c in parse_all(spec.constraints, [c.metric for c in setup.search.constraints])],
        "train_seconds": spec.planned_seconds,
    }


def _brought_in(candidate: Candidate, space: Space, emit: Callback) -> Candidate:
    """Return the space's candidate nearest to a starting candidate; report where they differ."""
    nearest, changes = nearest_candidate(space, candidate)
    if changes:
        emit(Notice(f"the space {space.name} does not hold a starting candidate exactly: {', '.join(changes)}"))
    return nearest
