"""The training recipe: every knob once, with its default, range, unit and source."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from functools import cache
from typing import Any

import numpy as np

from jointnas.errors import RecipeError, suggest
from jointnas.network.operations.packing import (
    ACTIVATION_BITS,
    CHANNEL,
    LEVELS,
    MOST_BITS,
    MOST_BITS_OF_POWERS,
    SCALES,
    UNIFORM,
    Packing,
)
from jointnas.network.quantisation import INNER, QUANTISED_LAYERS, Quantisation
from jointnas.training.policy_text import parse_policy

EXPECTED_LEARNING_RATE: Mapping[str, float] = {
    "sgd": 0.1,
    "adam": 0.01,
    "adamw": 0.01,
    "adamax": 0.002,
    "adadelta": 1.0,
    "adagrad": 0.01,
    "asgd": 0.1,
    "rmsprop": 0.01,
    "muon": 0.02,
}
"""A typical learning rate of each optimizer: the NOMAD team's (HAET 2021); those of ASGD, RMSprop and Muon are ours."""

SCHEDULES = ("linear", "cosine", "one-cycle", "piecewise", "sgdr")
GRADIENTS = ("plain", "sam", "mltp")
TEXT = re.compile(r"[\s;,]")  # what a text has and no name of a choice
INITIALISATIONS = ("he", "dirac")
NO_QUANTISER = "none"
QUANTISERS = (NO_QUANTISER, "binaryconnect", "proxquant", "proxconnect", "reverse-proxconnect")
PROXIMAL = QUANTISERS[2:]
START, EACH_STEP = SCALES_FROM = ("start", "each step")
POLICIES = (
    "none",
    "autoaugment-cifar10",
    "autoaugment-svhn",
    "autoaugment-imagenet",
    "randaugment",
    "trivialaugment",
)

Condition = Callable[[Any], Any]
"""Whether a knob is active given the others: of one recipe, or of many whose knobs are arrays."""


EACH_VALUE, SWITCH, NEVER = "each value", "switch", "never"
"""How a knob affects the speed and memory of a training step: each value differs, all values but zero cost the same, or it has
no effect (scales, probabilities, schedules, and what acts before or after the steps)."""


def _number(default: float, low: float, high: float, about: str, when: Condition | None = None, *, speed: str) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "about": about, "when": when, "speed": speed})


