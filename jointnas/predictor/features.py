"""What the predictor reads of a candidate: numbers in groups, each with one thing to say.

Of a space with networks, the architecture and its exact costs; the recipe's knobs; and what is known of how recipes act: rates matter by
their logarithms and for each optimizer differently, decay acts through rate and steps, regularisation pays with many images and large
networks. Few trainings do not tell such products among forty knobs; they do tell the weights of a few groups of them. Of an abstract
space, whose knobs nothing is known of, each knob is a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jointnas.errors import PredictorError
from jointnas.predictor.gp import Groups
from jointnas.predictor.steps import Pace
from jointnas.space.knobs import Codes
from jointnas.space.space import Space
from jointnas.training.recipe import EXPECTED_LEARNING_RATE, Columns, column, knob

STRENGTH = {"crop": 8.0, "cutout": 2.0, "label_smoothing": 2.0, "dropout": 2.0, "stochastic_depth": 2.0}
"""What each regulariser's knob is multiplied by, so that their usual settings are about as strong as a policy."""

SMALLEST_DECAY = 1e-6  # logarithms are taken from here on
SMALLEST_SPREAD = 1e-9
Array = NDArray[np.float64]


class Inputs:
    """Reads the candidates of a bound space, whose budget holds as many steps as `pace` says.

    free: (n, knobs) codes by whose mean and deviation inputs are standardised.
    """

    def __init__(self, space: Space, pace: Pace, free: Codes) -> None:
        self.space, self._pace = space, pace
        self._usual = 0.0  # mean logarithm of the steps
        self._base = self._columns = Scale(np.zeros(1), np.ones(1))
        steps = self.steps(free)
        if not space.is_abstract:
            self._usual = float(steps.mean())
            recipes = space.recipe_columns(free)
            self._base = Scale.of(self._quantities(recipes, steps, space.costs(free)["params"]))
        raw = list(self._groups(free, steps))
        self._columns = Scale.of(np.concatenate(raw, axis=1))
        self.groups: Groups = np.repeat(np.arange(len(raw)), [part.shape[1] for part in raw])

    def __call__(self, codes: Codes, steps: Array | None = None) -> Array:
        """Return the (n, d) inputs of (n, knobs) codes.

        steps: what `steps` says of them elsewhere, which is then believed of this budget too.
        """
        believed = self._usual + (self.steps(codes) if steps is None else steps)
        return self._columns(np.concatenate(list(self._groups(codes, believed)), axis=1))

    def steps(self, codes: Codes) -> Array:
        """Return the (n,) logarithms of the steps that the budget holds for (n, knobs) codes, over those of the usual one."""
        return np.asarray(np.log(self._pace.steps(codes)) - self._usual)

    def _groups(self, codes: Codes, steps: Array) -> Iterator[Array]:
        found = self.space.costs(codes)
        costs = self._logarithms(found, len(codes))
        if self.space.is_abstract:
            parts = [part for part in (*self.space.knob_features(codes), costs) if part.shape[1]]
            yield from parts or [np.zeros((len(codes), 1))]
            return
        architecture, recipe = self.space.encode_codes(codes)
        yield np.concatenate([architecture, costs], axis=1)
        yield recipe
        yield from self._known(self.space.recipe_columns(codes), steps, found["params"])

    def _logarithms(self, costs: Mapping[str, NDArray[Any]], n: int) -> Array:
        columns = [np.sign(costs[name]) * np.log1p(np.abs(costs[name])) for name in self.space.metrics]
        found: Array = np.stack(columns, axis=1) if columns else np.zeros((n, 0))
        if not np.isfinite(found).all():
            raise PredictorError("a cost is a finite number, got one that is not: mend the cost function")
        return found

    def _quantities(self, recipes: Columns, steps: Array, params: NDArray[Any]) -> Array:
        """Return (n, 8) logarithms of steps, images, rate, decay, rate of the biases, batch and parameters, and the strength."""
        n = len(steps)

        def number(name: str) -> Array:
            return column(recipes, name, n).astype(np.float64)

        mixed = ((number("mixup") > 0) | (number("cutmix") > 0)) * number("mix_probability")
        strength = mixed + (column(recipes, "policy", n) != "none")
        strength = strength + sum(weight * number(name) for name, weight in STRENGTH.items())
        batch, rate = np.log(number("batch_size")), np.log(number("learning_rate"))
        decay = np.log(np.maximum(number("weight_decay"), SMALLEST_DECAY))
        return np.stack(
            [
                steps,
                steps + batch,
                rate,
                decay,
                np.log(number("bias_learning_rate")),
                batch,
                np.log1p(params),
                strength,
            ],
            axis=1,
        )

    def _known(self, recipes: Columns, log_steps: Array, params: NDArray[Any]) -> Iterator[Array]:
        """Yield what is known of how recipes act: of the budget, the rate, the decay, the regularisation, and each optimizer."""
        n = len(log_steps)
        quantities = self._quantities(recipes, log_steps, params)
        _, _, log_rate, log_decay, log_bias, log_batch, _, _ = quantities.T
        steps, images, rate, decay, bias, _, capacity, strength = self._base(quantities).T
        optimizer = column(recipes, "optimizer", n)
        has_momentum = knob("momentum").metadata["when"](SimpleNamespace(optimizer=optimizer))
        damping = np.where(has_momentum, -np.log1p(-column(recipes, "momentum", n).astype(np.float64)), 0)
        way = log_rate + log_steps  # that the weights can go
        yield np.stack([steps, images, steps**2, images**2], axis=1)
        yield np.stack(
            [rate, rate**2, log_rate + damping, way, log_rate - log_batch, rate + capacity, log_rate + log_bias], axis=1
        )
        yield np.stack([decay, log_rate + log_decay, way + log_decay], axis=1)
        yield np.stack([strength, strength * images, strength * capacity], axis=1)
        which = [optimizer == name for name in EXPECTED_LEARNING_RATE]
        yield np.stack([own * q for q in (rate, rate**2, decay, steps, bias) for own in which], axis=1)


class Scale:
    """Brings (n, d) values to mean 0 and deviation 1 where they vary, to 0 where they do not."""

    def __init__(self, mean: Array, deviation: Array) -> None:
        self._mean, self._share = (
            mean,
            np.where(deviation > SMALLEST_SPREAD, 1 / np.maximum(deviation, SMALLEST_SPREAD), 0),
        )

    @classmethod
    def of(cls, values: Array) -> Scale:
        """Return the scale of (n, d) values."""
        return cls(values.mean(axis=0), values.std(axis=0))

    def __call__(self, values: Array) -> Array:
        """Return (n, d) values on this scale."""
        scaled = values - self._mean
        scaled *= self._share
        return scaled
