"""The inputs of a network that predicts candidates of any space with networks: they have the same meaning in all of them.

Three parts: the architecture, as numbers of its blueprint that add up over its parts; its exact costs; the recipe with every knob (defaults
fill those that a space lacks), the known effects of `features.recipe_effects`, and the task: classes, images, and what the budget holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jointnas.measurement.features import blueprint_features
from jointnas.network.blueprint import Blueprint
from jointnas.network.cost import scoring_cost
from jointnas.predictor.features import SMALLEST_DECAY, Standardizer, quantities, recipe_effects
from jointnas.predictor.prior import Budget
from jointnas.space.knobs import Codes
from jointnas.space.space import Space
from jointnas.training.recipe import QUANTISATION_KNOBS, SWITCH, knob_fields
from jointnas.training.recipe_columns import Columns, column

FAMILIES = ("resnet9", "chain", "resnet", "fbnet", "senet", "mobilenet")  # all others share one more input
COUNTED = (
    "relu",
    "celu",
    "gelu",
    "silu",
    "hard_swish",
    "sigmoid",
    "whiten",
    "add",
    "multiply",
    "concat",
    "resize",
    "max_pool",
)
"""Operations whose numbers in a network are inputs."""

DECAYS = ("weight_decay", "bias_weight_decay")  # act by their logarithms
MEMORIES = ("ema", "momentum")  # act by the steps that they remember
UNREAD = (
    "class_weights",
    *QUANTISATION_KNOBS,
)  # knobs that no table varies: weights of few bits are expected to do as floats
WIDE = 100.0  # ranges whose ends have this ratio or more are logarithmic
TYPICAL_IMAGES, TYPICAL_SYMMETRY = 3000, 1.0  # where those of the training images are unknown
FARTHEST = 3.0  # standard deviations
SCALES = ("quantity_mean", "quantity_deviation", "input_mean", "input_deviation")
Array = NDArray[np.float64]
Float32 = NDArray[np.float32]


class Inputs(NamedTuple):
    """The inputs of n candidates: (n, a) of architectures, (n, c) logarithmic costs, (n, r) of recipes and the task."""

    architecture: Array
    costs: Array
    recipe: Array


def operation_counts(blueprint: Blueprint) -> tuple[float, ...]:
    """Return how often each of `COUNTED` is in a network; they add up over its parts."""
    names = [node.operation for block in blueprint.blocks for node in block.nodes]
    return tuple(float(names.count(name)) for name in COUNTED)


def raw_inputs(space: Space, codes: Codes, budget: Budget, scale: Standardizer) -> Inputs:
    """Return the inputs of (n, knobs) codes of a bound space with networks, as they come.

    scale: of the quantities in `recipe_quantities`. budget: with the steps of each candidate.
    """
    recipes, costs = space.recipe_columns(codes), scoring_cost(space.float_costs(codes), space.views(codes))
    numbers = recipe_quantities(space, codes, budget)
    effects = list(recipe_effects(recipes, numbers, scale(numbers)))
    return Inputs(
        architecture_inputs(space, codes),
        np.log1p(np.stack([costs[name] for name in space.predictor_metrics], axis=1)),
        np.concatenate(
            [*recipe_inputs(recipes, len(codes)), *effects, task_inputs(space, recipes, numbers, budget)], axis=1
        ),
    )


def recipe_quantities(space: Space, codes: Codes, budget: Budget) -> Array:
    """Return the (n, 8) quantities whose products are known effects of recipes; see `features.quantities`."""
    log_steps = np.zeros(len(codes)) if budget.log_steps is None else budget.log_steps
    return quantities(space.recipe_columns(codes), budget.mean_log_steps + log_steps, space.costs(codes)["params"])


def architecture_inputs(space: Space, codes: Codes) -> Array:
    """Return (n, a): logarithms of work and calls by kind and of the numbers of operations, and the family."""
    own = codes[:, : space.n_architecture]
    work, counts = (space.architectures.sums(own, of) for of in (blueprint_features, operation_counts))
    network = next(i for i, knob in enumerate(space.knobs) if knob.name == "network")
    family = np.zeros((len(codes), len(FAMILIES) + 1))
    for code in np.unique(own[:, network]).tolist():
        name = str(space.knobs[network].value(code))
        family[own[:, network] == code, FAMILIES.index(name) if name in FAMILIES else -1] = 1
    return np.concatenate([np.log1p(work), np.log1p(counts), family], axis=1)


def recipe_inputs(recipes: Columns, n: int) -> Iterator[Array]:
    """Yield (n, k) inputs of each recipe knob; an inactive knob has its default."""
    values = SimpleNamespace(**{name: column(recipes, name, n) for name in knob_fields()})
    for name, spec in knob_fields().items():
        if name in UNREAD:
            continue
        own, when = getattr(values, name), spec.metadata["when"]
        if when is not None:
            own = np.where(when(values), own, np.array(spec.default, dtype=own.dtype))
        choices = spec.metadata.get("choices")
        if choices is None:
            yield _number(name, np.asarray(own, dtype=np.float64))
        else:
            yield np.stack([np.asarray(own == choice, dtype=np.float64) for choice in choices], axis=1)


def _number(name: str, values: Array) -> Array:
    """Return the (n, 1 or 2) inputs of a number: on the scale on which it acts, and whether a switch is on."""
    metadata = knob_fields()[name].metadata
    low, high = metadata["low"], metadata["high"]
    if name in DECAYS:
        acting = np.log(np.maximum(values, SMALLEST_DECAY))
    elif name in MEMORIES:
        acting = -np.log1p(-values)
    elif low > 0 and high / low >= WIDE:
        acting = np.log(values)
    elif low == 0 and high >= WIDE:
        acting = np.log1p(values)
    else:
        acting = values
    switch = low == 0 and (metadata["speed"] == SWITCH or high >= WIDE)
    return np.stack([acting, values > 0], axis=1) if switch else acting[:, None]


def task_inputs(space: Space, recipes: Columns, numbers: Array, budget: Budget) -> Array:
    """Return (n, 9): logarithms of classes, training images, channels, side, steps, and passes over the images; the asymmetry, which is how
    far mirrored images differ from images of their class; and two that are 0 unless the recipe trains on mirrored images: the asymmetry,
    and the symmetry times the logarithm of the passes, as mirrored images help more the more often the budget shows each image.
    """
    channels, height, width = space.input_shape or (1, 1, 1)
    symmetry = TYPICAL_SYMMETRY if budget.images.mirror_symmetry is None else budget.images.mirror_symmetry
    log_images = np.log(budget.images.count or TYPICAL_IMAGES)
    fixed = [np.log(space.classes or 1), log_images, np.log(channels), 0.5 * np.log(height * width)]
    columns = [np.full(len(numbers), value) for value in fixed]
    mirrored = column(recipes, "flip", len(numbers)) != False  # noqa: E712  ("alternating" is a value too)
    asymmetry = 1 - symmetry
    passes = numbers[:, 1] - log_images
    columns += [numbers[:, 0], passes, np.full(len(numbers), asymmetry), asymmetry * mirrored]
    columns.append(symmetry * passes * mirrored)
    return np.stack(columns, axis=1)


class NetworkInputs:
    """Computes the standardised inputs of a network for candidates of bound spaces with networks, in single precision.

    They are clipped, so that a candidate far from all examples does not get a prediction far from theirs.
    """

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self.tensors = {name: tensors[name] for name in SCALES}
        quantity_mean, quantity_deviation, mean, deviation = self.tensors.values()
        self._quantity_scale, self._scale = (
            Standardizer(quantity_mean, quantity_deviation),
            Standardizer(mean, deviation),
        )

    @classmethod
    def fit(cls, examples: Sequence[tuple[Space, Codes, Budget]]) -> NetworkInputs:
        """Return those under which the inputs of all examples have mean 0 and deviation 1."""
        numbers = np.concatenate([recipe_quantities(*own) for own in examples])
        scale = Standardizer.fit(numbers)
        raw = np.concatenate([np.concatenate(raw_inputs(*own, scale), axis=1) for own in examples])
        values = (numbers.mean(axis=0), numbers.std(axis=0), raw.mean(axis=0), raw.std(axis=0))
        return cls(dict(zip(SCALES, values, strict=True)))

    def __call__(self, space: Space, codes: Codes, budget: Budget) -> tuple[Float32, Float32]:
        """Return the (n, a) inputs of architectures and the (n, c + r) others, of which the first c are the costs."""
        architecture, costs, recipe = raw_inputs(space, codes, budget, self._quantity_scale)
        raw = np.concatenate([architecture, costs, recipe], axis=1)
        scaled = self._scale(
            raw[:, : len(self.tensors["input_mean"])]
        )  # networks of earlier versions lack the last inputs
        clipped = np.clip(scaled, -FARTHEST, FARTHEST, dtype=np.float32, casting="same_kind")
        width = architecture.shape[1]
        return np.ascontiguousarray(clipped[:, :width]), np.ascontiguousarray(clipped[:, width:])
