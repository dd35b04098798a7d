"""What `predictor.py` compares: our predictor, peers of it that others would fit instead, and variants that say what its parts are worth.

Peers read the same features of the knobs as ours, and the logarithms of MACs and parameters; `random forest, our inputs` reads all that
ours does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau, norm, rankdata
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.model_selection import cross_val_predict
from torch import nn

from benchmarks.tables.table import Table
from jointnas.campaign.early_stop import accuracy_at
from jointnas.predictor.contract import Predictor
from jointnas.predictor.features import Featurizer
from jointnas.predictor.steps import StepsModel
from jointnas.predictor.targets import TransformPosterior
from jointnas.space.knob_space import Candidate
from jointnas.space.space import Space
from jointnas.space.transfer import translate
from jointnas.training.observation import Observation

FREE = 4096  # candidates whose costs are known for nothing
EMBEDDING = 24
ENSEMBLE = 5  # plain networks whose mean is taken
Array = NDArray[np.float64]


class Examples:
    """Candidates of a table of one space and budget, what peers read of them, their trainings, and the noise of these."""

    def __init__(self, table: Table) -> None:
        self.space: Space = table.space
        found = [(c, rows) for c, rows in table.trained() if rows[0].accuracy is not None]
        self.candidates: list[Candidate] = [candidate for candidate, _ in found]
        self.accuracies: Array = np.array([rows[0].accuracy for _, rows in found], dtype=np.float64)
        self.noise = noise([[r.accuracy for r in rows if r.accuracy is not None] for _, rows in found])
        self.observations = [rows[0].observation for _, rows in found if rows[0].observation]
        self.codes = codes = self.space.to_codes(self.candidates)
        self.architecture, self.recipe = self.space.encode_codes(codes)
        self.costs = self.log_costs(codes)
        self.free = free = next(self.space.stream(1, chunk=FREE))
        self.free_architecture, self.free_costs = self.space.encode_codes(free)[0], self.log_costs(free)
        self.x: Array = np.concatenate([self.architecture, self.recipe, self.costs], axis=1)

    def log_costs(self, codes: Array) -> Array:
        """Return (n, 2) logarithms of MACs and parameters."""
        costs = self.space.costs(codes)
        return np.log(np.stack([costs["macs"], costs["params"]], axis=1))


def noise(repeated: list[list[float]]) -> float:
    """Return the standard deviation of trainings that differ in their seeds alone."""
    squares = sum(np.var(values, ddof=1) * (len(values) - 1) for values in repeated if len(values) > 1)
    return float(np.sqrt(squares / sum(len(values) - 1 for values in repeated if len(values) > 1)))


Arm = Callable[[Examples, Array, Array, int], Array]
"""Fits a predictor to the rows of some candidates and returns what it says of those of others; the last number is a seed."""


def forest(examples: Examples, known: Array, asked: Array, seed: int) -> Array:
    """Fit a random forest."""
    model = RandomForestRegressor(500, random_state=seed, n_jobs=1)
    return np.asarray(model.fit(examples.x[known], examples.accuracies[known]).predict(examples.x[asked]))


def forest_with(scores: Array) -> Arm:
    """Return a random forest that also reads what the prior says of each candidate."""

    def predict(examples: Examples, known: Array, asked: Array, seed: int) -> Array:
        """Fit it."""
        x = np.column_stack([examples.x, scores])
        model = RandomForestRegressor(500, random_state=seed, n_jobs=1)
        return np.asarray(model.fit(x[known], examples.accuracies[known]).predict(x[asked]))

    return predict


def forest_on_inputs(examples: Examples, known: Array, asked: Array, seed: int) -> Array:
    """Fit a random forest to the inputs of our predictor."""
    steps_model = StepsModel.fit(examples.space, examples.codes[known], [examples.observations[i] for i in known], seed)
    x = Featurizer(examples.space, steps_model, examples.free)(examples.codes)
    model = RandomForestRegressor(500, random_state=seed, n_jobs=1)
    return np.asarray(model.fit(x[known], examples.accuracies[known]).predict(x[asked]))


def boosting(examples: Examples, known: Array, asked: Array, seed: int) -> Array:
    """Fit gradient-boosted trees."""
    model = GradientBoostingRegressor(n_estimators=300, learning_rate=0.05, subsample=0.8, random_state=seed)
    return np.asarray(model.fit(examples.x[known], examples.accuracies[known]).predict(examples.x[asked]))


def process(examples: Examples, known: Array, asked: Array, seed: int) -> Array:
    """Fit a Gaussian process, Matérn 5/2, with a length scale a feature."""
    spread = np.ptp(examples.x[known], axis=0)
    x = (examples.x - examples.x[known].min(axis=0)) / np.where(spread > 0, spread, 1)
    lengths = Matern(np.full(x.shape[1], np.sqrt(x.shape[1])), (0.05, 1e3), nu=2.5)  # from 1 on it stays at 1
    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * lengths + WhiteKernel(0.1, (1e-4, 2.0))
    model = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=1, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return np.asarray(model.fit(x[known], examples.accuracies[known]).predict(x[asked]))


def plain(pretrained: bool) -> Arm:
    """Return FBNetV3's predictor: an encoder of the architecture and a head on it and the recipe, the encoder pretrained or not."""

    def predict(examples: Examples, known: Array, asked: Array, seed: int) -> Array:
        """Fit networks and return their mean."""
        return np.mean([network(examples, known, asked, 100 * seed + i, pretrained) for i in range(ENSEMBLE)], axis=0)

    return predict


