"""The training recipe: every knob once, with its default, range, unit and source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jointnas.errors import RecipeError, suggest

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
"""Where each optimizer's learning rate is expected: the NOMAD team's values (HAET 2021); ASGD, RMSprop and Muon are ours."""

SCHEDULES = ("linear", "cosine", "one-cycle", "piecewise", "sgdr")
GRADIENTS = ("plain", "sam", "mltp")
INITIALISATIONS = ("he", "dirac")
POLICIES = (
    "none",
    "autoaugment-cifar10",
    "autoaugment-svhn",
    "autoaugment-imagenet",
    "randaugment",
    "trivialaugment",
)

When = Callable[[Any], Any]
"""Whether a knob has any effect beside the others: of a recipe, or of many whose knobs are arrays."""


EACH_VALUE, SWITCH, NEVER = "each value", "switch", "never"
"""How a knob affects the speed or memory of a training step: each value has its own, it is off at zero and costs the same at every
other value, or not at all (scales, probabilities, schedules, and what acts before or after the steps)."""


def _number(default: float, low: float, high: float, about: str, when: When | None = None, *, speed: str) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "about": about, "when": when, "speed": speed})


def _choice(
    default: str | bool, choices: tuple[str | bool, ...], about: str, when: When | None = None, *, speed: str
) -> Any:
    return field(default=default, metadata={"choices": choices, "about": about, "when": when, "speed": speed})


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Times are shares of the budget, lengths are shares of the image's side.

    Raises `RecipeError` for a value outside its range.
    """

    # ---- the step
    optimizer: str = _choice(
        "sgd", tuple(EXPECTED_LEARNING_RATE), "SGD with Nesterov momentum, and seven of torch's; Muon", speed=EACH_VALUE
    )
    learning_rate: float = _number(
        0.1,
        1e-5,
        10,
        "peak rate as SGD would have it; other optimizers get it times expected[theirs] / expected[sgd]",
        speed=NEVER,
    )
    momentum: float = _number(
        0.9,
        0,
        0.999,
        "Nesterov momentum, of SGD and Muon",
        lambda r: (r.optimizer == "sgd") | (r.optimizer == "muon"),
        speed=SWITCH,
    )
    weight_decay: float = _number(5e-4, 0, 1, "on weights of convolutions and linear layers", speed=SWITCH)
    bias_learning_rate: float = _number(
        1.0, 0.01, 100, "of biases and norms, in learning rates of the weights", speed=NEVER
    )
    bias_weight_decay: float = _number(0.0, 0, 1, "on biases and norms", speed=SWITCH)
    batch_size: int = _number(128, 2, 65536, "images a step", speed=EACH_VALUE)
    gradient: str = _choice(
        "plain",
        GRADIENTS,
        "taken at the weights, at the worst weights nearby (SAM), or across two tasks (MLTP)",
        speed=EACH_VALUE,
    )
    sam_rho: float = _number(
        0.05, 0.001, 2, "radius of SAM's neighbourhood, global norm", lambda r: r.gradient == "sam", speed=NEVER
    )
    sam_every: int = _number(
        1, 1, 100, "SAM's second pass only in every k-th step", lambda r: r.gradient == "sam", speed=EACH_VALUE
    )
    mltp_rate: float = _number(
        1.0,
        0.01,
        10,
        "MLTP's step for one task, in current learning rates",
        lambda r: r.gradient == "mltp",
        speed=NEVER,
    )
    gradient_centralisation: bool = _choice(
        False, (False, True), "subtract from each filter's gradient its mean (Yong et al. 2020)", speed=EACH_VALUE
    )
    ema: float = _number(
        0.0, 0, 0.9999, "decay a step of the averaged weights that are scored; 0 scores the last ones", speed=SWITCH
    )
    lookahead: int = _number(
        0, 0, 1000, "steps between the slow weights' steps (Zhang et al. 2019); 0 is off", speed=EACH_VALUE
    )
    lookahead_rate: float = _number(
        0.5, 0.01, 1, "share of the way that the slow weights go", lambda r: r.lookahead > 0, speed=NEVER
    )
    # ---- the schedule
    schedule: str = _choice(
        "linear", SCHEDULES, "how the learning rate falls over the budget, see `schedules`", speed=NEVER
    )
    warmup: float = _number(0.1, 0, 0.9, "share of the budget in which the learning rate rises", speed=NEVER)
    cycles: int = _number(2, 1, 20, "SGDR's cycles in the budget", lambda r: r.schedule == "sgdr", speed=NEVER)
    cycle_growth: float = _number(
        2.0,
        1,
        4,
        "length of an SGDR cycle over the one before",
        lambda r: (r.cycles > 1) & (r.schedule == "sgdr"),
        speed=NEVER,
    )
    start_resolution: float = _number(
        1.0, 0.25, 1, "side of the first training images, as a share of the network's", speed=EACH_VALUE
    )
    resize_until: float = _number(
        0.5,
        0.05,
        1,
        "share of the budget after which training images are full-sized",
        lambda r: r.start_resolution < 1,
        speed=EACH_VALUE,
    )
    # ---- regularisation
    label_smoothing: float = _number(0.1, 0, 0.9, "α of (1−α)·onehot + α/K", speed=SWITCH)
    dropout: float = _number(0.0, 0, 0.9, "probability before the last linear layer", speed=SWITCH)
    stochastic_depth: float = _number(
        0.0,
        0,
        0.9,
        "probability that the last residual branch is left out of an image; less before (Huang et al. 2016)",
        speed=SWITCH,
    )
    mixup: float = _number(
        0.0, 0, 10, "α of Beta(α, α), each image's share in a blend with another; 0 is off", speed=SWITCH
    )
    cutmix: float = _number(
        0.0, 0, 10, "α of Beta(α, α), each image's area beside a box of another; 0 is off", speed=SWITCH
    )
    mix_probability: float = _number(
        0.5, 0, 1, "share of the images that are mixed", lambda r: (r.mixup > 0) | (r.cutmix > 0), speed=NEVER
    )
    # ---- augmentation
    crop: float = _number(
        0.125, 0, 0.5, "padding before a random crop, as a share of the side (4 pixels of 32)", speed=NEVER
    )
    flip: str | bool = _choice(
        True,
        (False, True, "alternating"),
        "horizontal flip with probability one half, or in every second pass",
        speed=EACH_VALUE,
    )
    cutout: float = _number(
        0.0, 0, 1, "side of the square that is erased, as a share of the side; it may cross the border", speed=SWITCH
    )
    policy: str = _choice("none", POLICIES, "published augmentation policy, drawn for each image", speed=EACH_VALUE)
    policy_operations: int = _number(2, 1, 5, "RandAugment's N", lambda r: r.policy == "randaugment", speed=EACH_VALUE)
    policy_magnitude: int = _number(9, 0, 30, "RandAugment's M", lambda r: r.policy == "randaugment", speed=NEVER)
    # ---- the network in training and scoring
    initialisation: str = _choice(
        "he", INITIALISATIONS, "of convolutions: He's, or with filters that pass each input channel on", speed=NEVER
    )
    ghost_batch: int = _number(
        0,
        0,
        65536,
        "images that batch norm sees at once in training; 0 is the whole batch",
        lambda r: (r.ghost_batch > 0) & (r.ghost_batch < r.batch_size),
        speed=EACH_VALUE,
    )
    norm_images: int = _number(
        0,
        0,
        1_000_000,
        "training images that batch norm's statistics are taken from again before scoring; 0 is off",
        speed=NEVER,
    )
    test_flip: bool = _choice(
        False, (False, True), "score the mean over an image and its mirror, at twice the MACs and the time", speed=NEVER
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
        """Return the recipe with `knobs` set and every other at its default. Raises `RecipeError`."""
        for name in knobs:
            knob(name)
        return cls(**knobs)

    def crop_pixels(self, side: int) -> int:
        """Return the padding before a crop of an image with this side; a reflection needs it smaller than the side."""
        return int(_crop_pixels(self.crop, side))

    def cutout_pixels(self, height: int, width: int) -> int:
        """Return the side of the erased square."""
        return int(_pixels(self.cutout, min(height, width)))

    def effective(self, height: int, width: int) -> dict[str, Any]:
        """Return what changes a training on images of this size.

        Knobs without effect beside the others stand at their defaults, shares of the side as whole pixels.
        """
        columns = {name: np.array([getattr(self, name)], dtype=object) for name in knob_fields()}
        values = {name: column[0] for name, column in _effective(columns, height, width).items()}
        return {k: float(v) if isinstance(v, int | float) and not isinstance(v, bool) else v for k, v in values.items()}

    @property
    def views(self) -> int:
        """How many views of an image are scored."""
        return int(views_of(self.test_flip))

    @property
    def optimizer_learning_rate(self) -> float:
        """The peak learning rate that the optimizer itself is given."""
        return self.learning_rate * EXPECTED_LEARNING_RATE[self.optimizer] / EXPECTED_LEARNING_RATE["sgd"]


def views_of(test_flip: Any) -> Any:
    """Return how many views of an image are scored: two where its mirror is one of them. A truth value, or an array of them."""
    return 1 + test_flip


def effective_rows(columns: Mapping[str, NDArray[Any]], n: int, height: int, width: int) -> NDArray[np.float64]:
    """Return an (n, numbers) array whose rows are equal exactly where `Recipe.effective` is.

    columns: the (n,) values of knobs; the others are at their defaults.
    """
    whole = {name: column(columns, name, n) for name in knob_fields()}
    return np.column_stack([_numbers(name, column) for name, column in _effective(whole, height, width).items()])


def _effective(columns: Mapping[str, NDArray[Any]], height: int, width: int) -> dict[str, NDArray[Any]]:
    """Return the (n,) knobs of n recipes as they act on images of this size."""
    together = SimpleNamespace(**columns)
    found = {}
    for name, spec in knob_fields().items():
        when: When | None = spec.metadata["when"]
        default: Any = spec.default
        found[name] = columns[name] if when is None else np.where(when(together), columns[name], default)
    crop = found.pop("crop")
    found["crop_height"], found["crop_width"] = _crop_pixels(crop, height), _crop_pixels(crop, width)
    found["cutout"] = _pixels(found["cutout"], min(height, width))
    return found


def _pixels(share: Any, side: int) -> Any:
    return np.rint(np.asarray(share, dtype=np.float64) * side)


def _crop_pixels(share: Any, side: int) -> Any:
    return np.minimum(_pixels(share, side), side - 1)


def _numbers(name: str, column: NDArray[Any]) -> NDArray[np.float64]:
    """Return a knob's (n,) values as numbers, choices by their place among the known ones."""
    choices = knob(name).metadata.get("choices") if name in knob_fields() else None
    if choices is None:
        return column.astype(np.float64)
    place = {choice: float(i) for i, choice in enumerate(choices)}
    return np.array([place[value] for value in column.tolist()])


def knobs_by_speed(speed: str) -> tuple[str, ...]:
    """Return the names of the knobs that affect the speed of a training step in this way."""
    return tuple(name for name, spec in knob_fields().items() if spec.metadata["speed"] == speed)


@cache
def knob_fields() -> Mapping[str, Field[Any]]:
    """Return every recipe knob by name."""
    return {f.name: f for f in fields(Recipe)}


def knob(name: str) -> Field[Any]:
    """Return one knob's field. Raises `RecipeError` that names the nearest known knob."""
    known = knob_fields()
    if name not in known:
        raise RecipeError(f"a recipe has no knob {name!r}: {suggest(name, known)}")
    return known[name]


Columns = Mapping[str, NDArray[Any]]
"""The (n,) values of recipe knobs; the others are at their defaults."""


def column(recipes: Columns, name: str, n: int) -> NDArray[Any]:
    """Return a knob's (n,) values."""
    return recipes[name] if name in recipes else np.full(n, default_of(name), dtype=object)


def views(recipes: Columns, n: int) -> NDArray[np.int64]:
    """Return how many views of an image each of n recipes scores."""
    return np.asarray(views_of(column(recipes, "test_flip", n).astype(np.int64)))


def default_of(name: str) -> Any:
    """Return a knob's default. Raises `RecipeError` that names the nearest known knob."""
    return knob(name).default


def check_value(name: str, value: Any) -> None:
    """Raise `RecipeError` unless the knob exists and `value` lies in its range."""
    problem = _problem(knob(name), value)
    if problem:
        raise RecipeError(problem)


def _problem(spec: Field[Any], value: Any) -> str | None:
    choices = spec.metadata.get("choices")
    if choices is not None:
        if not any(type(value) is type(c) and value == c for c in choices):
            return f"the recipe knob {spec.name} is one of {', '.join(map(str, choices))}, got {value!r}: change it"
        return None
    low, high = spec.metadata["low"], spec.metadata["high"]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        return f"the recipe knob {spec.name} lies in [{low:g}, {high:g}], got {value!r}: change it"
    if spec.type == "int" and value != int(value):
        return f"the recipe knob {spec.name} is a whole number, got {value!r}: change it"
    return None
