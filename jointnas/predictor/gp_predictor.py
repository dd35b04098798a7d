"""The default predictor: a prior's scores, corrected by a Gaussian process that is fitted to this campaign's trainings.

FBNetV3's predictor (Dai et al., CVPR 2021, §3.2) reads architecture and recipe, and is pretrained on the costs of architectures, which are
free. Here the exact costs are features, and so are the steps that fit into the budget and known effects of recipe knobs (`features`); it
starts from an earlier campaign instead: the scores of another predictor, of any data, are the trend that the process corrects, as a few
trainings are too few to learn forty knobs. Targets are accuracies as shares of the attainable accuracy, which is inferred (`targets`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jointnas.cores import one_blas_thread
from jointnas.predictor.accuracies import learned_accuracies
from jointnas.predictor.contract import PredictorModel
from jointnas.predictor.features import Featurizer
from jointnas.predictor.gp import (
    KNOB_SLOPE,
    SLOPE,
    Examples,
    GaussianProcess,
    Groups,
    Hyperparameters,
    fit_hyperparameters,
)
from jointnas.predictor.prior import Budget, Prior
from jointnas.predictor.steps import StepsModel
from jointnas.predictor.targets import SMALLEST_SPREAD, TargetTransform, TransformPosterior
from jointnas.predictor.task import Task
from jointnas.predictor.validation import cross_validated_tau
from jointnas.space.knobs import Codes
from jointnas.space.space import Space
from jointnas.training.observation import Observation

MAX_FIT_EXAMPLES = 300  # that hyperparameters are fitted to
MAX_CONDITIONED_EXAMPLES = 2000  # that the process is conditioned on: half of them the best, the others at random
CHUNK_ROWS = 8192
Array = NDArray[np.float64]
Rows = NDArray[np.int64]


class ModelInputs:
    """The features and the prior scores of candidates, under one model of the steps. Nothing is computed before it is needed.

    steps: None for the model that is fitted to the task's timed candidates. reference: (m, knobs) codes that standardise features and scores.
    """

    def __init__(
        self, space: Space, seed: int, prior: Prior | None, reference: Codes, task: Task, steps: StepsModel | None
    ) -> None:
        self.space, self._seed, self._prior, self._reference, self._task = space, seed, prior, reference, task
        self._given = steps

    @cached_property
    def steps(self) -> StepsModel:
        """The model of the steps."""
        return self._given or StepsModel.fit(self.space, self._reference[:0], [], self._seed, self._task)

    @cached_property
    def featurizer(self) -> Featurizer:
        """What computes the features."""
        return Featurizer(self.space, self.steps, self._reference)

    @cached_property
    def relevance(self) -> Array:
        """The (d,) factors of the variances of the features' linear functions, within their groups."""
        names = self.featurizer.names
        return np.ones(len(names)) if self._prior is None else self._prior.relevance(names)

    @cached_property
    def _prior_scale(self) -> tuple[float, float]:
        """The mean and the deviation of the prior's scores of the reference."""
        scores = self._prior_scores(self._reference, self._log_steps(self._reference))
        return float(scores.mean()), max(float(scores.std()), SMALLEST_SPREAD)

    def __call__(self, codes: Codes, log_steps: Array | None = None) -> tuple[Array, Array]:
        """Return the (n, d) features and the prior's (n,) standardised scores, 0 without a prior.

        log_steps: the steps of another budget (see `PredictorModel.scores`); by default the estimated ones of this budget.
        """
        log_steps = self._log_steps(codes) if log_steps is None else log_steps
        features = self.featurizer(codes, log_steps if self.steps.estimator else None)
        if self._prior is None:
            return features, np.zeros(len(codes))
        centre, spread = self._prior_scale
        return features, (self._prior_scores(codes, log_steps) - centre) / spread

    def _log_steps(self, codes: Codes) -> Array | None:
        """Return the (n,) logarithms of the estimated steps; None without an estimator."""
        return self.featurizer.log_steps(codes) if self.steps.estimator else None

    def _prior_scores(self, codes: Codes, log_steps: Array | None) -> Array:
        assert self._prior is not None
        budget = Budget(log_steps, self.featurizer.mean_log_steps, self._task.images)
        return self._prior.scores(self.space, codes, budget)