def network(examples: Examples, known: Array, asked: Array, seed: int, pretrained: bool) -> Array:
    """Fit one network: 50 epochs of the head, the encoder at rest where it is pretrained, then 50 of everything at a lower rate."""
    torch.manual_seed(seed)
    architecture = torch.from_numpy(examples.architecture).float()
    rest = torch.from_numpy(np.concatenate([examples.recipe, standard(examples.costs, examples.costs)], axis=1)).float()
    mean, std = examples.accuracies[known].mean(), max(examples.accuracies[known].std(), 1e-6)
    targets = torch.from_numpy((examples.accuracies - mean) / std).float()
    encoder = mlp(architecture.shape[1], 256, 128, EMBEDDING)
    if pretrained:
        proxy = nn.Linear(EMBEDDING, 2)
        free = torch.from_numpy(examples.free_architecture).float()
        costs = torch.from_numpy(standard(examples.free_costs, examples.free_costs)).float()
        epochs([encoder, proxy], lambda rows: (proxy(encoder(free[rows])), costs[rows]), len(free), 20, 1e-3, 128)
    head = mlp(EMBEDDING + rest.shape[1], 256, 128, 1)
    rows_known = torch.from_numpy(known)

    def answers(rows: Any) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = rows_known[rows]
        return head(torch.cat([encoder(architecture[chosen]), rest[chosen]], dim=1)).squeeze(1), targets[chosen]

    epochs([head] if pretrained else [encoder, head], answers, len(known), 50, 1e-3, 8)
    epochs([encoder, head], answers, len(known), 50, 3e-4, 8)
    with torch.no_grad():
        return np.asarray(head(torch.cat([encoder(architecture[asked]), rest[asked]], dim=1)).squeeze(1).double())


def standard(values: Array, of: Array) -> Array:
    """Return values with the mean and deviation of others taken out."""
    return np.asarray((values - of.mean(axis=0)) / of.std(axis=0))


def mlp(*sizes: int) -> nn.Sequential:
    """Return linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def epochs(parts: list[nn.Module], answers: Callable[[Any], Any], n: int, count: int, rate: float, batch: int) -> None:
    """Train modules on the Huber loss between what `answers` returns for rows of n."""
    optimizer = torch.optim.Adam([p for part in parts for p in part.parameters()], lr=rate)
    for _ in range(count):
        for rows in torch.randperm(n).split(batch):
            loss = nn.functional.huber_loss(*answers(rows))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def ours(prior: Predictor | None) -> Arm:
    """Return the project's predictor, with what an earlier campaign tells or without."""

    def predict(examples: Examples, known: Array, asked: Array, seed: int) -> Array:
        """Fit it; with nothing known a prior predicts alone."""
        predictor = Predictor(examples.space, seed, prior=prior)
        if len(known):
            predictor.fit([examples.candidates[i] for i in known], [examples.observations[i] for i in known])
        return predictor.predict([examples.candidates[i] for i in asked])[0]

    return predict