def _choice(
    default: str | bool,
    choices: tuple[str | bool, ...],
    about: str,
    when: Condition | None = None,
    *,
    speed: str,
    text: Callable[[str], Any] | None = None,
) -> Any:
    """Return the field of a knob with these choices. text: reads other values, and raises `RecipeError` for what is none."""
    metadata = {"choices": choices, "about": about, "when": when, "speed": speed, "text": text}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Times are fractions of the budget, lengths are fractions of the image's side.

    Raises `RecipeError` for a value outside its range.
    """

    # ---- the step
    optimizer: str = _choice(
        "sgd",
        tuple(EXPECTED_LEARNING_RATE),
        "sgd uses Nesterov momentum, muon orthogonalised updates (Jordan et al. 2024)",
        speed=EACH_VALUE,
    )
    learning_rate: float = _number(
        0.1,
        1e-5,
        10,
        "peak learning rate on SGD's scale; other optimizers multiply it by a fixed factor",
        speed=NEVER,
    )
    momentum: float = _number(
        0.9,
        0,
        0.999,
        "Nesterov momentum of SGD and Muon",
        lambda r: (r.optimizer == "sgd") | (r.optimizer == "muon"),
        speed=SWITCH,
    )
    weight_decay: float = _number(5e-4, 0, 1, "weight decay of convolutions and linear layers", speed=SWITCH)
    bias_learning_rate: float = _number(
        1.0, 0.01, 100, "learning rate of biases and norms, as a multiple of the weights' learning rate", speed=NEVER
    )
    bias_weight_decay: float = _number(0.0, 0, 1, "weight decay of biases and norms", speed=SWITCH)
    batch_size: int = _number(128, 2, 65536, "images per step", speed=EACH_VALUE)
    gradient: str = _choice(
        "plain",
        GRADIENTS,
        "plain, sharpness-aware minimisation (sam), or two-task meta-learning (mltp)",
        speed=EACH_VALUE,
    )
    sam_rho: float = _number(
        0.05, 0.001, 2, "radius of SAM's perturbation, in global L2 norm", lambda r: r.gradient == "sam", speed=NEVER
    )
    sam_every: int = _number(
        1, 1, 100, "SAM perturbs the weights in every k-th step only", lambda r: r.gradient == "sam", speed=EACH_VALUE
    )
    mltp_rate: float = _number(
        1.0,
        0.01,
        10,
        "MLTP's inner step for one task, as a multiple of the current learning rate",
        lambda r: r.gradient == "mltp",
        speed=NEVER,
    )
    gradient_centralisation: bool = _choice(
        False, (False, True), "subtract its mean from each filter's gradient (Yong et al. 2020)", speed=EACH_VALUE
    )
    ema: float = _number(
        0.0,
        0,
        0.9999,
        "decay per step of the weights' moving average, which is scored instead of the last weights; 0 is off",
        speed=SWITCH,
    )
    lookahead: int = _number(
        0, 0, 1000, "steps between two updates of the slow weights (Zhang et al. 2019); 0 is off", speed=EACH_VALUE
    )
    lookahead_rate: float = _number(
        0.5,
        0.01,
        1,
        "step size of lookahead's slow weights, as a share of the way to the fast ones",
        lambda r: r.lookahead > 0,
        speed=NEVER,
    )
    # ---- the schedule
    schedule: str = _choice("linear", SCHEDULES, "shape of the learning rate's decay over the budget", speed=NEVER)
    warmup: float = _number(
        0.1, 0, 0.9, "share of the budget in which the learning rate rises to its peak", speed=NEVER
    )
    cycles: int = _number(2, 1, 20, "number of SGDR cycles in the budget", lambda r: r.schedule == "sgdr", speed=NEVER)
    cycle_growth: float = _number(
        2.0,
        1,
        4,
        "length of an SGDR cycle relative to the previous one",
        lambda r: (r.cycles > 1) & (r.schedule == "sgdr"),
        speed=NEVER,
    )
    start_resolution: float = _number(
        1.0, 0.25, 1, "side of the first training images, relative to the network's input", speed=EACH_VALUE
    )
    resize_until: float = _number(
        0.5,
        0.05,
        1,
        "share of the budget after which training images have full size",
        lambda r: r.start_resolution < 1,
        speed=EACH_VALUE,
    )
    # ---- regularisation
    label_smoothing: float = _number(0.1, 0, 0.9, "α of the targets (1 − α) · one-hot + α / classes", speed=SWITCH)
    class_weights: float = _number(
        0.0,
        0,
        1,
        "exponent of the classes' weights in the loss, images^-p: 0 counts images alike, 1 classes",
        speed=NEVER,
    )
    dropout: float = _number(0.0, 0, 0.9, "dropout probability before the last linear layer", speed=SWITCH)
    stochastic_depth: float = _number(
        0.0,
        0,
        0.9,
        "drop probability of the last residual branch, per image; it grows linearly with depth (Huang et al. 2016)",
        speed=SWITCH,
    )
    mixup: float = _number(0.0, 0, 10, "α of mixup's Beta(α, α) (Zhang et al. 2018); 0 is off", speed=SWITCH)
    cutmix: float = _number(0.0, 0, 10, "α of cutmix's Beta(α, α) (Yun et al. 2019); 0 is off", speed=SWITCH)
    mix_probability: float = _number(
        0.5,
        0,
        1,
        "share of the images that mixup or cutmix changes",
        lambda r: (r.mixup > 0) | (r.cutmix > 0),
        speed=NEVER,
    )
    # ---- augmentation
    crop: float = _number(
        0.125, 0, 0.5, "padding before a random crop, relative to the side (0.125 is 4 of 32 pixels)", speed=NEVER
    )
    flip: str | bool = _choice(
        True,
        (False, True, "alternating"),
        "random horizontal flip; alternating mirrors each image in every second epoch",
        speed=EACH_VALUE,
    )
    cutout: float = _number(
        0.0, 0, 1, "side of the erased square, relative to the image's; it may cross the border; 0 is off", speed=SWITCH
    )
    policy: str = _choice(
        "none",
        POLICIES,
        "augmentation policy, sampled per image: a published one, or the text of one (`training.policy_text`)",
        speed=EACH_VALUE,
        text=parse_policy,
    )
    policy_operations: int = _number(
        2, 1, 5, "RandAugment's N, operations per image", lambda r: r.policy == "randaugment", speed=EACH_VALUE
    )
    policy_magnitude: int = _number(
        9, 0, 30, "RandAugment's M, magnitude of its operations", lambda r: r.policy == "randaugment", speed=NEVER
    )
    # ---- the network in training and scoring
    initialisation: str = _choice(
        "he",
        INITIALISATIONS,
        "weights of convolutions: He et al. 2015, or Dirac filters, which pass their input channel through",
        speed=NEVER,
    )
    ghost_batch: int = _number(
        0,
        0,
        65536,
        "images that batch norm normalises together in training; 0 is the whole batch",
        lambda r: (r.ghost_batch > 0) & (r.ghost_batch < r.batch_size),
        speed=EACH_VALUE,
    )
    norm_images: int = _number(
        0,
        0,
        1_000_000,
        "training images that re-estimate batch norm's statistics before scoring; 0 is off",
        speed=NEVER,
    )
    test_flip: bool = _choice(
        False,
        (False, True),
        "average the predictions for an image and its mirror image, at twice the MACs and time",
        speed=NEVER,
    )

    # ---- weights of few bits
    quantiser: str = _choice(
        NO_QUANTISER,
        QUANTISERS,
        "how weights of few bits are trained (Dockhorn et al. 2021): with the projection on their levels (binaryconnect), or with a proximal "
        "map that grows to it",
        speed=EACH_VALUE,
    )
    weight_bits: int = _number(4, 1, MOST_BITS, "bits of a quantised weight", lambda r: quantises_with(r), speed=NEVER)
    weight_levels: str = _choice(
        UNIFORM,
        LEVELS,
        "levels of 2 to 4 bits: uniform ones without zero, or zero and powers of two (ternary at 2 bits)",
        lambda r: quantises_with(r) & (r.weight_bits > 1) & (r.weight_bits <= MOST_BITS_OF_POWERS),
        speed=NEVER,
    )
    level_scales: str = _choice(
        CHANNEL,
        SCALES,
        "one scale for each output channel of a layer, or one for the layer",
        lambda r: quantises_with(r),
        speed=NEVER,
    )
    scales_from: str = _choice(
        EACH_STEP,
        SCALES_FROM,
        "weights that the scales fit by least squares: those at the start, which fixes the levels, or those of each step",
        lambda r: quantises_with(r),
        speed=EACH_VALUE,
    )
    quantised_layers: str = _choice(
        INNER,
        QUANTISED_LAYERS,
        "layers with few bits: all, or all but the first and the last",
        lambda r: quantises_with(r),
        speed=NEVER,
    )
    prox_rho: float = _number(
        1.0,
        0,
        1,
        "ρ of the proximal map when it has grown, in half distances of levels: weights nearer to a level are on it",
        lambda r: is_proximal(r),
        speed=NEVER,
    )
    prox_varrho: float = _number(
        0.0,
        0,
        1,
        "ϱ of the proximal map when it has grown, in half distances of levels: the gap that it leaves around their middle",
        lambda r: is_proximal(r),
        speed=NEVER,
    )
    prox_until: float = _number(
        0.8,
        0.01,
        1,
        "share of the budget in which ρ and ϱ grow from zero",
        lambda r: is_proximal(r),
        speed=NEVER,
    )
    int8_activations: bool = _choice(
        False,
        (False, True),
        "quantised layers read 8 bits, in a range that follows the training batches and is fixed then",
        lambda r: quantises_with(r),
        speed=EACH_VALUE,
    )

    def __post_init__(self) -> None:
        for spec in fields(self):
            problem = _problem(spec, getattr(self, spec.name))
            if problem:
                raise RecipeError(problem)
            if spec.type == "int":
                object.__setattr__(self, spec.name, int(getattr(self, spec.name)))

    @classmethod
    def from_knobs(cls, knobs: Mapping[str, Any]) -> Recipe:
        """Return the recipe with these knobs, all others at their defaults. Raises `RecipeError`."""
        for name in knobs:
            knob(name)
        return cls(**knobs)

    def crop_pixels(self, side: int) -> int:
        """Return the padding before a crop, which a reflection limits to less than the side."""
        return int(crop_pixels(self.crop, side))

    def cutout_pixels(self, height: int, width: int) -> int:
        """Return the side of the erased square."""
        return int(fraction_in_pixels(self.cutout, min(height, width)))

    @property
    def quantisation(self) -> Quantisation | None:
        """How the network's weights are quantised; None for floats."""
        if self.quantiser == NO_QUANTISER:
            return None
        levels = self.weight_levels if 1 < self.weight_bits <= MOST_BITS_OF_POWERS else UNIFORM
        activation_bits = ACTIVATION_BITS if self.int8_activations else None
        return Quantisation(
            Packing(self.weight_bits, levels, self.level_scales, activation_bits), self.quantised_layers
        )

    @property
    def views(self) -> int:
        """The number of views of an image that are scored."""
        return int(views_of(self.test_flip))

    @property
    def optimizer_learning_rate(self) -> float:
        """The peak learning rate on the optimizer's own scale."""
        return self.learning_rate * EXPECTED_LEARNING_RATE[self.optimizer] / EXPECTED_LEARNING_RATE["sgd"]


