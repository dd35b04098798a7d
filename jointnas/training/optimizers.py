"""Optimizers and learning-rate schedules, as the recipe names them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn, optim

from jointnas.recipe import Recipe

_MAKERS: Mapping[str, Callable[..., optim.Optimizer]] = {
    "sgd": lambda groups, recipe: optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=recipe.momentum > 0),
    "adam": lambda groups, recipe: optim.Adam(groups, lr=0.0, fused=True),
    "adamw": lambda groups, recipe: optim.AdamW(groups, lr=0.0, fused=True),
}


def make_optimizer(network: nn.Module, recipe: Recipe) -> optim.Optimizer:
    """Return the recipe's optimizer over the network's parameters; biases and norms are not decayed."""
    decayed = [p for p in network.parameters() if p.ndim >= 2]
    others = [p for p in network.parameters() if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return _MAKERS[recipe.optimizer]([g for g in groups if g["params"]], recipe)


def learning_rate_factor(recipe: Recipe, fraction: float) -> float:
    """Return the share of the peak learning rate at a fraction of the budget: up in the warm-up, then down to 0 at 1."""
    if fraction < recipe.warmup:
        return fraction / recipe.warmup
    rest = (1 - fraction) / (1 - recipe.warmup)
    return rest if recipe.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * rest))
