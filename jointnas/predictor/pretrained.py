"""A network that was trained on tables of real trainings of many data sets, spaces and budgets: what a campaign starts from by default.

Its scores are standardised log odds of accuracies: 0 is the mean and 1 the deviation of random candidates under one budget on one data set.
It predicts with NumPy alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from jointnas.errors import PredictorError
from jointnas.measurement.estimate import Estimator
from jointnas.predictor import network
from jointnas.predictor.files import FileNames, intact, read_files, write_files
from jointnas.predictor.gp import Hyperparameters
from jointnas.predictor.inputs import NetworkInputs
from jointnas.predictor.prior import Budget, Prior
from jointnas.predictor.steps import StepsModel
from jointnas.predictor.targets import TargetTransform, TransformPosterior
from jointnas.space.knobs import Codes
from jointnas.space.space import Space

FILES = FileNames(
    "pretrained.json",
    "pretrained.safetensors",
    1,
    ("format", "tables", "rows", "centre_above_chance", "spread", "deviation", "seconds"),
)
NET, PACE, RESIDUAL = "net.", "step_seconds", "residual"  # names of tensors
CHUNK_ROWS = 8192
Array = NDArray[np.float64]
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Card:
    """What a pretrained network was fitted to, and what accuracies were like there.

    tables: of trainings, by name. rows: their trainings. centre_above_chance: the mean log odds of accuracies above those of chance.
    spread: the deviation of log odds within a group. deviation: that of targets about the predictions for data sets left out.
    seconds: the budget for which steps are estimated where they are not known. relevance: of features by name, how much their effects
    differ between data sets: factors of a variance, 1 for those that are not named.
    """

    tables: tuple[str, ...]
    rows: int
    centre_above_chance: float
    spread: float
    deviation: float
    seconds: float
    command: str = ""
    relevance: Mapping[str, float] = field(default_factory=dict)


class Pretrained(Prior):
    """A pretrained ensemble of networks.

    parameters: see `network`. step_seconds: the law of the seconds of a training step. residual: hyperparameters of a Gaussian process
    that corrects its scores.
    """

    weight = (0.8, 0.15)

    def __init__(
        self,
        inputs: NetworkInputs,
        parameters: network.Parameters,
        step_seconds: Estimator,
        card: Card,
        residual: Hyperparameters | None = None,
    ) -> None:
        self.inputs, self.parameters, self.step_seconds, self.card = inputs, parameters, step_seconds, card
        self.residual = residual
        self.digest: str | None = None

    def check(self, space: Space) -> None:
        """Raise `PredictorError` for a space without networks."""
        if space.is_abstract:
            raise PredictorError(
                f"the space {space.name!r} has no network, but the pretrained predictor reads networks: choose another prior"
            )

    def scores(self, space: Space, codes: Codes, budget: Budget) -> Array:
        """Return the (n,) means of the members' scores."""
        return np.asarray(self.member_scores(space, codes, budget).mean(axis=0), dtype=np.float64)

    def member_scores(self, space: Space, codes: Codes, budget: Budget) -> Float32:
        """Return the (m, n) scores of each member of the ensemble."""
        parts = [np.zeros((len(self.parameters["out.bias"]), 0), dtype=np.float32)]
        for start in range(0, len(codes), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            steps = None if budget.log_steps is None else budget.log_steps[part]
            own = self.with_steps(space, codes[part], replace(budget, log_steps=steps))
            parts.append(network.predict(self.parameters, *self.inputs(space, codes[part], own)))
        return np.concatenate(parts, axis=1)

    def with_steps(self, space: Space, codes: Codes, budget: Budget) -> Budget:
        """Return the budget with (n,) steps: where unknown, those that the law of its tables' machine gives."""
        if budget.log_steps is not None:
            return budget
        seconds = StepsModel(space, self.step_seconds).step_shares(codes)
        return replace(budget, log_steps=np.log(self.card.seconds / seconds), mean_log_steps=0.0)

    def targets(self, space: Space) -> TransformPosterior | None:
        """Return the transform of accuracies that are as far above chance and as different as in the tables."""
        chance = float(logit(1 / (space.classes or 2)))
        transform = TargetTransform(centre=chance + self.card.centre_above_chance, spread=self.card.spread)
        return TransformPosterior((1.0,), transform, (transform,))

    def hyperparameters(self, space: Space) -> Hyperparameters | None:
        """Return those that corrected it on data sets left out."""
        return self.residual

    def relevance(self, names: Sequence[str]) -> Array:
        """Return how much the effects of features differ between the data sets of its tables."""
        return np.array([self.card.relevance.get(name, 1.0) for name in names], dtype=np.float64)

    def describe(self) -> str:
        """Return the numbers of its trainings and data sets."""
        return f"{self.card.rows:,} trainings in {len(self.card.tables)} tables"

    # -------------------------------------------------------------------------------------------------- on the disk

    def save(self, folder: Path) -> None:
        """Write `pretrained.json` and `pretrained.safetensors`. Raises `PredictorError`."""
        law = self.step_seconds
        tensors: dict[str, NDArray[Any]] = {
            **self.inputs.tensors,
            **{NET + name: values for name, values in self.parameters.items()},
            PACE: np.array([*law.weights, law.intercept, law.error]),
        }
        if self.residual is not None:
            tensors[RESIDUAL] = self.residual.to_vector()
        self.digest = write_files(folder, dict(vars(self.card)), tensors, FILES)

    @classmethod
    def load(cls, folder: Path) -> Pretrained:
        """Return what `save` wrote. Raises `PredictorError`."""
        about, tensors = read_files(folder, FILES)
        with intact(folder):
            card = Card(**{name: about[name] for name in Card.__dataclass_fields__ if name in about})
            if not all(np.isfinite(factor) and factor > 0 for factor in card.relevance.values()):
                raise ValueError("a relevance that is no positive number")
            *weights, intercept, error = tensors[PACE].tolist()
            residual = Hyperparameters.from_vector(tensors[RESIDUAL]) if RESIDUAL in tensors else None
            loaded = cls(
                NetworkInputs(tensors),
                _parameters(tensors),
                Estimator(np.array(weights), intercept, error),
                replace(card, tables=tuple(card.tables)),
                residual,
            )
            loaded.digest = about["digest"]
        return loaded


def is_pretrained(folder: Path) -> bool:
    """Return whether a folder holds a pretrained network."""
    return (folder / FILES.description).is_file()


def _parameters(tensors: Mapping[str, NDArray[Any]]) -> dict[str, Float32]:
    """Return the network's parameters; raises `KeyError` or `ValueError` where one is missing or does not fit the others."""
    found = {name.removeprefix(NET): values for name, values in tensors.items() if name.startswith(NET)}
    network.check_parameters(found, network.shape_of(found))
    return found