def quantises_with(recipes: Any) -> Any:
    """Return whether a recipe quantises weights, or (n,) booleans for n recipes whose knobs are arrays."""
    return recipes.quantiser != NO_QUANTISER


def is_proximal(recipes: Any) -> Any:
    """Return whether a recipe's quantiser has a proximal map that grows, or (n,) booleans as `quantises_with`."""
    quantiser = recipes.quantiser
    return (quantiser == PROXIMAL[0]) | (quantiser == PROXIMAL[1]) | (quantiser == PROXIMAL[2])


def views_of(test_flip: Any) -> Any:
    """Return the number of views of an image that are scored, two with its mirror image. test_flip: a bool or an array of them."""
    return 1 + test_flip


def fraction_in_pixels(fraction: Any, side: int) -> Any:
    """Return a fraction of a side, or (n,) of them, in whole pixels."""
    return np.rint(np.asarray(fraction, dtype=np.float64) * side)


def crop_pixels(fraction: Any, side: int) -> Any:
    """Return the padding of a crop, or (n,) of them, in whole pixels: less than the side."""
    return np.minimum(fraction_in_pixels(fraction, side), side - 1)


def knobs_by_speed(speed: str) -> tuple[str, ...]:
    """Return the names of the knobs that affect the speed of a training step in this way."""
    return tuple(name for name, spec in knob_fields().items() if spec.metadata["speed"] == speed)


