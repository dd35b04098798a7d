"""Predictors to ask: those that travel with the package, those of ended runs, and one fitted to the trials of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jointnas.campaign.early_stop import accuracy_at, at_fraction
from jointnas.campaign.store import DATABASE, Run, Trial, find_run, list_runs
from jointnas.errors import PredictorError, suggest
from jointnas.predictor.contract import Predictor
from jointnas.predictor.files import DESCRIPTION
from jointnas.resources import resource_folder
from jointnas.space.knobs import Value
from jointnas.space.space import Space
from jointnas.training.observation import mean_observation

DEFAULT_PRIOR = "resnet9-digits"
NONE = "none"

SHARED = ("space", "input_shape", "classes", "data", "fingerprint", "clock", "slot", "prior")
"""What runs have in common whose trials say the same."""

CONTEXT = ("data", "fingerprint", "clock", "slot", "classes")
"""What a predictor is told of the run that it was fitted to."""


def built_in_predictors() -> list[str]:
    """Return the names of the predictors that travel with the package."""
    return sorted(path.parent.name for path in resource_folder("predictors").glob(f"*/{DESCRIPTION}"))


def find_predictor(name: str) -> tuple[Path, Path | None]:
    """Return the folder of a predictor, and of the run that it belongs to, None where it stands alone.

    name: a folder, a run's or a predictor's; a run in `runs/`; or a predictor that travels with the package, in this order.
    Raises `PredictorError` for a name that is none of these, and for a run whose search has not ended.
    """
    run = find_run(name)
    if (run / DATABASE).is_file():
        Run.open(run).close()  # of a format that this version reads
        if not (run / "predictor" / DESCRIPTION).is_file():
            raise PredictorError(
                f"a run is asked once its search has ended, got {str(run)!r}: say search --resume with its command first"
            )
        return run / "predictor", run
    for folder in (Path(name), resource_folder("predictors") / name):
        if (folder / DESCRIPTION).is_file():
            return folder, None
    known = [*built_in_predictors(), *(path.name for path in list_runs())]
    raise PredictorError(f"no run and no predictor is called {name!r}: {suggest(name, known)}")


def find_prior(name: str | None, space: Space) -> Predictor | None:
    """Return the predictor that a search of this space starts from; by default the built-in one, where the space has its network.

    name: as for `find_predictor`, or "none". Raises `PredictorError`.
    """
    if name == NONE:
        return None
    if name is not None:
        return Predictor.load(find_predictor(name)[0])
    if space.is_abstract or DEFAULT_PRIOR not in built_in_predictors():
        return None
    prior = Predictor.load(resource_folder("predictors") / DEFAULT_PRIOR)
    return prior if network_families(space) & network_families(prior.space) else None


def network_families(space: Space) -> set[Value]:
    """Return the networks that a space holds, none where it is abstract."""
    return {value for knob in space.knobs[: space.n_architecture] if knob.name == "network" for value in knob.extremes}


def adopt(name: str, out: Path) -> Path:
    """Return a new run, without trials, whose predictor is a stand-alone one: its winners can be exported and trained.

    Raises `PredictorError` for one that does not say what it was fitted to, `RunError` for a folder that cannot be used.
    """
    predictor = Predictor.load(find_predictor(name)[0])
    missing = [key for key in CONTEXT if key not in predictor.context]
    if missing:
        raise PredictorError(
            f"a predictor that is made a run says what it was fitted to, got no {missing[0]} in {name!r}: fit it to runs"
        )
    about = {key: predictor.context[key] for key in CONTEXT}
    shape = list(predictor.space.input_shape or ())
    specification = {**about, "space": predictor.space.to_toml(), "input_shape": shape, "constraints": [], "from": name}
    with Run.create(out, specification) as made:
        predictor.save(made.path / "predictor")
        return made.path


def fit_runs(names: Sequence[str], seed: int = 0) -> Predictor:
    """Return a predictor fitted to the trials of runs, which share their space, data, budget, slot and what they started from.

    Trainings that ended at several fractions of the budget are compared at the smallest; of a candidate that was trained more
    than once the mean counts. Raises `PredictorError` and `RunError`.
    """
    first = ""
    shared: dict[str, object] = {}
    trials: list[Trial] = []
    for name in names:
        with Run.open(find_run(name)) as run:
            specification = run.specification
            if "space" not in specification:
                raise PredictorError(
                    f"a predictor is fitted to the trials of searches, got a run of another command in {name!r}: leave it out"
                )
            trials += [t for t in run.trials() if t.observation is not None]
        mine = {key: specification.get(key) for key in SHARED}
        first, shared = first or name, shared or mine
        for key in SHARED:
            if mine[key] != shared[key]:
                raise PredictorError(
                    f"a predictor is fitted to runs of one space, data set, budget, slot and prior, got another {key} in {name!r} than in "
                    f"{first!r}: leave one out"
                )
    space = Space.from_toml(specification["space"], specification["input_shape"], len(specification["classes"]))
    fractions = [t.observation.fraction for t in trials if t.observation and t.observation.accuracy is not None]
    fraction = min(fractions, default=1.0)
    read = [  # what was not read there is no failure, and says nothing
        t
        for t in trials
        if t.observation and (t.observation.accuracy is None or accuracy_at(t.observation, fraction) is not None)
    ]
    trials = [replace(t, observation=at_fraction(t.observation, fraction)) for t in read if t.observation]
    by_identity: dict[str, list[Trial]] = {}
    for trial in trials:
        by_identity.setdefault(space.identity(trial.candidate), []).append(trial)
    candidates = [repeats[0].candidate for repeats in by_identity.values()]
    means = [mean_observation([t.observation for t in r if t.observation]) for r in by_identity.values()]
    prior = Predictor.load(find_predictor(first)[0]).prior if shared["prior"] else None
    predictor = Predictor(space, seed, prior=prior).fit(candidates, means)
    predictor.context = {**{key: specification[key] for key in CONTEXT}, "runs": list(names)}
    return predictor