class GPModel(PredictorModel):
    """A Gaussian process over groups of features, with the standardised scores of a prior as a trend."""

    def __init__(self, space: Space, seed: int, prior: Prior | None, reference: Codes, task: Task) -> None:
        self.space, self.seed, self.prior, self.task = space, seed, prior, task
        self.targets = TransformPosterior((1.0,), TargetTransform(), (TargetTransform(),))
        self._reference, self._trainings, self._accuracies = reference, np.zeros(0), np.zeros(0)
        self._smoothed = np.zeros(0, dtype=bool)  # whether the accuracies of its examples are smoothed
        self._process: GaussianProcess | None = None  # fitted; one that starts from a prior is made when it is needed
        self._weight, self._weight_deviation = (0.0, 0.0) if prior is None else prior.weight
        self._prior_targets = None if prior is None else prior.targets(space)
        self._use_steps(None)
        self.targets = self._prior_targets or self.targets

    @property
    def is_fitted(self) -> bool:
        """Whether it predicts: after a fit, or at once from a prior."""
        return self._process is not None or self.prior is not None

    @property
    def hyperparameters(self) -> Hyperparameters | None:
        """Those of the process; None before a fit without a prior."""
        return self._conditioned_process.hyperparameters if self.is_fitted else None

    @property
    def accuracies(self) -> Array:
        """The (n,) accuracies of its examples."""
        return self._accuracies

    @property
    def groups(self) -> Groups:
        """The group of each feature of its examples."""
        return self._inputs.featurizer.groups

    @property
    def feature_names(self) -> list[str]:
        """The name of each feature of its examples."""
        return self._inputs.featurizer.names

    # ---------------------------------------------------------------------------------------------------- the prior

    def _use_steps(self, steps: StepsModel | None) -> None:
        self._inputs = ModelInputs(self.space, self.seed, self.prior, self._reference, self.task, steps)

    def _trend(self, prior_mean: Array) -> Array:
        return np.stack([np.ones(len(prior_mean)), self._weight_deviation * prior_mean], axis=1)

    @property
    def _prior_transform(self) -> TargetTransform | None:
        return None if self._prior_targets is None else self._prior_targets.mean

    @property
    def _prior_hyperparameters(self) -> Hyperparameters | None:
        return None if self.prior is None else self.prior.hyperparameters(self.space)

    @property
    def _slope(self) -> float:
        """The prior mean of the logarithmic variances of linear functions."""
        return KNOB_SLOPE if self.space.is_abstract else SLOPE[0]

    # ----------------------------------------------------------------------------------------------------- fitting

    def fit(self, codes: Codes, observations: Sequence[Observation]) -> None:
        """Fit steps, hyperparameters and the attainable accuracy to the trainings of (n, knobs) codes."""
        self._use_steps(StepsModel.fit(self.space, codes, observations, self.seed, self.task))
        accuracies, self._smoothed = learned_accuracies(observations)
        self.targets = TransformPosterior.fit(accuracies, prior=self._prior_transform)
        self._trainings = _trainings(observations)
        with one_blas_thread():
            self._condition(codes, accuracies, None, self._own_steps(codes, observations))
            if self.targets.mean.attainable is not None:
                self._infer_attainable(np.flatnonzero([o.accuracy is not None for o in observations]))

    def _own_steps(self, codes: Codes, observations: Sequence[Observation]) -> Array | None:
        """Return the (n,) logarithms of the steps of the examples' own machines, as `scores` takes them; None where one kind trained all."""
        own = self._inputs.steps.own_log_steps(codes, observations)
        return None if own is None else own - self._inputs.featurizer.mean_log_steps

    def _condition(
        self,
        codes: Codes,
        accuracies: Array,
        hyperparameters: Hyperparameters | None,
        log_steps: Array | None = None,
    ) -> None:
        """Condition the process on examples, with these hyperparameters or with fitted ones; log_steps: see `scores`."""
        self._x, self._example_prior = self._inputs(codes, log_steps)
        self._accuracies = accuracies
        self._condition_targets(hyperparameters)

    def _condition_targets(self, hyperparameters: Hyperparameters | None) -> None:
        self._y = self.targets.mean.scores(self._accuracies)
        rows = np.arange(len(self._y))
        self._process = self._make_process(rows, hyperparameters or self._fit_hyperparameters(rows))

    def _infer_attainable(self, succeeded: Rows) -> None:
        """Infer the attainable accuracy from the trainings that succeeded, and fit again to the scores that follow."""
        rows = np.random.default_rng(self.seed).permutation(succeeded)[:MAX_CONDITIONED_EXAMPLES]
        process = GaussianProcess(self.examples(rows), self.groups, self._conditioned_process.hyperparameters)
        trend = self._weight * self._example_prior[rows, None]
        self.targets = TransformPosterior.infer(
            self._accuracies, rows, lambda scores: process.deviances(scores - trend), self._prior_transform
        )
        self._condition_targets(None)

    def _fit_hyperparameters(self, rows: Rows) -> Hyperparameters:
        """Return the hyperparameters of the examples in these rows, or of a random part of them."""
        if len(rows) > MAX_FIT_EXAMPLES:
            rows = np.random.default_rng(self.seed).permutation(rows)[:MAX_FIT_EXAMPLES]
        return fit_hyperparameters(self.examples(rows), self.groups, self._prior_hyperparameters, self._slope)

    def examples(self, rows: Rows) -> Examples:
        """Return those of its examples that are in these rows, less what is expected of them from the prior."""
        prior_mean = self._example_prior[rows]
        y = self._y[rows] - self._weight * prior_mean
        accuracies = self._accuracies[rows]
        noise = self._sampling_noise(accuracies, self._smoothed[rows]) * self.targets.mean.slopes(accuracies) ** 2
        if self.prior is not None:
            noise = noise + self._poor_noise()[rows]
        return Examples(self._x[rows], self._trend(prior_mean), y, self._trainings[rows], self._inputs.relevance, noise)

    def _poor_noise(self) -> Array:
        """Return more noise variance for examples below the median: how poor a poor candidate is says little about good ones.

        The deviation is the square of the distance in scores, so it is small near the median.
        """
        middle = np.median(self._y) if len(self._y) else 0.0
        return np.asarray(np.maximum(0, middle - self._y) ** 4)

    def known_noise(self, accuracies: Array) -> Array:
        """Return the sampling noise of the validation images, which the estimated noise does not cover."""
        return self._sampling_noise(accuracies)

    def _sampling_noise(self, accuracies: Array, smoothed: ArrayLike = False) -> Array:
        bounded = self.targets.mean.attainable is not None
        return self.task.sampling_variances(accuracies, smoothed) if bounded else np.zeros(len(accuracies))

    def _make_process(self, rows: Rows, hyperparameters: Hyperparameters) -> GaussianProcess:
        if len(rows) > MAX_CONDITIONED_EXAMPLES:
            best = MAX_CONDITIONED_EXAMPLES // 2
            ranked = rows[np.argsort(-self._y[rows], kind="stable")]
            others = np.random.default_rng(self.seed).permutation(ranked[best:])
            rows = np.concatenate([ranked[:best], others[: MAX_CONDITIONED_EXAMPLES - best]])
        return GaussianProcess(self.examples(rows), self.groups, hyperparameters)

    @property
    def _conditioned_process(self) -> GaussianProcess:
        if self._process is None:  # `Predictor` checks `is_fitted`: there is a prior
            usual = Hyperparameters.prior_mean(self._inputs.featurizer.n_groups, self._slope)
            self._condition(self._reference[:0], self._accuracies, self._prior_hyperparameters or usual)
        assert self._process is not None
        return self._process

    def cross_validate(self) -> float | None:
        """Return Kendall's τ of held-out predictions; all folds share the target transform."""

        def predict(train: Rows, held_out: Rows) -> Array:
            process = self._make_process(train, self._fit_hyperparameters(train))
            prior_mean = self._example_prior[held_out]
            return self._weight * prior_mean + process.mean(self._x[held_out], self._trend(prior_mean))

        with one_blas_thread():
            return cross_validated_tau(self._x, self._accuracies, predict, self.seed)

    # --------------------------------------------------------------------------------------------------- predicting

    def scores(self, codes: Codes, log_steps: Array | None = None) -> Array:
        """Return the (n,) posterior mean scores of (n, knobs) codes, in single precision."""
        process, parts = self._conditioned_process, [np.zeros(0)]
        for rows in _chunks(np.arange(len(codes))):
            x, prior_mean = self._inputs(codes[rows], None if log_steps is None else log_steps[rows])
            with one_blas_thread():
                parts.append(self._weight * prior_mean + process.mean(x, self._trend(prior_mean)))
        return np.concatenate(parts)

    def predict_scores(self, codes: Codes, *, noise: bool = True) -> tuple[Array, Array]:
        """Return the (n,) means and standard deviations of the scores of (n, knobs) codes, with or without the noise."""
        process, parts = self._conditioned_process, [(np.zeros(0), np.zeros(0))]
        for part in _chunks(codes):
            x, prior_mean = self._inputs(part)
            with one_blas_thread():
                mean, deviation = process.predict(x, self._trend(prior_mean))
            parts.append((self._weight * prior_mean + mean, np.sqrt(deviation**2 + noise * process.noise)))
        means, deviations = zip(*parts, strict=True)
        return np.concatenate(means), np.concatenate(deviations)

    def sample_scores(self, codes: Codes, count: int, seed: Sequence[int]) -> Array:
        """Return (count, n) scores of functions sampled from the posterior."""
        process, parts = self._conditioned_process, [np.zeros((count, 0))]
        for part in _chunks(codes):
            x, prior_mean = self._inputs(part)
            with one_blas_thread():
                samples = process.sample(x, self._trend(prior_mean), count, seed)
            parts.append(self._weight * prior_mean + samples)
        return np.concatenate(parts, axis=1)

    # -------------------------------------------------------------------------------------------------- on the disk

    def state(self) -> dict[str, Array]:
        """Return the hyperparameters, the attainable accuracies and the steps model."""
        pace = self._inputs.steps.to_tensor()
        return {
            "hyperparameters": self._conditioned_process.hyperparameters.to_vector(),
            "levels": np.array(self.targets.levels),
            **({} if pace is None else {"pace": pace}),
        }

    def restore(self, codes: Codes, observations: Sequence[Observation], state: Mapping[str, Array]) -> None:
        """Condition the process on the examples, with the hyperparameters of a state."""
        accuracies, self._smoothed = learned_accuracies(observations)
        self.targets = TransformPosterior.fit(accuracies, state["levels"].tolist(), self._prior_transform)
        self._trainings = _trainings(observations)
        if "pace" in state:
            self._use_steps(StepsModel.from_tensor(self.space, state["pace"]))
        hyperparameters = Hyperparameters.from_vector(state["hyperparameters"])
        if len(hyperparameters.lengths) != self._inputs.featurizer.n_groups:
            raise ValueError(f"{len(hyperparameters.lengths)} length scales")
        with one_blas_thread():
            self._condition(codes, accuracies, hyperparameters, self._own_steps(codes, observations))


def _trainings(observations: Sequence[Observation]) -> Array:
    """Return how many trainings each of (n,) observations is the mean of."""
    return np.array([o.trainings for o in observations], dtype=np.float64)


def _chunks(rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for start in range(0, len(rows), CHUNK_ROWS):
        yield rows[start : start + CHUNK_ROWS]