def varied(prepare: Callable[[list[Observation]], list[Observation]] = list, **parts: Any) -> Arm:
    """Return ours without a prior, told something else or with parts of it replaced."""

    def predict(examples: Examples, known: Array, asked: Array, seed: int) -> Array:
        """Fit it."""
        with ExitStack() as replaced:
            for name, part in parts.items():
                replaced.enter_context(patch(f"jointnas.predictor.gp_predictor.{name}", part))
            predictor = Predictor(examples.space, seed)
            told = prepare([examples.observations[i] for i in known])
            predictor.fit([examples.candidates[i] for i in known], told)
            return predictor.predict([examples.candidates[i] for i in asked])[0]

    return predict


class EndsAtOne(TransformPosterior):
    """Log odds of the accuracies themselves, whatever is attainable."""

    @classmethod
    def infer(cls, accuracies: Array, *evidence: Any) -> TransformPosterior:
        """Infer nothing."""
        return cls.fit(accuracies)


class KnobsAndCosts(Featurizer):
    """The knobs and the exact costs, without what is known of how recipes act."""

    def _recipe_effects(self, *quantities: Any) -> Iterator[Array]:
        return iter(())


class Apart(Featurizer):
    """The same inputs, each in a group of its own."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.groups = np.arange(len(self.groups))


def without_steps(told: list[Observation]) -> list[Observation]:
    """Leave out how many steps the trainings took."""
    return [Observation(o.accuracy) for o in told]


def ranked(told: list[Observation]) -> list[Observation]:
    """Take the accuracies' ranks for accuracies, as normal scores."""
    places = rankdata([o.accuracy for o in told])
    return [replace(o, accuracy=float(norm.ppf((p - 0.5) / len(told)))) for o, p in zip(told, places, strict=True)]


def with_curves(told: list[Observation]) -> list[Observation]:
    """Take for each accuracy its mean with that after three quarters of the budget, brought to the same scale."""
    late = np.array([accuracy_at(o, 0.75) for o in told], dtype=np.float64)
    ends = np.array([o.accuracy for o in told], dtype=np.float64)
    late = np.where(np.isnan(late), np.nanmean(late), late)
    brought = ends.mean() + ends.std() * (late - late.mean()) / max(late.std(), 1e-9)
    return [replace(o, accuracy=float(a)) for o, a in zip(told, np.clip((ends + brought) / 2, 0, 1), strict=True)]


def blended(examples: Examples, known: Array, asked: Array, seed: int) -> Array:
    """Blend ours without a prior and a forest on its inputs, each by its cross-validated rank correlation."""
    predictor = Predictor(examples.space, seed)
    predictor.fit([examples.candidates[i] for i in known], [examples.observations[i] for i in known])
    mine = predictor.predict([examples.candidates[i] for i in asked])[0]
    steps_model = StepsModel.fit(examples.space, examples.codes[known], [examples.observations[i] for i in known], seed)
    x = Featurizer(examples.space, steps_model, examples.free)(examples.codes)
    model = RandomForestRegressor(200, random_state=seed, n_jobs=1)
    y = examples.accuracies[known]
    theirs = kendalltau(cross_val_predict(model, x[known], y, cv=5), y).statistic
    other = model.fit(x[known], y).predict(x[asked])
    weights = [max(0.0, float(np.nan_to_num(t))) + 1e-9 for t in (predictor.rank_correlation or 0.0, theirs)]
    return np.asarray(sum(w * standard(said, said) for w, said in zip(weights, (mine, other), strict=True)))


def all_arms(examples: Examples, prior: Predictor) -> dict[str, Arm]:
    """Return every predictor by name."""
    said = prior.scores(translate(examples.codes, examples.space, prior.space))
    return {
        "ours": ours(prior),
        "ours, no prior": ours(None),
        "random forest": forest,
        "random forest with the prior": forest_with(said),
        "random forest, our inputs": forest_on_inputs,
        "gradient boosting": boosting,
        "gaussian process": process,
        "fbnetv3": plain(pretrained=True),
        "fbnetv3, not pretrained": plain(pretrained=False),
        "no prior, knobs and costs alone": varied(Featurizer=KnobsAndCosts),
        "no prior, a length scale an input": varied(Featurizer=Apart),
        "no prior, steps unknown": varied(without_steps),
        "no prior, log odds that end at 1": varied(TransformPosterior=EndsAtOne),
        "no prior, ranks as targets": varied(ranked),
        "no prior, curves in the targets": varied(with_curves),
        "no prior, blended with a forest": blended,
    }