@cache
def knob_fields() -> Mapping[str, Field[Any]]:
    """Return every recipe knob by name."""
    return {f.name: f for f in fields(Recipe)}


def knob(name: str) -> Field[Any]:
    """Return one knob's field. Raises `RecipeError` that suggests the nearest name."""
    knobs = knob_fields()
    if name not in knobs:
        raise RecipeError(f"a recipe has no knob {name!r}: {suggest(name, knobs)}")
    return knobs[name]


QUANTISATION_KNOBS = (
    "quantiser",
    "weight_bits",
    "weight_levels",
    "level_scales",
    "scales_from",
    "quantised_layers",
    "prox_rho",
    "prox_varrho",
    "prox_until",
    "int8_activations",
)
"""The knobs of weights of few bits."""


def default_of(name: str) -> Any:
    """Return a knob's default. Raises `RecipeError` that suggests the nearest name."""
    return knob(name).default


def is_text(name: str, value: Any) -> bool:
    """Return whether a value of a recipe knob is a text in place of one of its choices, such as that of a policy."""
    has_text = name in knob_fields() and knob(name).metadata.get("text") is not None
    return has_text and isinstance(value, str) and TEXT.search(value) is not None


def check_value(name: str, value: Any) -> None:
    """Raise `RecipeError` unless the knob exists and `value` lies in its range."""
    problem = _problem(knob(name), value)
    if problem:
        raise RecipeError(problem)


def _problem(spec: Field[Any], value: Any) -> str | None:
    choices = spec.metadata.get("choices")
    if choices is not None:
        if not any(type(value) is type(c) and value == c for c in choices):
            if is_text(spec.name, value):
                spec.metadata["text"](value)
                return None
            return f"the recipe knob {spec.name} must be one of {', '.join(map(str, choices))}, got {value!r}"
        return None
    low, high = spec.metadata["low"], spec.metadata["high"]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        return f"the recipe knob {spec.name} must be between {low:g} and {high:g}, got {value!r}"
    if spec.type == "int" and value != int(value):
        return f"the recipe knob {spec.name} must be a whole number, got {value!r}"
    return None
