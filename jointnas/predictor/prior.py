"""What a campaign's predictor starts from: `Prior`, and the predictor of an earlier campaign as one.

A prior ranks the candidates of any space with networks before any of them is trained. The other implementation is a network that is
pretrained on tables of trainings (`pretrained`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jointnas.errors import PredictorError
from jointnas.predictor.gp import EFFECT, NOISE, Hyperparameters
from jointnas.predictor.targets import TransformPosterior
from jointnas.predictor.task import UNKNOWN_IMAGES, TrainingImages
from jointnas.space.knob_space import Candidate
from jointnas.space.knobs import Codes
from jointnas.space.space import Space
from jointnas.space.transfer import translate
from jointnas.training.observation import Observation

RESIDUAL_LOG_REDUCTION = (
    1.0  # the log variance of the residual of a predictor is this much lower than that of its own functions
)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Budget:
    """What the trainings of n candidates get.

    log_steps: the (n,) logarithms of their steps relative to `mean_log_steps`, the mean over typical candidates of the space; None where
    steps are unknown. images: those that they train on.
    """

    log_steps: Array | None = None
    mean_log_steps: float = 0.0
    images: TrainingImages = UNKNOWN_IMAGES


class Prior(ABC):
    """What is expected of candidates before the first training of a campaign. Scores have a unit of their own; larger is better."""

    digest: str | None  # of its files; None before they are written
    weight: tuple[float, float] = (0.7, 0.3)
    """Mean and standard deviation of the coefficient with which its standardised scores predict those of a campaign."""

    @abstractmethod
    def check(self, space: Space) -> None:
        """Raise `PredictorError` unless it can score candidates of this space."""

    @abstractmethod
    def scores(self, space: Space, codes: Codes, budget: Budget) -> Array:
        """Return the (n,) scores of (n, knobs) codes of a bound space, trained under a budget, fast."""

    @abstractmethod
    def targets(self, space: Space) -> TransformPosterior | None:
        """Return what accuracies are expected in this space; None where nothing is."""

    @abstractmethod
    def hyperparameters(self, space: Space) -> Hyperparameters | None:
        """Return the expected hyperparameters of a Gaussian process that corrects the scores in this space; None where nothing is known."""

    def relevance(self, names: Sequence[str]) -> Array:
        """Return for each of (d,) features by name how much its effect differs from what is expected, as a factor of a variance."""
        return np.ones(len(names))

    @abstractmethod
    def describe(self) -> str:
        """Return what it was learned from, to follow "warm start:"."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write its files into a folder."""


class FittedModel(Protocol):
    """What a prior reads of an earlier campaign's model."""

    targets: TransformPosterior

    @property
    def hyperparameters(self) -> Hyperparameters | None:
        """The hyperparameters of its Gaussian process, None without one."""


class FittedPredictor(Protocol):
    """What a prior reads of an earlier campaign's predictor (`contract.Predictor`)."""

    space: Space
    candidates: list[Candidate]
    observations: list[Observation]
    context: dict[str, Any]
    digest: str | None
    prior: Prior | None

    @property
    def model(self) -> FittedModel:
        """The fitted model."""

    def scores(self, codes: Codes, log_steps: Array | None = None) -> Array:
        """Return the (n,) posterior mean scores of (n, knobs) codes."""

    def save(self, folder: Path | str) -> None:
        """Write its files into a folder."""


class EarlierCampaign(Prior):
    """The predictor of an earlier campaign, of any data and of a space that shares knobs."""

    def __init__(self, predictor: FittedPredictor) -> None:
        if not predictor.observations:
            raise PredictorError("the prior is not fitted: fit it first")
        self.predictor = predictor

    @property
    def digest(self) -> str | None:  # type: ignore[override]
        """The digest of the predictor's files."""
        return self.predictor.digest

    def check(self, space: Space) -> None:
        """Raise `PredictorError` where only the new space has networks."""
        if self.predictor.space.is_abstract and not space.is_abstract:
            raise PredictorError(
                f"the prior's space {self.predictor.space.name!r} has no network, but this space has one: choose another prior"
            )

    def scores(self, space: Space, codes: Codes, budget: Budget) -> Array:
        """Return the predictor's scores of the nearest candidates in its own space, for these steps relative to their mean."""
        return self.predictor.scores(translate(codes, space, self.predictor.space), budget.log_steps)

    def targets(self, space: Space) -> TransformPosterior | None:
        """Return the transform of the predictor's own accuracies."""
        return self.predictor.model.targets

    def hyperparameters(self, space: Space) -> Hyperparameters | None:
        """Return those of the predictor's process, less varied; None without a process that has the same groups of features."""
        own, source = self.predictor.model.hyperparameters, self.predictor.space
        have_networks = not (space.is_abstract or source.is_abstract)
        if own is None or (not have_networks and (source.knobs, source.metrics) != (space.knobs, space.metrics)):
            return None
        return replace(
            own,
            slopes=own.slopes - RESIDUAL_LOG_REDUCTION,
            amplitude=own.amplitude - RESIDUAL_LOG_REDUCTION,
            effect=EFFECT[0],
            noise=NOISE[0],
        )

    def relevance(self, names: Sequence[str]) -> Array:
        """Return that of the predictor's own prior, under which its hyperparameters were fitted."""
        prior = self.predictor.prior
        return super().relevance(names) if prior is None else prior.relevance(names)

    def describe(self) -> str:
        """Return the number of its trials and their data."""
        data = self.predictor.context.get("data") or {}
        return f"{len(self.predictor.candidates):,} trials on {data.get('source', 'an earlier campaign')}"

    def save(self, folder: Path) -> None:
        """Save the predictor."""
        self.predictor.save(folder)
