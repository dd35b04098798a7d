"""What a report shows of a run, read once from its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jointnas.campaign.calibration import Prediction, predictions_of
from jointnas.campaign.candidate_file import built_in_recipes, candidate_costs, find_candidate
from jointnas.campaign.registry import PREDICTOR, load_predictor_of
from jointnas.campaign.shares import bounds_of_member
from jointnas.campaign.spec import SearchSpec, Spec
from jointnas.campaign.store import Context, Run
from jointnas.campaign.trial import FINAL, Trial
from jointnas.errors import JointNASError
from jointnas.predictor.contract import Predictor
from jointnas.search.objective import SCORE_NAMES
from jointnas.search.winners import Winner
from jointnas.space.constraint import MEASURED, parse_all
from jointnas.space.knobs import Codes
from jointnas.space.sampling import feasible
from jointnas.space.space import Space
from jointnas.space.transfer import nearest_candidate
from jointnas.training.observation import ACCURACY

CHUNK, CHUNKS, ENOUGH = (
    4096,
    16,
    1024,
)  # candidates drawn at a time, how often at most, and how many that meet the bounds are enough
BINS = 8  # of a number's range


@dataclass(frozen=True)
class Effect:
    """How the mean predicted accuracy depends on one knob: its values or the middles of its bins, the means, the share of variance.

    importance: the first-order Sobol index, Var E[accuracy | knob] / Var accuracy, over candidates that meet the bounds.
    """

    knob: str
    values: tuple[Any, ...]
    means: tuple[float, ...]
    importance: float


@dataclass(frozen=True)
class Predictions:
    """Sampled candidates that meet the bounds: their (n,) costs by metric, (n,) predicted accuracies, and the effects of their knobs."""

    costs: Mapping[str, NDArray[np.float64]]
    accuracies: NDArray[np.float64]
    effects: tuple[Effect, ...]


@dataclass(frozen=True)
class Contents:
    """A run as it stands now."""

    path: Path
    spec: Spec
    context: Context
    created_at: float
    trials: Sequence[Trial]
    ended_at: Mapping[int, float]
    rounds: Sequence[Mapping[str, Any]]
    queries: Sequence[Mapping[str, Any]]
    winners: Sequence[Winner]
    retrained: Sequence[Mapping[str, Any]]
    space: Space | None

    @classmethod
    def read(cls, path: Path) -> Contents:
        """Return the contents of a run's folder. Raises `RunError`."""
        with Run.open(path) as run:
            queries = run.queries()
            return cls(
                path,
                run.spec,
                run.context,
                run.created_at,
                run.trials(),
                run.ended_at(),
                run.rounds(),
                queries,
                run.winners() if queries else [],
                run.retrained(),
                run.space if run.context.space is not None else None,
            )

    @property
    def observed(self) -> list[Trial]:
        """The trials with an accuracy, in the order in which they were asked for."""
        return [t for t in self.trials if t.accuracy is not None]

    @property
    def failed(self) -> list[Trial]:
        """The trials that failed."""
        return [t for t in self.trials if t.observation and t.observation.failure and t.kind != FINAL]

    @cached_property
    def recipes(self) -> list[Trial]:
        """The observed trials of the first batch that have a built-in recipe, as the space holds it."""
        if not isinstance(self.spec, SearchSpec) or self.space is None or self.space.is_abstract:
            return []
        recipes = [find_candidate(name).candidate["recipe"] for name in built_in_recipes()]
        return [t for t in self.observed if t.round == 1 and any(self._has(t, recipe) for recipe in recipes)]

    def _has(self, trial: Trial, recipe: Mapping[str, Any]) -> bool:
        """Whether a trial has a recipe as the space holds it, with or without the mirror images that a bound may forbid."""
        assert self.space is not None
        own = trial.candidate["architecture"]
        for flip in (False, True):
            candidate = {"architecture": own, "recipe": {**recipe, "test_flip": flip}}
            with suppress(JointNASError):  # a recipe with a knob that the space does not have
                if nearest_candidate(self.space, candidate)[0]["recipe"] == trial.candidate["recipe"]:
                    return True
        return False

    @cached_property
    def predictions(self) -> dict[str, list[Prediction]]:
        """Predicted and observed accuracies, by whose they are."""
        return predictions_of(self.spec, self.context, self.trials, self.retrained)

    def costs(self, trial: Trial) -> Mapping[str, float]:
        """Return the exact costs of a trial's candidate; empty where it has no network."""
        if trial.number not in self._costs:
            self._costs[trial.number] = self._costs_of(trial)
        return self._costs[trial.number]

    @cached_property
    def _costs(self) -> dict[int, Mapping[str, float]]:
        return {}

    def _costs_of(self, trial: Trial) -> Mapping[str, float]:
        if self.context.input_shape is None or "network" not in trial.candidate.get("architecture", {}):
            return {}
        members = getattr(self.spec, "members", 1)
        return candidate_costs(trial.candidate, self.context.input_shape, len(self.context.classes or ()), members)

    @property
    def score_name(self) -> str:
        """What people read for the score that the run maximises."""
        return SCORE_NAMES[self.spec.score]

    @cached_property
    def predictor(self) -> Predictor | None:
        """The run's predictor, None before it exists or where it cannot be read."""
        try:
            return load_predictor_of(str(self.path)) if (self.path / PREDICTOR).is_dir() else None
        except JointNASError:
            return None

    @cached_property
    def sampled(self) -> Predictions | None:
        """What the predictor says of candidates that meet the exact bounds; None without a predictor."""
        predictor, space = self.predictor, self.space
        if predictor is None or space is None:
            return None
        texts = bounds_of_member(getattr(self.spec, "constraints", ()), getattr(self.spec, "members", 1))
        bounds = parse_all(texts, (*space.metrics, *MEASURED, ACCURACY))
        exact = tuple(bound for bound in bounds if bound.metric in space.metrics)
        parts: list[Codes] = []
        for _, codes in zip(range(CHUNKS), space.stream(0, chunk=CHUNK), strict=False):
            parts.append(codes[feasible(space, exact, codes)])
            if sum(map(len, parts)) >= ENOUGH:
                break
        codes = np.concatenate(parts)[:CHUNK]
        if len(codes) < BINS:
            return None
        accuracies = predictor.predict_codes(codes)[0]
        members = getattr(self.spec, "members", 1)
        costs = {name: members * np.asarray(values, dtype=np.float64) for name, values in space.costs(codes).items()}
        return Predictions(costs, accuracies, _effects(space, space.to_candidates(codes), accuracies))


