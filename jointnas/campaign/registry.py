"""Predictors by name: those that travel with the package, those of ended runs, and one fitted to the trials of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jointnas.campaign.early_stop import accuracy_at, at_fraction
from jointnas.campaign.folders import find_run, list_runs
from jointnas.campaign.spec import AdoptedSpec, PolicySpec, SearchSpec
from jointnas.campaign.store import DATABASE, Context, Run
from jointnas.campaign.trial import FINAL, Trial
from jointnas.data.spec import DataSpec
from jointnas.errors import PredictorError, RunError, suggest
from jointnas.execution.slots import Slot
from jointnas.plugins import load_function
from jointnas.predictor.contract import Predictor
from jointnas.predictor.files import DESCRIPTION, intact
from jointnas.predictor.pretrained import Pretrained, is_pretrained
from jointnas.predictor.prior import EarlierCampaign, Prior
from jointnas.predictor.task import Task
from jointnas.resources import resource_folder
from jointnas.search.objective import objective_of
from jointnas.space.space import Space
from jointnas.training.observation import ACCURACY, mean_observation

PRETRAINED = "tables"  # the network that searches start from
NONE = "none"
PREDICTOR = "predictor"  # the folder of a run's predictor

ALIKE = (
    *("space", "input_shape", "classes", "data", "fingerprint", "clock", "slot", "prior"),
    *("train_fn", "members", "ensemble", "trained", "score"),
)
"""What runs share whose trials one predictor is fitted to, where their kind has it."""

REQUIRED = ("data", "fingerprint", "clock", "slot", "classes")
"""What a predictor's context must hold before it can become a run."""


def built_in_predictors() -> list[str]:
    """Return the names of the predictors that travel with the package."""
    return sorted(path.parent.name for path in resource_folder("predictors").glob(f"*/{DESCRIPTION}"))


def find_predictor(name: str) -> tuple[Path, Path | None]:
    """Return the folder of a predictor, and of the run that it belongs to, None where it stands alone.

    name: a run's folder or name, a predictor's folder, or a built-in predictor, in this order.
    Raises `PredictorError` for a name that is none of these, and for a run without a predictor or whose search has not ended.
    """
    for run in (Path(name), Path("runs") / name):
        if (run / DATABASE).is_file():
            with Run.open(run) as opened:  # raises for a format that this version does not read
                spec = opened.spec
            if isinstance(spec, PolicySpec) or not isinstance(spec, SearchSpec | AdoptedSpec):
                raise PredictorError(
                    f"a {spec.kind} run has no predictor of networks to ask, got {str(run)!r}: name the run of a search"
                )
            if not (run / PREDICTOR / DESCRIPTION).is_file():
                raise PredictorError(
                    f"the search of the run {str(run)!r} has not ended: go on with its command and --resume"
                )
            return run / PREDICTOR, run
    for folder in (Path(name), resource_folder("predictors") / name):
        if (folder / DESCRIPTION).is_file():
            return folder, None
        if is_pretrained(folder):
            raise PredictorError(
                f"{name!r} is a network that searches start from, without trials or a space: give it as --prior"
            )
    names = [*built_in_predictors(), *(path.name for path in list_runs())]
    raise PredictorError(f"no run and no predictor is called {name!r}: {suggest(name, names)}")


def load_predictor_of(name: str) -> Predictor:
    """Return the predictor of this name, with the cost function of the run that it belongs to. Raises `PredictorError`."""
    folder, run = find_predictor(name)
    cost = None
    if run is not None:
        with Run.open(run) as opened:
            cost = getattr(opened.spec, "cost_fn", None)
    return Predictor.load(folder, load_function(cost) if cost else None)


def find_prior(name: str | None, space: Space) -> Prior | None:
    """Return what a search of this space starts from; None for an abstract space by default.

    name: "none", a pretrained network's folder or built-in name, or a predictor's as for `find_predictor`. By default the network that is
    pretrained on tables of trainings. Raises `PredictorError`.
    """
    if name == NONE or (name is None and space.is_abstract):
        return None
    built_in = resource_folder("predictors") / (name or PRETRAINED)
    for folder in (built_in,) if name is None else (Path(name), built_in):
        if is_pretrained(folder):
            return Pretrained.load(folder)
    return None if name is None else EarlierCampaign(load_predictor_of(name))


