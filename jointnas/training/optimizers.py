"""The recipe's optimizers and their parameter groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim

from jointnas.training.recipe import EXPECTED_LEARNING_RATE, Recipe

Groups = list[dict[str, Any]]

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024, "Muon"
NEWTON_SCHULZ_STEPS = 5


class Muon(optim.Optimizer):
    """Muon (Jordan et al. 2024): Nesterov momentum with orthogonalised updates of matrices and filters.

    A filter (out, in, k, k) counts as the matrix (out, in·k·k). A group with `orthogonal = False` takes plain SGD steps at
    `sgd_ratio` times the learning rate.
    """

    def __init__(self, groups: Groups, momentum: float, sgd_ratio: float) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "orthogonal": True})
        self.momentum, self.sgd_ratio = momentum, sgd_ratio

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step along the parameters' gradients."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            rate = group["lr"] * (1.0 if group["orthogonal"] else self.sgd_ratio)
            gradients = [p.grad for p in params]
            velocities = [self._velocity(p) for p in params]
            torch._foreach_mul_(velocities, self.momentum)
            torch._foreach_add_(velocities, gradients)
            updates = torch._foreach_add(gradients, velocities, alpha=self.momentum)
            torch._foreach_mul_(params, 1 - rate * group["weight_decay"])
            torch._foreach_add_(params, _muon_updates(updates) if group["orthogonal"] else updates, alpha=-rate)

    def _velocity(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(p)
        velocity: Tensor = state["velocity"]
        return velocity


def _muon_updates(updates: Sequence[Tensor]) -> list[Tensor]:
    """Return orthogonalised updates of matrices and filters; a tall (m, n) matrix is scaled by √(m / n)."""
    filters = [update.movedim(1, -1) for update in updates]  # (out, k, k, in): a view of channels-last memory
    matrices = [x.flatten(1) for x in filters]
    orthogonal = orthogonalise(matrices)
    torch._foreach_mul_(orthogonal, [max(1.0, len(x) / x.shape[1]) ** 0.5 for x in matrices])
    return [x.reshape(like.shape).movedim(-1, 1) for x, like in zip(orthogonal, filters, strict=True)]


def orthogonalise(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Return (m, n) matrices whose singular values a Newton–Schulz iteration has brought near 1.

    A step multiplies X by a polynomial in its Gram matrix XXᵀ, and these polynomials commute. So their product is computed on
    Gram matrices of the smaller side, stacked by size, and X itself is multiplied once.
    """
    wide = [x.T if x.shape[0] > x.shape[1] else x for x in matrices]
    norms = torch._foreach_norm(wide)
    torch._foreach_add_(norms, 1e-7)
    wide = list(torch._foreach_div(wide, norms))
    by_size: dict[int, list[int]] = {}
    for i, x in enumerate(wide):
        by_size.setdefault(len(x), []).append(i)
    for indices in by_size.values():
        factors = _newton_schulz(torch.stack([wide[i] @ wide[i].T for i in indices]))
        for i, factor in zip(indices, factors, strict=True):
            wide[i] = factor @ wide[i]
    return [y.T if x.shape[0] > x.shape[1] else y for x, y in zip(matrices, wide, strict=True)]


def _newton_schulz(grams: Tensor) -> Tensor:
    """Return the (b, m, m) product of the polynomials of all steps, from (b, m, m) Gram matrices XXᵀ."""
    polynomial = product = _polynomial(grams)
    for _ in range(NEWTON_SCHULZ_STEPS - 1):
        grams = polynomial @ (polynomial @ grams)
        polynomial = _polynomial(grams)
        product = polynomial @ product
    return product


def _polynomial(grams: Tensor) -> Tensor:
    """Return a·I + b·G + c·G² of (b, m, m) Gram matrices G."""
    a, b, c = NEWTON_SCHULZ
    polynomial = torch.baddbmm(grams, grams, grams, beta=b, alpha=c)
    polynomial.diagonal(dim1=1, dim2=2).add_(a)
    return polynomial


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

    Weights of convolutions and linear layers form one group; biases and the scales and shifts of norms form another, with
    another learning rate and weight decay. A group's `rate` is its learning rate as a multiple of the recipe's. Muon gives
    biases, norms and the last layer plain SGD steps.
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
    """Set the learning rate of every group to `rate` times the group's multiple."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate"]
