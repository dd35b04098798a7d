"""FBNetV3's predictor: an encoder of the architecture that is pretrained on its costs, joined with the recipe (Dai et al., CVPR 2021, §3.2).

An ensemble of such networks is fitted to the trainings of a campaign, first with the encoders frozen, then as a whole. Its members start
from costs alone, or from a network that is pretrained on tables of trainings. Members that do not see a fifth of the trainings are
fitted in the same pass: on that fifth they tell how far predictions are off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from jointnas.predictor import network
from jointnas.predictor.accuracies import learned_accuracies
from jointnas.predictor.contract import PredictorModel
from jointnas.predictor.features import log_costs_of
from jointnas.predictor.gp import NOISE
from jointnas.predictor.inputs import NetworkInputs
from jointnas.predictor.network import ENCODER, HEAD, Parameters, Plan
from jointnas.predictor.pretrained import NET, Pretrained
from jointnas.predictor.prior import Budget, Prior
from jointnas.predictor.steps import StepsModel
from jointnas.predictor.targets import SMALLEST_SPREAD, TargetTransform, TransformPosterior
from jointnas.predictor.task import Task
from jointnas.predictor.validation import candidate_folds, rank_correlation
from jointnas.space.knobs import Codes
from jointnas.space.space import Space
from jointnas.training.observation import Observation

MEMBERS, HELD_OUT_MEMBERS = 8, 4  # of the ensemble, and of the one without each fold
COSTS = Plan(updates=640, weight_decay=0.0, dropout=0.0)
FROZEN, WHOLE = Plan(updates=200, weight_decay=0.3), Plan(updates=100, rate=6e-4, weight_decay=0.3)
FROZEN_TUNED = Plan(updates=30, rate=5e-4, weight_decay=3.0, anchored=True)
WHOLE_TUNED = Plan(updates=30, rate=2e-4, weight_decay=3.0, anchored=True)
TRAINING_NOISE = float(np.exp(NOISE[0]))  # variance of the trainings of one candidate
FACTOR = (0.0, 0.5)  # mean and deviation of the logarithm of the factor of the members' variance
MISFIT = (-2.0, 1.0)  # of that of the variance of errors that the members share
CHUNK_ROWS = 8192
Array = NDArray[np.float64]
Float32 = NDArray[np.float32]


class MLPModel(PredictorModel):
    """An ensemble of networks; its scores are those of a prior that is no such network plus what the ensemble adds."""

    def __init__(self, space: Space, seed: int, prior: Prior | None, reference: Codes, task: Task) -> None:
        self.space, self.seed, self.prior, self.task = space, seed, prior, task
        self._prior_targets = None if prior is None else prior.targets(space)
        self.targets = self._prior_targets or TransformPosterior((1.0,), TargetTransform(), (TargetTransform(),))
        self._reference = reference
        self._pretrained = prior if isinstance(prior, Pretrained) else None
        self._parameters: Parameters | None = None if self._pretrained is None else self._pretrained.parameters
        self._factor, self._misfit = float(np.exp(FACTOR[0])), float(np.exp(MISFIT[0]))
        if self._pretrained is not None:
            self._misfit = max(self._pretrained.card.deviation**2 - TRAINING_NOISE, SMALLEST_SPREAD)
        self._use_steps(StepsModel.fit(space, reference[:0], [], seed, task))
        if prior is not None and self._parameters is None:
            self._parameters = self._untrained()

    @property
    def is_fitted(self) -> bool:
        """Whether the ensemble exists: after a fit, or at once from a prior."""
        return self._parameters is not None

    # ----------------------------------------------------------------------------------------------------- inputs

    def _use_steps(self, steps_model: StepsModel) -> None:
        self._steps_model = steps_model
        self._mean_log_steps = float(np.log(steps_model.steps(self._reference)).mean())
        if self._pretrained is not None:
            self._inputs = self._pretrained.inputs
        elif not self.space.is_abstract:
            self._inputs = NetworkInputs.fit([(self.space, self._reference, self._budget(self._reference))])
        self._weight, self._centre, self._spread = 1.0, 0.0, 1.0
        offsets = self._offsets(self._reference)
        self._centre, self._spread = float(offsets.mean()), max(float(offsets.std()), SMALLEST_SPREAD)
        self._weight = 1.0 if self.prior is None else self.prior.weight[0]

    def _budget(self, codes: Codes, log_steps: Array | None = None) -> Budget:
        """Return the budget of (n, knobs) codes: these steps, those of the steps model, or unknown ones."""
        if log_steps is None and self._steps_model.estimator is not None:
            log_steps = np.log(self._steps_model.steps(codes)) - self._mean_log_steps
        return Budget(log_steps, self._mean_log_steps, self.task.images)

    def _encoded(self, codes: Codes, log_steps: Array | None = None) -> tuple[Float32, Float32]:
        """Return the (n, a) inputs of architectures and the (n, r) others, of which the costs are first."""
        if self.space.is_abstract:
            architecture, recipe = self.space.encode_codes(codes)
            rest = np.concatenate([log_costs_of(self.space, self.space.costs(codes), len(codes)), recipe], axis=1)
            return architecture.astype(np.float32), rest.astype(np.float32)
        budget = self._budget(codes, log_steps)
        if self._pretrained is not None:
            budget = self._pretrained.with_steps(self.space, codes, budget)
        return self._inputs(self.space, codes, budget)

    def _offsets(self, codes: Codes, log_steps: Array | None = None) -> Array:
        """Return the (n,) weighted scores of a prior that is not the start of the ensemble, 0 without one."""
        if self.prior is None or self._pretrained is not None:
            return np.zeros(len(codes))
        scores = self.prior.scores(self.space, codes, self._budget(codes, log_steps))
        return self._weight * (scores - self._centre) / self._spread

    # ----------------------------------------------------------------------------------------------------- fitting

    def _untrained(self) -> Parameters:
        """Return an ensemble that has learned nothing but costs."""
        architecture, rest = self._encoded(self._reference)
        n_costs = len(self.space.predictor_metrics)
        shape = network.Shape(architecture.shape[1], rest.shape[1], n_costs, MEMBERS)
        parameters: Parameters = shape.parameters(self.seed)
        if n_costs and architecture.shape[1]:
            costs = rest[:, :n_costs]
            costs = (costs - costs.mean(axis=0)) / np.maximum(costs.std(axis=0), SMALLEST_SPREAD)
            parameters = network.train_costs(parameters, architecture, costs, COSTS, self.seed)
        return parameters

    def fit(self, codes: Codes, observations: Sequence[Observation]) -> None:
        """Fit steps and the ensemble to the trainings of (n, knobs) codes."""
        self._use_steps(StepsModel.fit(self.space, codes, observations, self.seed, self.task))
        self._accuracies, _ = learned_accuracies(observations)
        self.targets = TransformPosterior.fit(
            self._accuracies, prior=None if self._prior_targets is None else self._prior_targets.mean
        )
        trainings = np.array([o.trainings for o in observations], dtype=np.float64)
        y = self.targets.mean.scores(self._accuracies)
        own = self._steps_model.own_log_steps(codes, observations)
        log_steps = None if own is None else own - self._mean_log_steps
        offsets = self._offsets(codes, log_steps)
        architecture, rest = self._encoded(codes, log_steps)
        folds = candidate_folds(np.concatenate([architecture, rest], axis=1), self.seed)
        weights = _member_weights(folds, trainings)
        parameters = self._trained((architecture, rest, (y - offsets).astype(np.float32)), weights)
        self._held_out = None
        if folds is not None:
            predicted = network.predict(parameters, architecture, rest)[MEMBERS:]
            unseen = predicted.reshape(-1, HELD_OUT_MEMBERS, len(y))[folds, :, np.arange(len(y))]  # (n, members)
            self._held_out = offsets + unseen.mean(axis=1)
            self._factor, self._misfit = _calibrated(y - self._held_out, unseen.var(axis=1, ddof=1), trainings)
        self._parameters = {name: values[:MEMBERS] for name, values in parameters.items()}

    def _trained(self, examples: tuple[Float32, Float32, Float32], weights: Float32) -> Parameters:
        """Return the trained parameters of all members that the (m, n) weights stand for."""
        pretrained = self._pretrained is not None
        plans = (FROZEN_TUNED, WHOLE_TUNED) if pretrained else (FROZEN, WHOLE)
        start = self._pretrained.parameters if self._pretrained is not None else self._untrained()
        parameters: Parameters = network.repeated(start, len(weights))
        for seed, (layers, plan) in enumerate(zip((HEAD, (*ENCODER, *HEAD)), plans, strict=True), self.seed):
            parameters = network.train_outputs(parameters, layers, examples, weights, plan, seed)
        return parameters

    def cross_validate(self) -> float | None:
        """Return Kendall's τ of the members that did not see the candidates."""
        return None if self._held_out is None else rank_correlation(self._held_out, self._accuracies)

    # --------------------------------------------------------------------------------------------------- predicting

    def _members(self, codes: Codes, log_steps: Array | None = None) -> Array:
        """Return the (m, n) scores of all members."""
        assert self._parameters is not None  # as `Predictor` checks `is_fitted`
        parts = [np.zeros((len(self._parameters["out.bias"]), 0))]
        for start in range(0, len(codes), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            steps = None if log_steps is None else log_steps[part]
            own = network.predict(self._parameters, *self._encoded(codes[part], steps))
            parts.append(own + self._offsets(codes[part], steps))
        return np.concatenate(parts, axis=1)

    def scores(self, codes: Codes, log_steps: Array | None = None) -> Array:
        """Return the (n,) means of the members' scores."""
        return np.asarray(self._members(codes, log_steps).mean(axis=0))

    def predict_scores(self, codes: Codes, *, noise: bool = True) -> tuple[Array, Array]:
        """Return the (n,) means and standard deviations of the scores of one training each, or without its noise."""
        members = self._members(codes)
        variance = self._factor * members.var(axis=0, ddof=1) + self._misfit + (TRAINING_NOISE if noise else 0)
        return members.mean(axis=0), np.sqrt(variance)

    def sample_scores(self, codes: Codes, count: int, seed: Sequence[int]) -> Array:
        """Return (count, n) scores of random mixtures of the members, which have their mean and their calibrated covariance."""
        members = self._members(codes)
        mean = members.mean(axis=0)
        shares = np.random.default_rng(seed).standard_normal((count, len(members)))
        return np.asarray(mean + shares @ (members - mean) * np.sqrt(self._factor / (len(members) - 1)))

    # -------------------------------------------------------------------------------------------------- on the disk

    def state(self) -> dict[str, Array]:
        """Return the parameters, the calibration, the attainable accuracies and the steps model."""
        assert self._parameters is not None
        pace = self._steps_model.to_tensor()
        return {
            **{NET + name: values for name, values in self._parameters.items()},
            "calibration": np.array([self._factor, self._misfit]),
            "levels": np.array(self.targets.levels),
            **({} if pace is None else {"pace": pace}),
        }

    def restore(self, codes: Codes, observations: Sequence[Observation], state: Mapping[str, Any]) -> None:
        """Restore the ensemble from its state."""
        self._accuracies, _ = learned_accuracies(observations)
        self.targets = TransformPosterior.fit(
            self._accuracies,
            state["levels"].tolist(),
            None if self._prior_targets is None else self._prior_targets.mean,
        )
        if "pace" in state:
            self._use_steps(StepsModel.from_tensor(self.space, state["pace"]))
        parameters = {name.removeprefix(NET): values for name, values in state.items() if name.startswith(NET)}
        shape = network.shape_of(parameters)
        network.check_parameters(parameters, shape)
        architecture, rest = self._encoded(self._reference[:1])
        if (shape.architecture, shape.rest) != (architecture.shape[1], rest.shape[1]):
            raise ValueError("the weights are those of another space")
        self._parameters, (self._factor, self._misfit) = parameters, state["calibration"].tolist()


def _member_weights(folds: NDArray[np.int64] | None, trainings: Array) -> Float32:
    """Return (members, n) weights of examples: means of more trainings have more, those of a fold are held out from its members."""
    weights = 2 * trainings / (1 + trainings)
    rows = [np.ones_like(weights)] * MEMBERS
    for fold in [] if folds is None else np.unique(folds):
        seen = np.asarray(folds != fold, dtype=np.float64)
        rows += [seen / seen.mean()] * HELD_OUT_MEMBERS
    return np.asarray(np.stack(rows) * weights, dtype=np.float32)


def _calibrated(errors: Array, variances: Array, trainings: Array) -> tuple[float, float]:
    """Return the factor of the members' (n,) variances and the misfit under which (n,) errors are likely (MAP)."""

    def deviance(logarithms: Array) -> float:
        factor, misfit = np.exp(logarithms)
        expected = factor * variances + misfit + TRAINING_NOISE / trainings
        priors = zip(logarithms, (FACTOR, MISFIT), strict=True)
        prior = sum(((value - mean) / deviation) ** 2 for value, (mean, deviation) in priors)
        return float((errors**2 / expected + np.log(expected)).sum() + prior)

    found = minimize(deviance, np.array([FACTOR[0], MISFIT[0]]), method="Nelder-Mead").x
    factor, misfit = np.exp(found).tolist()
    return factor, misfit
