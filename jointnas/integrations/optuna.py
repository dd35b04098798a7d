"""Optuna, both ways: this project's search as a sampler, and a run as a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import optuna
import tomli_w
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from jointnas.campaign.candidate_file import candidate_costs
from jointnas.campaign.store import Run
from jointnas.campaign.trial import FINAL, Trial
from jointnas.errors import SearchError
from jointnas.search.search import Search
from jointnas.space.continuous import Continuous
from jointnas.space.knobs import Fixed, Knob
from jointnas.space.space import Space

MOST_VALUES = 10_000  # of an integer that is a grid; others are real numbers that are rounded
WAITING = (TrialState.RUNNING, TrialState.WAITING)


class JointNASSampler(BaseSampler):
    """Samples as `jointnas.Search` does in a space of your own: `optuna.create_study(sampler=JointNASSampler(seed=0))`.

    A Gaussian process is fitted to the trials so far, and candidates are chosen by Thompson sampling with those that run in mind. Failed and
    pruned trials count as failures. Parameters that only some trials have are sampled at random. Raises `SearchError` for a study of several
    objectives.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed, self._independent = seed, RandomSampler(seed=seed)
        self._intersection = IntersectionSearchSpace()

    def reseed_rng(self) -> None:
        """Give the random sampler of other parameters a new seed, as parallel workers of one study need it."""
        self._independent.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that all completed trials have, but for those of a single value."""
        if len(study.directions) > 1:
            raise SearchError(
                f"JointNASSampler maximises or minimises one objective, got a study of {len(study.directions)}: use another sampler"
            )
        found = self._intersection.calculate(study)
        return {name: own for name, own in found.items() if not own.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of the next trial."""
        if not search_space:
            return {}
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        search = Search(Space.from_toml(tomli_w.dumps(_definition(search_space))), seed=self._seed)
        trials = study.get_trials(deepcopy=False)
        ended = [t for t in trials if t.state.is_finished() and search_space.keys() <= t.params.keys()]
        values = [t.value if t.state == TrialState.COMPLETE else None for t in ended]
        results = [None if value is None or not isfinite(value) else sign * value for value in values]
        search.tell([_candidate(t.params, search_space) for t in ended], results)
        running = [t for t in trials if t.state in WAITING and search_space.keys() <= t.params.keys()]
        search.mark_asked([_candidate(t.params, search_space) for t in running])
        if search.exhausted:  # all of a finite space was asked
            return {}
        return _params(search.ask(1)[0], search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a random value of a parameter that not all trials have."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)


def _definition(distributions: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Return the TOML table of an abstract space with a knob for each parameter."""
    knobs: dict[str, Any] = {}
    for i, (name, own) in enumerate(distributions.items()):
        match own:
            case FloatDistribution() | IntDistribution() if _has_many_steps(own):  # as a real number, which is rounded
                knobs[f"p{i}"] = {"low": float(own.low), "high": float(own.high), "log": own.log}
                continue
            case FloatDistribution():
                knob: dict[str, Any] = {"low": float(own.low), "high": float(own.high)}
            case IntDistribution() if not _has_many_steps(own):
                knob = {"low": own.low, "high": own.high}
            case CategoricalDistribution():
                knobs[f"p{i}"] = {"choices": [str(place) for place in range(len(own.choices))]}
                continue
            case _:
                raise SearchError(
                    f"JointNASSampler samples floats, integers and categories, got {own!r} for {name!r}: change it"
                )
        if own.log:
            knob["log"] = True
        elif own.step is not None and not (isinstance(own, IntDistribution) and own.step == 1):
            knob["step"] = own.step
        knobs[f"p{i}"] = knob
    return {"format": 1, "recipe": knobs}


def _has_many_steps(own: FloatDistribution | IntDistribution) -> bool:
    """Return whether a parameter has more steps than a knob may have values."""
    return own.step is not None and (own.high - own.low) // own.step >= MOST_VALUES


def _candidate(params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Return the candidate of a trial's parameters: a category is its place among the choices."""
    recipe: dict[str, Any] = {}
    for i, (name, own) in enumerate(distributions.items()):
        value = params[name]
        if isinstance(own, FloatDistribution | IntDistribution):
            recipe[f"p{i}"] = _on_grid(float(min(max(value, own.low), own.high)), own)
        else:
            recipe[f"p{i}"] = str(int(own.to_internal_repr(value)))
    return {"architecture": {}, "recipe": recipe}


def _on_grid(value: float, own: FloatDistribution | IntDistribution) -> float | int:
    """Return a number inside its bounds as the space holds it: a step's multiple without rounding errors."""
    if own.step is None or _has_many_steps(own):
        return value
    if isinstance(own, IntDistribution):
        return round(value)
    steps = round((value - own.low) / own.step)
    number = own.low + steps * own.step
    return 0.0 if abs(number) < 1e-9 * own.step else float(f"{number:.12g}")


def _params(candidate: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Return the parameters of a candidate."""
    params: dict[str, Any] = {}
    for i, (name, own) in enumerate(distributions.items()):
        value = candidate["recipe"][f"p{i}"]
        if isinstance(own, CategoricalDistribution):
            params[name] = own.choices[int(value)]
        elif isinstance(own, IntDistribution):
            params[name] = own.low + round((value - own.low) / own.step) * own.step
        elif _has_many_steps(own):
            params[name] = min(own.high, float(f"{own.low + round((value - own.low) / own.step) * own.step:.12g}"))
        else:
            params[name] = value
    return params


def to_study(run: str | Path, storage: Any = None, name: str | None = None) -> Study:
    """Return a run as a study of Optuna, with its trials, learning curves and costs; with a storage URL it opens in optuna-dashboard.

    Raises `RunError` for a run without a space.
    """
    with Run.open(Path(run)) as opened:
        space, trials, context = opened.space, opened.trials(), opened.context
        members = getattr(opened.spec, "members", 1)
    study = optuna.create_study(storage=storage, study_name=name or str(run), direction="maximize")
    distributions = {knob.name: own for knob in space.knobs if (own := _distribution(knob)) is not None}
    shape, classes = context.input_shape, len(context.classes or ())
    for trial in trials:
        if trial.kind == FINAL or trial.observation is None:
            continue
        costs = candidate_costs(trial.candidate, shape, classes, members) if shape and not space.is_abstract else {}
        study.add_trial(_frozen(trial, distributions, costs))
    return study


def _frozen(trial: Trial, distributions: Mapping[str, BaseDistribution], costs: Mapping[str, float]) -> FrozenTrial:
    assert trial.observation is not None
    knobs = {**trial.candidate["architecture"], **trial.candidate["recipe"]}
    params = {name: _stored(value) for name, value in knobs.items() if name in distributions}
    points: Sequence[Any] = trial.observation.curve
    failed = trial.accuracy is None
    return create_trial(
        state=TrialState.FAIL if failed else TrialState.COMPLETE,
        value=None if failed else trial.accuracy,
        params=params,
        distributions={name: distributions[name] for name in params},
        user_attrs={
            **costs,
            "number": trial.number,
            "kind": trial.kind,
            **({} if trial.predicted is None else {"predicted": trial.predicted}),
            **({"failure": trial.observation.failure} if failed else {}),
        },
        intermediate_values={round(100 * point.fraction): point.accuracy for point in points},
    )


def _distribution(knob: Knob) -> BaseDistribution | None:
    """Return a knob's distribution, None for a fixed one."""
    if isinstance(knob, Fixed):
        return None
    if type(knob) is Continuous:
        return FloatDistribution(knob.low, knob.high, log=knob.log)
    if isinstance(knob, Continuous):  # with a value outside of its range
        return FloatDistribution(min(map(float, knob.extremes)), max(map(float, knob.extremes)))
    return CategoricalDistribution([_stored(value) for value in knob.extremes])


def _stored(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else str(value)
