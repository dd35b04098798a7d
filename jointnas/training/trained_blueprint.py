"""The network that a candidate trains: that of its architecture, with the bits of its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jointnas.network.blueprint import Blueprint
from jointnas.network.families import make_blueprint
from jointnas.network.operations.operation import Shape
from jointnas.network.quantisation import quantised
from jointnas.training.recipe import Recipe


def trained_blueprint(candidate: Mapping[str, Any], input_shape: Shape, classes: int) -> Blueprint:
    """Return the network that a candidate trains on images of shape (C, H, W). Raises `BlueprintError` or `RecipeError`."""
    network = make_blueprint(candidate["architecture"], input_shape, classes)
    return quantised(network, Recipe.from_knobs(candidate["recipe"]).quantisation)
