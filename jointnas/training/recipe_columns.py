"""Many recipes at once: a column of values for each knob, and what of them acts in a training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jointnas.training.recipe import (
    NO_QUANTISER,
    POLICIES,
    QUANTISATION_KNOBS,
    Condition,
    Recipe,
    crop_pixels,
    default_of,
    fraction_in_pixels,
    knob,
    knob_fields,
    views_of,
)

Columns = Mapping[str, NDArray[Any]]
"""(n,) values by recipe knob; the other knobs have their defaults."""


def column(recipes: Columns, name: str, n: int) -> NDArray[Any]:
    """Return a knob's (n,) values."""
    return recipes[name] if name in recipes else np.full(n, default_of(name), dtype=object)


def quantises(recipes: Columns, n: int) -> NDArray[np.bool_]:
    """Return (n,) booleans: which recipes quantise weights."""
    return np.asarray(column(recipes, "quantiser", n) != NO_QUANTISER, dtype=bool)


def views(recipes: Columns, n: int) -> NDArray[np.int64]:
    """Return the (n,) numbers of views of an image that n recipes score."""
    return np.asarray(views_of(column(recipes, "test_flip", n).astype(np.int64)))


def effective(recipe: Recipe, height: int, width: int) -> dict[str, Any]:
    """Return a recipe's knobs as they act on images of this size: equal results mean equal trainings.

    Inactive knobs have their defaults, fractions of the side become whole pixels. Those of weights of few bits are there only where the
    recipe quantises weights.
    """
    columns = {name: np.array([getattr(recipe, name)], dtype=object) for name in knob_fields()}
    values = {name: column[0] for name, column in _effective(columns, height, width).items()}
    if recipe.quantisation is None:
        values = {name: value for name, value in values.items() if name not in QUANTISATION_KNOBS}
    return {k: float(v) if isinstance(v, int | float) and not isinstance(v, bool) else v for k, v in values.items()}


def effective_rows(columns: Columns, n: int, height: int, width: int) -> list[bytes]:
    """Return the bytes of each of n recipes, which are equal exactly where `effective` is equal.

    columns: (n,) values by knob; the other knobs have their defaults.
    """
    every = {name: column(columns, name, n) for name in knob_fields()}
    acting = _effective(every, height, width)
    common, of_few_bits = (
        np.column_stack([_as_numbers(name, v) for name, v in acting.items() if (name in QUANTISATION_KNOBS) == later])
        for later in (False, True)
    )
    quantised = quantises(columns, n)
    return [
        row.tobytes() + (few.tobytes() if q else b"")
        for row, few, q in zip(common, of_few_bits, quantised, strict=True)
    ]


def _effective(columns: Mapping[str, NDArray[Any]], height: int, width: int) -> dict[str, NDArray[Any]]:
    """Return the (n,) knobs of n recipes as they act on images of this size."""
    recipes = SimpleNamespace(**columns)
    active = {}
    for name, spec in knob_fields().items():
        when: Condition | None = spec.metadata["when"]
        default: Any = spec.default
        active[name] = columns[name] if when is None else np.where(when(recipes), columns[name], default)
    crop = active.pop("crop")
    active["crop_height"], active["crop_width"] = crop_pixels(crop, height), crop_pixels(crop, width)
    active["cutout"] = fraction_in_pixels(active["cutout"], min(height, width))
    return active


def _as_numbers(name: str, values: NDArray[Any]) -> NDArray[np.float64]:
    """Return a knob's (n,) values as numbers, a choice as its index."""
    choices = knob(name).metadata.get("choices") if name in knob_fields() else None
    if choices is None:
        return values.astype(np.float64)
    index = {choice: float(i) for i, choice in enumerate(choices)}
    return np.array([index[value] if value in index else _text_number(value) for value in values.tolist()])


def _text_number(text: str) -> float:
    """Return the hash of a text as a number larger than every index of a choice."""
    return float(int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)) + len(POLICIES)
