"""What `search.py` lets optimisers search: trainings answered by a surrogate of the table or by its own rows, and counted."""

from __future__ import annotations

import tomllib
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tomli_w
from numpy.typing import NDArray
from scipy.stats import kendalltau
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from benchmarks.search.rankers import Examples
from benchmarks.tables.table import UNBOUNDED, Table
from jointnas.campaign.early_stop import accuracy_at
from jointnas.campaign.portfolio import starting_candidates
from jointnas.predictor.features import Featurizer
from jointnas.predictor.steps import StepsModel
from jointnas.predictor.task import TrainingImages
from jointnas.space.constraint import Constraint, parse_all
from jointnas.space.knob_space import Candidate
from jointnas.space.sampling import feasible
from jointnas.space.space import Space
from jointnas.training.observation import Observation

FOLDS = 5
FREE = 4096
FRACTIONS = (0.1, 0.25, 0.5, 0.75)  # of a training at which its accuracy is read
ROUNDING = 1e-9
Array = NDArray[np.float64]


class Spent(Exception):
    """All trainings are used up."""


class Objective(Protocol):
    """What answers trainings.

    candidates: all that it can answer, None for every one of the space. constraints: that its candidates meet. deviation: of the noise of a
    training. images: the number and mirror symmetry of its training images.
    """

    space: Space
    constraints: list[Constraint]
    candidates: list[Candidate] | None
    deviation: float
    images: TrainingImages

    @property
    def card(self) -> dict[str, Any]:
        """The description of this objective in a results file."""

    def __call__(self, candidate: Candidate) -> tuple[float, int | None]:
        """Return a candidate's accuracy without noise, and the steps of its training where they are known."""


class Surrogate:
    """An accuracy for every candidate, fitted to the table's rows."""

    candidates: list[Candidate] | None = None

    def __init__(self, table: Table, candidates: int) -> None:
        fitted_to, others = table.split(candidates)
        missing = candidates - sum(1 for _ in fitted_to.trained())
        if missing > 0:
            raise SystemExit(
                f"a surrogate is fitted to {candidates} trained candidates, got {missing} fewer: lower --candidates"
            )
        examples = Examples(fitted_to)
        self.images = table.images
        self.space: Space = examples.space
        self.constraints = table.constraints
        self.deviation = examples.noise
        codes, y = examples.codes, examples.accuracies
        self._steps_model = StepsModel.fit(self.space, codes, examples.observations, 0)
        self._features = Featurizer(self.space, self._steps_model, next(self.space.stream(0, chunk=FREE)))
        x = self._features(codes)
        self._models = models(x, y)
        self._examples, self._x = examples, x
        said = np.empty(len(y))
        folds = np.random.default_rng(0).permutation(len(y)) % FOLDS
        for fold in range(FOLDS):
            seen = folds != fold
            said[~seen] = answer(models(x[seen], y[seen]), x[~seen])
        self.card = {"rows": len(y), "noise": round(self.deviation, 4), "cross-validated": agreement(said, y)}
        unseen = Examples(others)
        self.unseen = None  # how well it tells what it was not fitted to
        if len(unseen.accuracies):
            self.unseen = agreement(answer(self._models, self._features(unseen.codes)), unseen.accuracies)

    def __call__(self, candidate: Candidate) -> tuple[float, int]:
        """Return a candidate's accuracy, and the steps that its training takes."""
        codes = self.space.to_codes([candidate])
        return float(answer(self._models, self._features(codes))[0]), round(float(self._steps_model.steps(codes)[0]))

    @cached_property
    def _early(self) -> list[list[Any]]:
        """For each of `FRACTIONS`, the models that predict the accuracy at that point of a training."""
        readings = [[accuracy_at(o, fraction) for o in self._examples.observations] for fraction in FRACTIONS]
        return [models(self._x, np.array(own, dtype=np.float64)) for own in readings]

    def reading(self, candidate: Candidate, fraction: float) -> float:
        """Return a candidate's accuracy at a fraction of its training, interpolated between those where rows were read."""
        x = self._features(self.space.to_codes([candidate]))
        return float(np.interp(fraction, [*FRACTIONS, 1], [answer(m, x)[0] for m in (*self._early, self._models)]))


class Rows:
    """The table's own accuracies."""

    def __init__(self, table: Table) -> None:
        self.examples = Examples(table)
        self.images = table.images
        self.space, self.deviation = self.examples.space, 0.0
        self.constraints = table.constraints
        self.candidates: list[Candidate] | None = self.examples.candidates
        identities = self.space.identities(self.examples.codes)
        self._found = dict(zip(identities, self.examples.observations, strict=True))
        self.card = {"rows": len(self._found)}

    def __call__(self, candidate: Candidate) -> tuple[float, int]:
        """Return a row's accuracy, and the steps that its training took."""
        observation = self._found[self.space.identity(candidate)]
        return observation.accuracy or 0.0, observation.steps or 1


