"""The accuracy predictor: what an earlier campaign says, and a Gaussian process that learns from this one.

FBNetV3's predictor (Dai et al., CVPR 2021, §3.2) reads architecture and recipe, takes the costs of an architecture for free, and is
pretrained on what costs nothing. Here the exact costs are inputs, so are the steps that the budget is expected to hold and what is
known of how recipes act (`inputs`); what is pretrained on is an earlier campaign: another predictor, of any data, whose scores are
the trend that this one corrects. Few trainings tell little about forty knobs; another data set's tell much of it
(`benchmarks/predictor.py`). What is fitted are accuracies as shares of what is attainable, which is learned too (`accuracy_scale`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau
from threadpoolctl import ThreadpoolController

from jointnas.errors import PredictorError
from jointnas.predictor.features import Inputs
from jointnas.predictor.files import read_description, read_files, whole, write_files
from jointnas.predictor.gp import NOISE, Examples, Hyperparameters, Process, find_hyperparameters
from jointnas.predictor.steps import Pace
from jointnas.predictor.targets import SMALLEST_SPREAD, AccuracyScale, Belief
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Codes
from jointnas.space.space import CostFunction, Space
from jointnas.space.transfer import translate
from jointnas.training.observation import Observation

PRIOR = "prior"  # the folder of what a predictor started from, below its own
MEMBERS = 10
FOLDS = 5
FREE_SAMPLES = 4096
SMALLEST_FIT = 2
SMALLEST_VALIDATION = 4  # examples from which a cross-validation is made
TELLING = 300  # examples, at most, that hyperparameters are found for
HEARD = 2000  # examples, at most, that the process is conditioned on: the best half of them, the others drawn
SCORING_CHUNK = 8192
WEIGHT = (0.7, 0.3)  # mean and deviation of the weight of the prior's scores, both standardised
LEFT = 1.0  # what the prior does not say varies as much less, as a logarithm, than what it says
Array = NDArray[np.float64]


class Predictor:
    """Predicts the accuracy of candidates of one bound space.

    cost: for an abstract space, a function from a candidate to its costs. prior: a fitted predictor, of other data or of a space
    that shares knobs, whose scores are corrected. members: functions that `predict_members` draws. Raises `SpaceError` for
    an unbound space.
    """

    def __init__(
        self,
        space: Space,
        seed: int = 0,
        *,
        cost: CostFunction | None = None,
        prior: Predictor | None = None,
        members: int = MEMBERS,
    ) -> None:
        if members < 1:
            raise PredictorError(f"a predictor draws one member or more, got {members}: raise it")
        self.space = space.with_cost(cost)
        self.seed, self.members = seed, members
        if prior is not None and not prior.observations:
            raise PredictorError("a prior is a fitted predictor, got one that was told nothing: fit it first")
        if prior is not None and prior.space.is_abstract and not space.is_abstract:
            raise PredictorError(
                f"a prior of a space with networks has networks too, got {prior.space.name!r} without: choose another"
            )
        self.prior = copy.copy(prior)  # a fit rebinds what it changes: this one stays as it is
        self.candidates: list[Candidate] = []
        self.observations: list[Observation] = []
        self.context: dict[str, Any] = {}
        self.digest: str | None = None  # of what was saved or loaded last
        self.rank_correlation: float | None = (
            None  # Kendall's τ, cross-validated; None before there are enough examples
        )
        self._free: Codes = next(self.space.stream(seed, chunk=FREE_SAMPLES))
        self._belief = Belief((1.0,), AccuracyScale(), (AccuracyScale(),))
        self._process: Process | None = None
        self._take_pace(Pace(self.space, None))
        if self.prior is not None:
            self._belief = self.prior._belief
            self._condition(self._free[:0], self._known_hyperparameters or Hyperparameters.expected(self._groups))

    @property
    def accuracies(self) -> Array:
        """The (n,) accuracies of the examples, the worst of them where a training failed."""
        told = np.array([np.nan if o.accuracy is None else o.accuracy for o in self.observations], dtype=np.float64)
        return np.where(np.isnan(told), np.nanmin(told), told) if len(told) else told

    @property
    def attainable(self) -> float | None:
        """The accuracy that candidates come near to, as the trainings tell it; None where accuracies are not within [0, 1]."""
        return self._belief.scale.attainable

    # ---------------------------------------------------------------------------------------------------- inputs

    def _take_pace(self, pace: Pace) -> None:
        self._pace, self._inputs = pace, Inputs(self.space, pace, self._free)
        said = self._said(self._free, None)
        self._prior_centre, self._prior_spread = float(said.mean()), max(float(said.std()), SMALLEST_SPREAD)

    def _said(self, codes: Codes, steps: Array | None) -> Array:
        """Return the prior's (n,) scores, which it gives for these steps, or for those that this budget holds once they are known."""
        if self.prior is None:
            return np.zeros(len(codes))
        if steps is None and self._pace.law:
            steps = self._inputs.steps(codes)
        return self.prior.scores(translate(codes, self.space, self.prior.space), steps)

    def _expected(self, codes: Codes, steps: Array | None = None) -> Array:
        """Return the prior's (n,) standardised scores, 0 without one."""
        return (self._said(codes, steps) - self._prior_centre) / self._prior_spread

    @property
    def _groups(self) -> int:
        return int(self._inputs.groups.max()) + 1

    def _trend(self, expected: Array) -> Array:
        return np.stack([np.ones(len(expected)), WEIGHT[1] * expected], axis=1)

    # ----------------------------------------------------------------------------------------------------- training

    def fit(self, candidates: Sequence[Mapping[str, Any]], results: Sequence[float | Observation]) -> Predictor:
        """Fit to n candidates and their accuracies or observations; failed ones count as the worst of the others.

        Replaces what was fitted before. Sets `rank_correlation`. Raises `PredictorError` for fewer than two accuracies.
        """
        if len(candidates) != len(results):
            raise PredictorError(
                f"every candidate has one accuracy, got {len(candidates)} and {len(results)}: give as many of each"
            )
        told = [r if isinstance(r, Observation) else Observation(accuracy=float(r)) for r in results]
        known = [o.accuracy for o in told if o.accuracy is not None]
        if not np.isfinite(known).all():
            raise PredictorError("an accuracy is a finite number, got one that is not: tell it as a failure")
        if len(known) < SMALLEST_FIT:
            raise PredictorError(
                f"a predictor is fitted to {SMALLEST_FIT} accuracies or more, got {len(known)}: train more"
            )
        codes = self.space.to_codes(candidates)
        self._take_pace(Pace.fit(self.space, codes, told, self.seed))
        self.candidates, self.observations = self.space.to_candidates(codes), told
        self._belief = Belief.of(self.accuracies, earlier=self._earlier_scale)
        with _blas().limit(limits=1, user_api="blas"):
            self._condition(codes, None)
            self._learn_scale()
            self.rank_correlation = self._validated()
        return self

    def _condition(self, codes: Codes, found: Hyperparameters | None) -> None:
        """Condition the process on the examples, with hyperparameters that are found or given."""
        self._x, self._known = self._inputs(codes), self._expected(codes)
        self._take_belief(self._belief, found)

    def _take_belief(self, belief: Belief, found: Hyperparameters | None) -> None:
        """Condition the process on the accuracies as this belief's scale has them."""
        self._belief, self._y = belief, belief.scale.scores(self.accuracies)
        rows = np.arange(len(self._y))
        self._process = self._fitted(rows, found or self._hyperparameters(rows))

    def _learn_scale(self) -> None:
        """Learn what accuracy is attainable from the trainings that ended, and fit to the scale of that."""
        if self.attainable is None:
            return
        ended = np.flatnonzero([o.accuracy is not None for o in self.observations])
        rows = np.random.default_rng(self.seed).permutation(ended)[:HEARD]
        process = Process(self._examples(rows), self._inputs.groups, self._conditioned().hyperparameters)
        said = WEIGHT[0] * self._known[rows, None]
        learned = Belief.learned(
            self.accuracies, rows, lambda scores: process.misfits(scores - said), self._earlier_scale
        )
        self._take_belief(learned, None)

    @property
    def _earlier_scale(self) -> AccuracyScale | None:
        """The scale of the prior's accuracies, None without one."""
        return None if self.prior is None else self.prior._belief.scale

    @property
    def _known_hyperparameters(self) -> Hyperparameters | None:
        """What the prior's hyperparameters let expect of what it does not say, None where its inputs are of other kinds."""
        prior = self.prior
        if prior is None or prior._process is None:
            return None
        networks = not (self.space.is_abstract or prior.space.is_abstract)
        if not networks and (prior.space.knobs, prior.space.metrics) != (self.space.knobs, self.space.metrics):
            return None
        found = prior._process.hyperparameters
        return replace(found, slopes=found.slopes - LEFT, amplitude=found.amplitude - LEFT, noise=NOISE[0])

    def _hyperparameters(self, rows: NDArray[Any]) -> Hyperparameters:
        """Return the hyperparameters of the examples in these rows, or of as many of them as tell enough."""
        if len(rows) > TELLING:
            rows = np.random.default_rng(self.seed).permutation(rows)[:TELLING]
        return find_hyperparameters(self._examples(rows), self._inputs.groups, self._known_hyperparameters)

    def _examples(self, rows: NDArray[Any]) -> Examples:
        known = self._known[rows]
        return Examples(self._x[rows], self._trend(known), self._y[rows] - WEIGHT[0] * known)

    def _fitted(self, rows: NDArray[Any], hyperparameters: Hyperparameters) -> Process:
        if len(rows) > HEARD:
            best = rows[np.argsort(-self._y[rows], kind="stable")]
            drawn = np.random.default_rng(self.seed).permutation(best[HEARD // 2 :])
            rows = np.concatenate([best[: HEARD // 2], drawn[: HEARD - HEARD // 2]])
        return Process(self._examples(rows), self._inputs.groups, hyperparameters)

    def _conditioned(self) -> Process:
        if self._process is None:
            raise PredictorError("a predictor predicts once it is fitted, got none: call fit or train a first batch")
        return self._process

    def _validated(self) -> float | None:
        """Return Kendall's τ between accuracies and what processes say that never saw them; all folds tell the scale alone."""
        _, which = np.unique(self._x, axis=0, return_inverse=True)  # repeats of a candidate are in one fold
        n = int(which.max()) + 1
        if n < SMALLEST_VALIDATION:
            return None
        folds = (np.random.default_rng(self.seed).permutation(n) % min(FOLDS, n))[which.ravel()]
        said = np.empty(len(self._y))
        for fold in range(folds.max() + 1):
            seen, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            process = self._fitted(seen, self._hyperparameters(seen))
            known = self._known[held_out]
            said[held_out] = WEIGHT[0] * known + process.mean(self._x[held_out], self._trend(known))
        tau = float(kendalltau(said, self.accuracies).statistic)
        return tau if np.isfinite(tau) else 0.0

    # --------------------------------------------------------------------------------------------------- predicting

    def scores(self, codes: Codes, steps: Array | None = None) -> Array:
        """Return (n,) numbers that rank (n, knobs) codes: accuracies on the predictor's scale (`accuracy_scale`).

        steps: the (n,) logarithms of the steps that another budget holds for them, over those of the usual candidate.
        """
        process, found = self._conditioned(), [np.zeros(0)]
        for part in _chunks(np.arange(len(codes))):
            believed = None if steps is None else steps[part]
            known = self._expected(codes[part], believed)
            inputs = self._inputs(codes[part], believed if self._pace.law else None)
            with _blas().limit(limits=1, user_api="blas"):
                found.append(WEIGHT[0] * known + process.mean(inputs, self._trend(known)))
        return np.concatenate(found)

    def median_codes(self, codes: Codes) -> Array:
        """Return the (n,) medians of the accuracies of (n, knobs) codes, for less work than `predict_codes`.

        Raises `PredictorError` before a fit.
        """
        return self._belief.scale.accuracies(self.scores(codes))

    def predict_codes(self, codes: Codes) -> tuple[Array, Array]:
        """Return the (n,) means and (n,) standard deviations of what a training of each of (n, knobs) codes may give.

        A deviation holds what is not known of the candidate and what differs from one training of it to another.
        Raises `PredictorError` before a fit.
        """
        process, found = self._conditioned(), [(np.zeros(0), np.zeros(0))]
        for part in _chunks(codes):
            known = self._expected(part)
            with _blas().limit(limits=1, user_api="blas"):
                mean, deviation = process.predict(self._inputs(part), self._trend(known))
            found.append((WEIGHT[0] * known + mean, np.sqrt(deviation**2 + process.noise)))
        return self._belief.expected(*(np.concatenate(column) for column in zip(*found, strict=True)))

    def draw_codes(self, codes: Codes, count: int, seed: Sequence[int]) -> Array:
        """Return (count, n) accuracies that functions drawn from the posterior give (n, knobs) codes; a seed draws the same."""
        return self._belief.drawn(self.draw_scores(codes, count, seed))

    def draw_scores(self, codes: Codes, count: int, seed: Sequence[int]) -> Array:
        """Return what `draw_codes` does, on the scale of `scores`."""
        process, found = self._conditioned(), [np.zeros((count, 0))]
        for part in _chunks(codes):
            known = self._expected(part)
            with _blas().limit(limits=1, user_api="blas"):
                drawn = process.draw(self._inputs(part), self._trend(known), count, seed)
            found.append(WEIGHT[0] * known + drawn)
        return np.concatenate(found, axis=1)

    def predict_members(self, candidates: Sequence[Mapping[str, Any]]) -> Array:
        """Return (m, n) accuracies, one row for each of `members` functions drawn from the posterior."""
        return self.draw_codes(self.space.to_codes(candidates), self.members, [self.seed])

    def predict(self, candidates: Sequence[Mapping[str, Any]]) -> tuple[Array, Array]:
        """Return the mean (n,) and the standard deviation (n,) of the accuracy that a training of each may give."""
        return self.predict_codes(self.space.to_codes(candidates))

    # -------------------------------------------------------------------------------------------------- on the disk

    def save(self, folder: Path | str) -> None:
        """Write `predictor.json` (space, examples) and `predictor.safetensors` into a folder, and the prior below it."""
        if self._process is None or not self.observations:
            raise PredictorError("a predictor is saved once it is fitted, got none: call fit first")
        folder = Path(folder)
        if self.prior:
            self.prior.save(folder / PRIOR)
        law = self._pace.law
        tensors = {
            "hyperparameters": self._process.hyperparameters.to_vector(),
            "accuracies": self.accuracies,
            "levels": np.array(self._belief.levels),
            **({} if law is None else {"pace": np.array([*law.weights, law.intercept, law.error])}),
        }
        about: dict[str, Any] = {
            "space": self.space.to_toml(),
            "input_shape": self.space.input_shape,
            "classes": self.space.classes,
            "seed": self.seed,
            "members": self.members,
            "metrics": self.space.metrics,
            "rank_correlation": self.rank_correlation,
            "prior": self.prior and self.prior.digest,
            "context": self.context,
            "trials": [
                {"candidate": c, "accuracy": o.accuracy, "steps": o.steps, "fraction": o.fraction}
                for c, o in zip(self.candidates, self.observations, strict=True)
            ],
        }
        self.digest = write_files(folder, about, tensors)

    @classmethod
    def load(cls, folder: Path | str, cost: CostFunction | None = None) -> Predictor:
        """Return the predictor that `save` wrote. Nothing in the files is executed. Raises `PredictorError`."""
        folder = Path(folder)
        about, tensors = read_files(folder)
        prior = cls._load_prior(folder / PRIOR, cost) if about.get("prior") else None
        with whole(folder):
            if prior is not None and prior.digest != about["prior"]:
                raise ValueError("another prior than it was fitted with")
            space = Space.from_toml(about["space"], about["input_shape"], about["classes"])
            predictor = cls(space, int(about["seed"]), cost=cost, prior=prior, members=int(about["members"]))
            predictor._restore(about, tensors)
            predictor.digest = about["digest"]
        return predictor

    @classmethod
    def _load_prior(cls, folder: Path, cost: CostFunction | None) -> Predictor:
        """Return the prior below a predictor, which takes the cost function where it was fitted with one."""
        about = read_description(folder)
        with whole(folder):
            takes_cost = Space.from_toml(about["space"]).is_abstract and bool(about.get("metrics"))
        return cls.load(folder, cost if takes_cost else None)

    def _restore(self, about: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
        if tuple(about["metrics"]) != self.space.metrics:
            raise PredictorError(
                f"a predictor reads the costs it was fitted with, {about['metrics']}, got {list(self.space.metrics)}: "
                "give the same cost function"
            )
        codes = self.space.to_codes([t["candidate"] for t in about["trials"]])
        told = [Observation(t["accuracy"], fraction=float(t["fraction"]), steps=t["steps"]) for t in about["trials"]]
        self.candidates, self.observations = self.space.to_candidates(codes), told
        if self.accuracies.tolist() != tensors["accuracies"].tolist():
            raise ValueError("trials that it was not fitted to")
        self._belief = Belief.of(self.accuracies, tensors["levels"].tolist(), self._earlier_scale)
        if "pace" in tensors:
            self._take_pace(Pace.restored(self.space, tensors["pace"]))
        self.rank_correlation, self.context = about["rank_correlation"], about["context"]
        hyperparameters = Hyperparameters.from_vector(tensors["hyperparameters"])
        if len(hyperparameters.lengths) != self._groups:
            raise ValueError(f"{len(hyperparameters.lengths)} length scales")
        with _blas().limit(limits=1, user_api="blas"):
            self._condition(codes, hyperparameters)


@cache
def _blas() -> ThreadpoolController:
    """Return what limits NumPy's BLAS: its threads, waiting for more, hold up small steps."""
    return ThreadpoolController()


def _chunks(rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for start in range(0, len(rows), SCORING_CHUNK):
        yield rows[start : start + SCORING_CHUNK]