def adopt(predictor: Predictor, name: str, out: Path) -> Path:
    """Return a new run, without trials, of the stand-alone predictor of this name: its winners can be exported and trained.

    Raises `PredictorError` for a predictor without a context, `RunError` for a folder that cannot be used.
    """
    about = predictor.context
    missing = [key for key in REQUIRED if about.get(key) is None]
    if missing:
        raise PredictorError(
            f"the predictor {name!r} does not record the {missing[0]} that it was fitted on, so it cannot become a run: fit it to runs"
        )
    space = predictor.space
    with intact(Path(name)):
        slot, data = Slot.from_json(about["slot"]), DataSpec.from_json(about["data"])
        score = about.get("score", ACCURACY)
        spec = AdoptedSpec(
            data=data,
            clock=about["clock"],
            workers=slot.workers,
            device=slot.name,
            seed=data.seed,
            space=space.to_toml(),
            predictor=name,
            objective=objective_of(score),
            **{key: about[key] for key in ("members", "ensemble") if key in about},
        )
        context = Context(about["fingerprint"], space.input_shape, tuple(about["classes"]), slot, space.to_toml())
    with Run.create(out, spec, context) as run:
        predictor.save(run.path / PREDICTOR)
        return run.path


def fit_runs(names: Sequence[str], seed: int = 0) -> Predictor:
    """Return a predictor fitted to the trials of runs that share their space, data, budget, slot and prior.

    Trainings that ended at several fractions of the budget are compared at the smallest; repeats of a candidate count by their
    mean. Raises `PredictorError` and `RunError`.
    """
    trials: list[Trial] = []
    first: tuple[SearchSpec, Context] | None = None
    for name in names:
        with Run.open(find_run(name)) as run:
            spec, context = run.spec, run.context
            if not isinstance(spec, SearchSpec):
                raise PredictorError(
                    f"a predictor is fitted to searches, but {name!r} is a {spec.kind} run: leave it out"
                )
            first = first or (spec, context)
            _check_alike(names[0], *first, name, spec, context)
            if spec.cost_fn is not None:
                raise PredictorError(
                    f"a predictor that stands alone calls no function of yours, but {name!r} has --cost-fn {spec.cost_fn}: "
                    "ask that run with --from"
                )
            trials += [t for t in run.trials() if t.observation is not None and t.kind != FINAL]
            space = run.space
    if first is None:
        raise RunError("a predictor is fitted to one run or more, got none: name a run")
    observed = [t.observation for t in trials if t.observation is not None and t.accuracy is not None]
    fraction = min((o.fraction for o in observed), default=1.0)
    by_identity: dict[str, list[Trial]] = {}
    for trial in trials:
        seen = trial.observation
        if seen and (seen.accuracy is None or accuracy_at(seen, fraction) is not None):
            by_identity.setdefault(trial.identity, []).append(replace(trial, observation=at_fraction(seen, fraction)))
    candidates = [repeats[0].candidate for repeats in by_identity.values()]
    means = [mean_observation([t.outcome for t in repeats if t.outcome]) for repeats in by_identity.values()]
    spec, context = first
    own = load_predictor_of(names[0]) if context.prior else None
    prior, task = (own.prior, own.task) if own else (None, Task())
    predictor = Predictor(space, seed, prior=prior, task=task).fit(candidates, means)
    predictor.context = {**context_of(spec, context), "runs": list(names)}
    return predictor


def context_of(spec: SearchSpec, context: Context) -> dict[str, object]:
    """Return what a predictor's trials depend on: data, budget and slot."""
    return {
        "data": None if spec.data is None else spec.data.to_json(),
        "fingerprint": context.fingerprint,
        "clock": dict(spec.clock),
        "slot": context.slot.to_json(),
        "classes": list(context.classes or ()),
        **({"members": spec.members, "ensemble": spec.ensemble} if spec.members > 1 else {}),
        **({"score": spec.score} if spec.score != ACCURACY else {}),
    }


def _check_alike(
    first: str, spec: SearchSpec, context: Context, name: str, other: SearchSpec, other_context: Context
) -> None:
    """Raise `PredictorError` unless two runs share what decides an accuracy."""
    runs = ((spec, context), (other, other_context))
    mine, theirs = ({**s.to_json(), **c.to_json(), "score": s.score} for s, c in runs)
    for key in ALIKE:
        if mine.get(key) != theirs.get(key):
            raise PredictorError(
                "a predictor is fitted to runs of one space, data set, budget, slot, prior and objective, but the "
                f"{key} of {name!r} differs from that of {first!r}: leave one out"
            )