def agreement(said: Array, y: Array) -> dict[str, float]:
    """Return how well (n,) numbers predict (n,) accuracies."""
    explained = 1 - ((said - y) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    return {"rows": len(y), "tau": round(float(kendalltau(said, y).statistic), 3), "r2": round(float(explained), 3)}


def models(x: Array, y: Array) -> list[Any]:
    """Return what is fitted to (n, d) inputs and (n,) accuracies."""
    trees = GradientBoostingRegressor(n_estimators=300, learning_rate=0.05, subsample=0.8, random_state=0)
    machine = make_pipeline(StandardScaler(), SVR(C=0.3, epsilon=0.01, gamma=0.002))
    return [model.fit(x, y) for model in (trees, machine)]


def answer(fitted: list[Any], x: Array) -> Array:
    """Return the mean of what was fitted."""
    return np.asarray(np.mean([model.predict(x) for model in fitted], axis=0))


def within(space: Space, constraints: list[Constraint]) -> Space:
    """Return the space without its widest networks, so that all that are left meet the constraints."""
    (widths,) = (knob for knob in space.knobs if knob.name == "width")
    definition = tomllib.loads(space.to_toml())
    for width in reversed(widths.extremes):
        definition["architecture"]["width"]["high"] = width
        narrow = Space.from_toml(tomli_w.dumps(definition), space.input_shape, space.classes)
        if feasible(narrow, constraints, next(narrow.stream(0, chunk=FREE))).all():
            return narrow
    raise SystemExit(f"networks of some width all meet {constraints[0]}, got none")


class Task:
    """One search: the space, the bound, and trainings that are counted."""

    def __init__(self, objective: Objective, bound: str, trainings: int, batch: int, seed: int) -> None:
        self.objective = objective
        narrowed = bound == UNBOUNDED and objective.constraints
        self.space = within(objective.space, objective.constraints) if narrowed else objective.space
        self.images = objective.images
        self.trainings, self.batch = trainings, batch
        self.constraints = parse_all([] if bound == UNBOUNDED else [bound], self.space.metrics)
        self._rng = np.random.default_rng([seed, 1])
        self.pretrained: Path | None = None  # a network that some optimisers start from
        self.start: list[Candidate] = []  # that an optimiser trains first
        self.spent = 0.0  # of the trainings' budgets
        self.candidates: list[Candidate] = []
        self.ended: list[float] = []  # what was spent when each training ended
        self.true: list[float] = []
        self.seen: list[float] = []
        self.held: list[bool] = []

    def share(self, candidate: Candidate) -> float:
        """Return what is bounded, over the bound; 0 where nothing is."""
        if not self.constraints:
            return 0.0
        (bound,) = self.constraints
        return float(self.space.cost(candidate)[bound.metric] / bound.bound)

    def train(self, candidate: Candidate) -> float:
        """Return the noisy accuracy of one more training. Raises `Spent`."""
        return self.observe(candidate).accuracy or 0.0

    def observe(self, candidate: Candidate) -> Observation:
        """Return what one more training tells. Raises `Spent`."""
        self._spend(1.0)
        accuracy, steps = self.objective(candidate)
        self.candidates.append(candidate)
        self.ended.append(self.spent)
        self.true.append(accuracy)
        self.seen.append(self._noisy(accuracy))
        self.held.append(self.share(candidate) < 1)
        return Observation(self.seen[-1], steps=steps)

    def train_until(self, candidate: Candidate, start: float, end: float) -> float:
        """Return the noisy accuracy of a training that goes on from one fraction of its budget to another. Raises `Spent`."""
        assert isinstance(self.objective, Surrogate)
        if end == 1:
            self.spent -= start
            return self.train(candidate)
        self._spend(end - start)
        return self._noisy(self.objective.reading(candidate, end))

    def use_recipes(self, n: int) -> None:
        """Let the optimiser start from built-in recipes, made for the bound as a search makes them."""
        found = starting_candidates(
            self.space, self.constraints, n, lambda candidate: float(self.objective(candidate)[1] or np.nan)
        )
        self.start = list(found.values())

    def _spend(self, budgets: float) -> None:
        if self.spent + budgets > self.trainings + ROUNDING:
            raise Spent
        self.spent += budgets

    def _noisy(self, accuracy: float) -> float:
        return float(accuracy + self.objective.deviation * self._rng.standard_normal())

    @property
    def pool(self) -> list[Candidate] | None:
        """The rows within the bound, None where there is the whole space."""
        candidates = self.objective.candidates
        return None if candidates is None else [c for c in candidates if self.share(c) < 1]

    def leaders(self) -> list[int | None]:
        """Return after each budget which whole training looked best so far among those within the bound; None before there is one."""
        found: list[int | None] = []
        for budget in range(1, self.trainings + 1):
            ended = [i for i, at in enumerate(self.ended) if at <= budget + ROUNDING and self.held[i]]
            found.append(max(ended, key=lambda i: self.seen[i], default=None))
        return found
