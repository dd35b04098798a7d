"""Optimizers, as the recipe names them, and how a network's parameters are grouped for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn, optim

from jointnas.training.recipe import EXPECTED_LEARNING_RATE, Recipe

Groups = list[dict[str, Any]]

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024, "Muon": five steps bring singular values near 1
NEWTON_SCHULZ_STEPS = 5


class Muon(optim.Optimizer):
    """Momentum whose update of a matrix or filter is made orthogonal; vectors and the last layer take plain SGD steps.

    Source: Jordan et al. 2024. A filter (out, in, k, k) counts as the matrix (out, in·k·k). A group with
    `orthogonal = False` is updated by Nesterov momentum alone, at `sgd_ratio` times the learning rate.
    """

    def __init__(self, groups: Groups, momentum: float, sgd_ratio: float) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "orthogonal": True})
        self.momentum, self.sgd_ratio = momentum, sgd_ratio

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step with the parameters' present gradients."""
        for group in self.param_groups:
            rate = group["lr"] * (1.0 if group["orthogonal"] else self.sgd_ratio)
            for p in group["params"]:
                if p.grad is None:
                    continue
                if "velocity" not in self.state[p]:
                    self.state[p]["velocity"] = torch.zeros_like(p)
                velocity = self.state[p]["velocity"]
                velocity.mul_(self.momentum).add_(p.grad)
                update = p.grad.add(velocity, alpha=self.momentum)
                p.mul_(1 - rate * group["weight_decay"])
                if group["orthogonal"]:
                    rows = update.reshape(len(update), -1)
                    scale = max(1.0, rows.shape[0] / rows.shape[1]) ** 0.5
                    update = orthogonalised(rows).reshape(update.shape).mul_(scale)
                p.add_(update, alpha=-rate)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return the (m, n) matrix with its singular values brought near 1, by Newton–Schulz iteration."""
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


_MAKERS: Mapping[str, Callable[[Groups, Recipe], optim.Optimizer]] = {
    "sgd": lambda groups, recipe: optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=recipe.momentum > 0),
    "adam": lambda groups, recipe: optim.Adam(groups, lr=0.0, fused=True),
    "adamw": lambda groups, recipe: optim.AdamW(groups, lr=0.0, fused=True),
    "adamax": lambda groups, recipe: optim.Adamax(groups, lr=0.0),
    "adadelta": lambda groups, recipe: optim.Adadelta(groups, lr=0.0),
    "adagrad": lambda groups, recipe: optim.Adagrad(groups, lr=0.0),
    "asgd": lambda groups, recipe: optim.ASGD(groups, lr=0.0),
    "rmsprop": lambda groups, recipe: optim.RMSprop(groups, lr=0.0),
    "muon": lambda groups, recipe: Muon(
        groups, recipe.momentum, EXPECTED_LEARNING_RATE["sgd"] / EXPECTED_LEARNING_RATE["muon"]
    ),
}


def make_optimizer(network: nn.Module, recipe: Recipe) -> optim.Optimizer:
    """Return the recipe's optimizer over the network's parameters.

    Weights of convolutions and linear layers form one group; biases and the scales and shifts of norms form another, with a
    learning rate and a weight decay of their own. Each group's `rate` is its learning rate in units of the recipe's.
    """
    weights = [p for p in network.parameters() if p.ndim >= 2]
    others = [p for p in network.parameters() if p.ndim < 2]
    groups: Groups = [
        {"params": weights, "weight_decay": recipe.weight_decay, "rate": 1.0},
        {"params": others, "weight_decay": recipe.bias_weight_decay, "rate": recipe.bias_learning_rate},
    ]
    if recipe.optimizer == "muon":
        head = weights.pop()
        groups[1]["orthogonal"] = False
        groups.append({"params": [head], "weight_decay": recipe.weight_decay, "rate": 1.0, "orthogonal": False})
    return _MAKERS[recipe.optimizer]([g for g in groups if g["params"]], recipe)


def set_learning_rate(optimizer: optim.Optimizer, rate: float) -> None:
    """Give every group its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate"]