def _effects(
    space: Space, candidates: Sequence[Mapping[str, Any]], accuracies: NDArray[np.float64]
) -> tuple[Effect, ...]:
    """Return the effect of each knob that varies, the most important first."""
    variance = max(float(accuracies.var()), 1e-12)
    effects = []
    for knob in space.knobs:
        values = [{**c["architecture"], **c["recipe"]}.get(knob.name) for c in candidates]
        rows = [i for i, value in enumerate(values) if value is not None]
        present = [values[i] for i in rows]
        distinct = sorted(set(map(_key, present)), key=lambda value: (isinstance(value, str), value))
        if len(distinct) < 2:
            continue
        if len(distinct) <= BINS or any(isinstance(value, str) for value in distinct):
            labels = [_key(value) for value in present]
            shown: list[Any] = distinct
        else:
            numbers = np.array(present, dtype=np.float64)
            edges = np.quantile(numbers, np.linspace(0, 1, BINS + 1)[1:-1])
            labels = np.searchsorted(edges, numbers).tolist()
            middles = {label: float(np.median(numbers[np.array(labels) == label])) for label in set(labels)}
            shown = sorted(middles)
        groups = {
            label: accuracies[[row for row, own in zip(rows, labels, strict=True) if own == label]] for label in shown
        }
        mean = float(accuracies[rows].mean())
        between = sum(len(own) * (float(own.mean()) - mean) ** 2 for own in groups.values()) / len(accuracies)
        names = shown if shown is distinct else [middles[label] for label in shown]
        effects.append(
            Effect(knob.name, tuple(names), tuple(float(groups[label].mean()) for label in shown), between / variance)
        )
    return tuple(sorted(effects, key=lambda effect: -effect.importance))


def _key(value: Any) -> Any:
    """Return a knob's value in a form that sorts beside the others."""
    return str(value).lower() if isinstance(value, bool | str | list) else value
