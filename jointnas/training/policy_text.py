"""Augmentation policies as text: sub-policies of two operations each, as AutoAugment has them (Cubuk et al. 2019).

A sub-policy is written "rotate 0.7 2, translate_x 0.3 9": operation, probability, and one of ten magnitudes, 0 where the operation has none.
Sub-policies are separated by a semicolon or a line break.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from jointnas.errors import RecipeError, suggest

OPERATION_NAMES = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
    "invert",
    "cutout",
    "sample_pairing",
)
SEARCHED = OPERATION_NAMES[1:]  # the 16 operations of AutoAugment's search space
MAGNITUDES = 10
OPERATIONS_EACH = 2  # of a sub-policy
KINDS = ("operation", "probability", "magnitude")
KNOB = re.compile(rf"({'|'.join(KINDS)})(\d+)([ab])")
EXAMPLE = "rotate 0.7 2, translate_x 0.3 9"


class Step(NamedTuple):
    """One operation of a sub-policy. magnitude: 0 to 9."""

    operation: str
    probability: float
    magnitude: int

    def __str__(self) -> str:
        return f"{self.operation} {self.probability:g} {self.magnitude}"


SubPolicy = tuple[Step, ...]


def parse_policy(text: str) -> list[SubPolicy]:
    """Return the sub-policies of a text. Raises `RecipeError`."""
    lines = [line.strip() for line in re.split(r"[;\n]", text) if line.strip()]
    if not lines:
        raise RecipeError(f"a policy needs a sub-policy such as {EXAMPLE!r}, got none: write one")
    return [_sub_policy(line) for line in lines]


def format_policy(sub_policies: list[SubPolicy]) -> str:
    """Return the text that `parse_policy` reads, in one line."""
    return "; ".join(", ".join(map(str, steps)) for steps in sub_policies)


def split_knobs(knobs: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Return the policy that knobs of the space `augmentation-policy` describe, None without them, and the other knobs.

    They are operation1a, probability1a, magnitude1a, operation1b, …: a number for each sub-policy, a letter for each of its operations.
    Raises `RecipeError` where some are missing.
    """
    own = {name: value for name, value in knobs.items() if KNOB.fullmatch(name)}
    others = {name: value for name, value in knobs.items() if name not in own}
    if not own:
        return None, others
    sub_policies = []
    for number in sorted({int(match[2]) for name in own if (match := KNOB.fullmatch(name))}):
        places = [f"{number}{letter}" for letter in "ab"]
        names = [kind + place for place in places for kind in KINDS]
        if missing := [name for name in names if name not in own]:
            raise RecipeError(f"a space of policies has {', '.join(names)}, got none called {missing[0]}: add it")
        steps = [" ".join(str(own[kind + place]) for kind in KINDS) for place in places]
        sub_policies += parse_policy(", ".join(steps))
    return format_policy(sub_policies), others


def check_policy_knob(name: str, value: object) -> None:
    """Raise `RecipeError` unless a knob of a space of policies may have this value."""
    kind = next(kind for kind in KINDS if name.startswith(kind))
    step = {"operation": "identity", "probability": 1.0, "magnitude": 0, kind: value}
    _step([str(step[kind]) for kind in KINDS], f"{name} = {value}")


def _sub_policy(line: str) -> SubPolicy:
    steps = tuple(_step(part.split(), line) for part in line.split(","))
    if len(steps) != OPERATIONS_EACH:
        raise RecipeError(f"a sub-policy has two operations, as in {EXAMPLE!r}, got {line!r}: write two")
    return steps


def _step(words: list[str], line: str) -> Step:
    try:
        operation, probability, *rest = words
        (magnitude,) = rest or ["0"]
        step = Step(operation, float(probability), int(magnitude))
    except ValueError as error:
        raise RecipeError(
            f"an operation is written as name, probability and magnitude, as in {EXAMPLE!r}, got {line!r}: correct it"
        ) from error
    if operation not in OPERATION_NAMES:
        raise RecipeError(
            f"no image operation is called {operation!r}, in {line!r}: {suggest(operation, OPERATION_NAMES)}"
        )
    if not 0 <= step.probability <= 1:
        raise RecipeError(f"a probability lies between 0 and 1, got {probability} in {line!r}: correct it")
    if not 0 <= step.magnitude < MAGNITUDES:
        raise RecipeError(
            f"a magnitude is a whole number from 0 to {MAGNITUDES - 1}, got {magnitude} in {line!r}: correct it"
        )
    return step
