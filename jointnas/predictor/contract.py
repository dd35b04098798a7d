"""The contract of accuracy predictors: `Predictor`, which the search and users know, and `PredictorModel`, which an implementation provides.

A model is chosen by name: `gp` and `mlp` are built in, an installed package adds its own under the entry-point group `jointnas.predictors`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jointnas.errors import PredictorError
from jointnas.plugins import load_plugin, plugin_names
from jointnas.predictor.accuracies import filled_accuracies
from jointnas.predictor.files import intact, read_description, read_files, write_files
from jointnas.predictor.gp import Hyperparameters
from jointnas.predictor.pretrained import Pretrained, is_pretrained
from jointnas.predictor.prior import EarlierCampaign, Prior
from jointnas.predictor.targets import TransformPosterior
from jointnas.predictor.task import Task, TrainingImages
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Codes
from jointnas.space.space import CostFunction, Space
from jointnas.training.observation import Observation

PREDICTORS: Mapping[str, str] = {
    "gp": "jointnas.predictor.gp_predictor:GPModel",
    "mlp": "jointnas.predictor.mlp_predictor:MLPModel",
}
PREDICTOR_GROUP = "jointnas.predictors"
DEFAULT_KIND = "gp"
PRIOR = "prior"  # the folder of a predictor's prior, below its own
REFERENCE = "reference"  # the tensor of the reference codes
TIMED_CODES, TIMED_STEPS = "timed_codes", "timed_steps"  # the tensors of a task's timed candidates
MEMBERS = 10
REFERENCE_SIZE = 4096
MIN_FIT_EXAMPLES = 2
Array = NDArray[np.float64]


class PredictorModel(ABC):
    """What an implementation provides: the model behind a `Predictor`, on (n, knobs) codes of one bound space.

    A model works with scores: accuracies under `targets`, larger is better. It is fitted to codes or starts from a prior. A fit
    replaces attributes and changes none in place, so that a shallow copy from before stays as it was.
    """

    targets: TransformPosterior

    @abstractmethod
    def __init__(self, space: Space, seed: int, prior: Prior | None, reference: Codes, task: Task) -> None:
        """reference: (m, knobs) codes that are typical of the space, to standardise features with."""

    @property
    def hyperparameters(self) -> Hyperparameters | None:
        """Those of its Gaussian process; None where it has none."""
        return None

    @property
    @abstractmethod
    def is_fitted(self) -> bool:
        """Whether it predicts: after a fit, or at once from a prior."""

    @abstractmethod
    def fit(self, codes: Codes, observations: Sequence[Observation]) -> None:
        """Fit to the trainings of (n, knobs) codes; at least two have an accuracy."""

    @abstractmethod
    def cross_validate(self) -> float | None:
        """Return Kendall's τ between the accuracies it was fitted to and held-out predictions; None for too few examples."""

    @abstractmethod
    def scores(self, codes: Codes, log_steps: Array | None = None) -> Array:
        """Return the (n,) posterior mean scores of (n, knobs) codes, fast.

        log_steps: (n,) logarithms of the training steps under another campaign's budget, minus the mean of the reference.
        A model that reads no steps ignores it.
        """

    @abstractmethod
    def predict_scores(self, codes: Codes, *, noise: bool = True) -> tuple[Array, Array]:
        """Return the (n,) means and standard deviations of the score of one training of each of (n, knobs) codes.

        noise: whether deviations cover the noise between trainings, without `known_noise`, or only the uncertainty about a candidate's mean.
        """

    def known_noise(self, accuracies: Array) -> Array:
        """Return the (n,) variances of single trainings with these accuracies that `predict_scores` leaves out: none by default."""
        return np.zeros(len(accuracies))

    @abstractmethod
    def sample_scores(self, codes: Codes, count: int, seed: Sequence[int]) -> Array:
        """Return (count, n) scores of functions sampled from the posterior; a seed always samples the same functions."""

    @abstractmethod
    def state(self) -> dict[str, Array]:
        """Return the tensors from which `restore` repeats a fit."""

    @abstractmethod
    def restore(self, codes: Codes, observations: Sequence[Observation], state: Mapping[str, Array]) -> None:
        """Restore a fit from its examples and its `state`. Raises `ValueError` or `KeyError` for the state of another fit."""


