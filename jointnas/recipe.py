"""The training recipe: every knob once, with its default, range, unit and source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from functools import cache
from typing import Any

from jointnas.errors import RecipeError, suggest

EXPECTED_LEARNING_RATE: Mapping[str, float] = {"sgd": 0.1, "adam": 0.01, "adamw": 0.01}
"""Where each optimizer's learning rate is expected (the NOMAD team's rule, HAET 2021)."""

SCHEDULES = ("linear", "cosine")


def _number(default: float, low: float, high: float, about: str) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "about": about})


def _choice(default: str | bool, choices: tuple[str | bool, ...], about: str) -> Any:
    return field(default=default, metadata={"choices": choices, "about": about})


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Times are shares of the budget, lengths are shares of the image's side.

    Raises `RecipeError` for a value outside its range.
    """

    optimizer: str = _choice("sgd", tuple(EXPECTED_LEARNING_RATE), "SGD with Nesterov momentum, Adam or AdamW")
    learning_rate: float = _number(
        0.1, 1e-5, 10, "peak rate as SGD would have it; other optimizers get it times expected[theirs] / expected[sgd]"
    )
    momentum: float = _number(0.9, 0, 0.999, "Nesterov momentum, SGD only")
    weight_decay: float = _number(5e-4, 0, 1, "on weights of convolutions and linear layers, not on biases and norms")
    batch_size: int = _number(128, 2, 65536, "images a step")
    label_smoothing: float = _number(0.1, 0, 0.9, "α of (1−α)·onehot + α/K")
    schedule: str = _choice("linear", SCHEDULES, "decay of the learning rate to zero at the end of the budget")
    warmup: float = _number(0.1, 0, 0.9, "share of the budget in which the learning rate rises linearly from zero")
    ema: float = _number(0.0, 0, 0.9999, "decay a step of the averaged weights that are scored; 0 scores the last ones")
    crop: float = _number(0.125, 0, 0.5, "padding before a random crop, as a share of the side (4 pixels of 32)")
    flip: bool = _choice(True, (False, True), "horizontal flip with probability one half")
    cutout: float = _number(
        0.0, 0, 1, "side of the square that is erased, as a share of the side; it may cross the border"
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
        return min(round(self.crop * side), side - 1)

    def cutout_pixels(self, height: int, width: int) -> int:
        """Return the side of the erased square."""
        return round(self.cutout * min(height, width))

    def effective(self, height: int, width: int) -> dict[str, Any]:
        """Return what changes a training on images of this size.

        Knobs without effect beside the others stand at their defaults, shares of the side as whole pixels.
        """
        values = {name: getattr(self, name) for name in knob_fields()}
        if self.optimizer != "sgd":
            values["momentum"] = knob("momentum").default
        values["crop"] = [self.crop_pixels(height), self.crop_pixels(width)]
        values["cutout"] = self.cutout_pixels(height, width)
        return {k: float(v) if isinstance(v, int | float) and not isinstance(v, bool) else v for k, v in values.items()}

    @property
    def optimizer_learning_rate(self) -> float:
        """The peak learning rate that the optimizer itself is given."""
        return self.learning_rate * EXPECTED_LEARNING_RATE[self.optimizer] / EXPECTED_LEARNING_RATE["sgd"]


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