def predictor_names() -> list[str]:
    """Return the names of all kinds of predictors: the built-in ones, then those of installed packages."""
    return [*PREDICTORS, *plugin_names(PREDICTOR_GROUP)]


def find_model(kind: str) -> type[PredictorModel]:
    """Return the model class of this name: a built-in one, or one of an installed package. Raises `PredictorError`."""
    if kind in PREDICTORS:
        model: type[PredictorModel] = resolve_name(PREDICTORS[kind])
    else:
        model = load_plugin(PREDICTOR_GROUP, kind, PREDICTORS, PredictorError)
    return model


class Predictor:
    """Predicts the accuracy of candidates of one bound space.

    kind: the model, by name. cost: for an abstract space, a function from a candidate to its costs. prior: what it starts from: a fitted
    predictor, of other data or of a space that shares knobs, or another `Prior`. members: functions that `predict_members` samples.
    reference: (m, knobs) codes to standardise features with, by default a sample of the space. task: what is known before the first
    training. Raises `PredictorError`, and `SpaceError` for an unbound space.
    """

    def __init__(
        self,
        space: Space,
        seed: int = 0,
        *,
        cost: CostFunction | None = None,
        prior: Predictor | Prior | None = None,
        members: int = MEMBERS,
        kind: str = DEFAULT_KIND,
        reference: Codes | None = None,
        task: Task = Task(),  # noqa: B008  (frozen)
    ) -> None:
        if members < 1:
            raise PredictorError(f"a predictor samples at least 1 member, got members={members}: raise it")
        if isinstance(prior, Predictor):
            prior = EarlierCampaign(copy.copy(prior))
        if prior is not None:
            prior.check(space)
        example = None if reference is None else space.to_candidates(reference[:1])[0]
        self.space: Space = space.with_cost(cost, example)
        self.seed, self.members, self.kind, self.reference, self.task = seed, members, kind, reference, task
        self.prior: Prior | None = prior
        self.candidates: list[Candidate] = []
        self.observations: list[Observation] = []
        self.context: dict[str, Any] = {}
        self.digest: str | None = None  # of the files that were saved or loaded last
        self.rank_correlation: float | None = None  # Kendall's τ, cross-validated; None for too few examples
        typical = next(self.space.stream(seed, chunk=REFERENCE_SIZE)) if reference is None else reference
        self._model = find_model(kind)(self.space, seed, self.prior, typical, task)

    @property
    def model(self) -> PredictorModel:
        """The fitted model. Raises `PredictorError` before a fit."""
        if not self._model.is_fitted:
            raise PredictorError("the predictor is not fitted: call fit first")
        return self._model

    @property
    def is_fitted(self) -> bool:
        """Whether it predicts: after a fit, or at once from a prior."""
        return self._model.is_fitted

    @property
    def accuracies(self) -> Array:
        """The (n,) accuracies of the examples; a failed training has the lowest of the others."""
        return filled_accuracies(self.observations)

    @property
    def attainable(self) -> float | None:
        """The upper limit of accuracies, inferred from the trainings; None where accuracies are not within [0, 1]."""
        return self._model.targets.mean.attainable

    # ----------------------------------------------------------------------------------------------------- fitting

    def fit(self, candidates: Sequence[Mapping[str, Any]], results: Sequence[float | Observation] | Array) -> Predictor:
        """Fit to n candidates and their accuracies (a sequence or an (n,) array) or observations; a failure counts as the lowest accuracy.

        Replaces an earlier fit. Sets `rank_correlation`. Raises `PredictorError` for fewer than two accuracies.
        """
        if len(candidates) != len(results):
            raise PredictorError(
                f"got {len(candidates)} candidates and {len(results)} accuracies: give one accuracy for each candidate"
            )
        observations = [r if isinstance(r, Observation) else Observation(accuracy=float(r)) for r in results]
        return self.fit_codes(self.space.to_codes(candidates), observations)

    def fit_codes(self, codes: Codes, observations: Sequence[Observation]) -> Predictor:
        """Fit to (n, knobs) codes and their observations, as `fit` does."""
        accuracies = [o.accuracy for o in observations if o.accuracy is not None]
        if not np.isfinite(accuracies).all():
            raise PredictorError("an accuracy is not a finite number: report a diverged training as a failure")
        if len(accuracies) < MIN_FIT_EXAMPLES:
            raise PredictorError(
                f"a predictor needs {MIN_FIT_EXAMPLES} accuracies or more, got {len(accuracies)}: train more candidates"
            )
        model = copy.copy(self._model)
        model.fit(codes, observations)
        self.candidates, self.observations = self.space.to_candidates(codes), list(observations)
        self.rank_correlation = model.cross_validate()
        self._model = model
        return self

    # --------------------------------------------------------------------------------------------------- predicting

    def predict(self, candidates: Sequence[Mapping[str, Any]]) -> tuple[Array, Array]:
        """Return the mean (n,) and the standard deviation (n,) of the accuracy of one training of each candidate."""
        return self.predict_codes(self.space.to_codes(candidates))

    def predict_members(self, candidates: Sequence[Mapping[str, Any]]) -> Array:
        """Return (m, n) accuracies, one row for each of `members` functions sampled from the posterior."""
        return self.sample_codes(self.space.to_codes(candidates), self.members, [self.seed])

    def predict_codes(self, codes: Codes) -> tuple[Array, Array]:
        """Return the (n,) means and standard deviations of the accuracy of one training of each of (n, knobs) codes.

        A deviation covers the uncertainty about the candidate and the noise between its trainings, which is no less than the sampling noise of
        the validation images. Raises `PredictorError` before a fit.
        """
        mean, deviation = self.model.targets.expected(*self.model.predict_scores(codes))
        variance = deviation**2 + self.model.known_noise(mean)
        least = 0.0 if self.attainable is None else self.task.sampling_variances(mean)
        return mean, np.sqrt(np.maximum(variance, least))

    def bound_codes(self, codes: Codes, deviations: float) -> Array:
        """Return (n,) confidence bounds of (n, knobs) codes: `deviations` standard deviations above the median of the mean accuracy.

        A negative number gives a lower bound. Noise between trainings does not count. Raises `PredictorError` before a fit.
        """
        scores, spread = self.model.predict_scores(codes, noise=False)
        return self.model.targets.mean.accuracies(scores + deviations * spread)

    def median_codes(self, codes: Codes) -> Array:
        """Return the (n,) median accuracies of (n, knobs) codes, faster than `predict_codes`. Raises as it does."""
        return self.model.targets.mean.accuracies(self.model.scores(codes))

    def sample_codes(self, codes: Codes, count: int, seed: Sequence[int], scale: float = 1.0) -> Array:
        """Return (count, n) accuracies of (n, knobs) codes under functions sampled from the posterior, equal for equal seeds.

        scale: how much of each function's difference from the posterior mean is kept.
        """
        scores = self.model.sample_scores(codes, count, seed)
        if scale != 1:
            scores = scale * scores + (1 - scale) * self.model.scores(codes)
        return self.model.targets.sampled(scores)

    def sample_scores(self, codes: Codes, count: int, seed: Sequence[int]) -> Array:
        """Return the (count, n) scores of `sample_codes`: the accuracies of the examples have a deviation of 1 in scores."""
        return self.model.sample_scores(codes, count, seed)

    def scores(self, codes: Codes, log_steps: Array | None = None) -> Array:
        """Return the (n,) posterior mean scores of (n, knobs) codes; see `PredictorModel.scores`."""
        return self.model.scores(codes, log_steps)

    # -------------------------------------------------------------------------------------------------- on the disk

    def save(self, folder: Path | str) -> None:
        """Write `predictor.json` (space, examples) and `predictor.safetensors` into a folder, and the prior below it."""
        if not self.observations:
            raise PredictorError("the predictor is not fitted: call fit before save")
        folder = Path(folder)
        if self.prior:
            self.prior.save(folder / PRIOR)
        tensors = {**self.model.state(), "accuracies": self.accuracies}
        if self.reference is not None:
            tensors[REFERENCE] = self.reference
        if self.task.timed is not None:
            tensors[TIMED_CODES], tensors[TIMED_STEPS] = self.task.timed
        mixed = len({o.machine for o in self.observations if o.steps}) > 1
        about: dict[str, Any] = {
            "predictor": self.kind,
            "space": self.space.to_toml(),
            "input_shape": self.space.input_shape,
            "classes": self.space.classes,
            "seed": self.seed,
            "members": self.members,
            "metrics": self.space.predictor_metrics,
            "rank_correlation": self.rank_correlation,
            "prior": self.prior and self.prior.digest,
            "context": self.context,
            "trials": [
                {
                    "candidate": c,
                    "accuracy": o.accuracy,
                    "steps": o.steps,
                    "fraction": o.fraction,
                    "trainings": o.trainings,
                    **({} if o.smoothed_accuracy is None else {"smoothed_accuracy": o.smoothed_accuracy}),
                    **({"machine": o.machine} if mixed else {}),
                }
                for c, o in zip(self.candidates, self.observations, strict=True)
            ],
        }
        images, val_images = self.task.images, self.task.val_images
        if images.mirror_symmetry is not None:
            about["images"] = asdict(images)
        elif images.count is not None:  # as in earlier versions, so that their files keep their digest
            about["train_images"] = images.count
        if val_images is not None:
            about["val_images"] = val_images
        self.digest = write_files(folder, about, tensors)

    @classmethod
    def load(cls, folder: Path | str, cost: CostFunction | None = None) -> Predictor:
        """Return the predictor, of any kind, that `save` wrote. Nothing in the files is executed. Raises `PredictorError`."""
        folder = Path(folder)
        about, tensors = read_files(folder)
        prior = cls._load_prior(folder / PRIOR, cost) if about.get("prior") else None
        with intact(folder):
            if prior is not None and prior.digest != about["prior"]:
                raise ValueError("the prior is not the one it was fitted with")
            predictor = cls(
                Space.from_toml(about["space"], about["input_shape"], about["classes"]),
                int(about["seed"]),
                cost=cost,
                prior=prior,
                members=int(about["members"]),
                kind=about.get("predictor", DEFAULT_KIND),
                reference=tensors.get(REFERENCE),
                task=Task(_images(about), tensors.get(TIMED_CODES), tensors.get(TIMED_STEPS), about.get("val_images")),
            )
            predictor._restore(about, tensors)
            predictor.digest = about["digest"]
        return predictor

    @classmethod
    def _load_prior(cls, folder: Path, cost: CostFunction | None) -> Prior:
        """Return the prior below a predictor, with the cost function where it was fitted with one."""
        if is_pretrained(folder):
            return Pretrained.load(folder)
        about = read_description(folder)
        with intact(folder):
            takes_cost = Space.from_toml(about["space"]).is_abstract and bool(about.get("metrics"))
        return EarlierCampaign(cls.load(folder, cost if takes_cost else None))

    def _restore(self, about: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
        if tuple(about["metrics"]) != self.space.predictor_metrics:
            raise PredictorError(
                f"the predictor was fitted with the costs {about['metrics']}, got {list(self.space.predictor_metrics)}: "
                "give the same cost function"
            )
        codes = self.space.to_codes([t["candidate"] for t in about["trials"]])
        observations = [
            Observation(
                t["accuracy"],
                smoothed_accuracy=t.get("smoothed_accuracy"),
                fraction=float(t["fraction"]),
                steps=t["steps"],
                trainings=t["trainings"],
                machine=t.get("machine"),
            )
            for t in about["trials"]
        ]
        self.candidates, self.observations = self.space.to_candidates(codes), observations
        if self.accuracies.tolist() != tensors["accuracies"].tolist():
            raise ValueError("the trials are not those it was fitted to")
        self.rank_correlation, self.context = about["rank_correlation"], about["context"]
        self._model.restore(codes, observations, tensors)


def _images(about: Mapping[str, Any]) -> TrainingImages:
    """Return what a description holds of the training images: older ones have their number at most."""
    return TrainingImages(**about["images"]) if "images" in about else TrainingImages(about.get("train_images"))
