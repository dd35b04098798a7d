"""Gradient rules of a training step: plain, sharpness-aware (SAM) and two-task (MLTP).

A rule leaves the gradient in `p.grad` and returns the loss. It restores weights that it moves for a second pass exactly, and
batch norm's running statistics and the ranges of 8-bit inputs are updated in the first pass alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from jointnas.network.layers import EightBits
from jointnas.training.recipe import Recipe

Loss = Callable[[slice], Tensor]
"""The mean loss of a slice of the batch at the current weights."""


class GradientRule:
    """The plain gradient, and the base of the other rules."""

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        self.recipe = recipe
        self.parameters: list[Tensor] = list(network.parameters())
        self.norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        self.ranges = [m for m in network.modules() if isinstance(m, EightBits)]

    def __call__(self, loss: Loss, batch_size: int, step: int, rate: float) -> Tensor:
        """Leave the gradient of the batch's loss in the parameters; return the loss.

        step: the number of steps before this one. rate: the current learning rate on SGD's scale.
        """
        return self.backward(loss, slice(batch_size))

    def backward(self, loss: Loss, part: slice) -> Tensor:
        """Add the gradient of a part's loss to the parameters' gradients and return the loss."""
        value = loss(part)
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach()

    @contextmanager
    def moved(self, directions: list[Tensor], scale: Tensor) -> Iterator[None]:
        """Add `scale · directions` to the parameters for a second pass, then restore them."""
        original = [p.detach().clone() for p in self.parameters]
        momenta = [norm.momentum for norm in self.norms]
        rates = [own.rate for own in self.ranges]
        for norm in self.norms:
            norm.momentum = 0.0
        for own in self.ranges:
            own.rate = 0.0
        with torch.no_grad():
            torch._foreach_add_(self.parameters, torch._foreach_mul(directions, scale))
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, original)
            for norm, momentum in zip(self.norms, momenta, strict=True):
                norm.momentum = momentum
            for own, rate in zip(self.ranges, rates, strict=True):
                own.rate = rate

    def gradients(self) -> list[Tensor]:
        """Return the parameters' gradients, zeros for a parameter that the loss does not depend on."""
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]


class SharpnessAware(GradientRule):
    """SAM (Foret et al. 2021): the gradient at w + ρ·g/‖g‖₂, where g is the batch's gradient at w, its norm over all weights.

    With `sam_every` = k, only every k-th step takes the second pass; the others are plain.
    """

    def __call__(self, loss: Loss, batch_size: int, step: int, rate: float) -> Tensor:
        """Leave the gradient at the perturbed weights; return the loss at the unperturbed ones."""
        value = self.backward(loss, slice(batch_size))
        if step % self.recipe.sam_every == 0:
            gradients = self.gradients()
            norm = torch.stack(torch._foreach_norm(gradients)).norm()
            for p in self.parameters:
                p.grad = None
            with self.moved(gradients, self.recipe.sam_rho / (norm + 1e-12)):
                self.backward(loss, slice(batch_size))
        return value


class TwoTasks(GradientRule):
    """MLTP: two-task meta-learning, which rewards steps for one task that also help the other.

    Each task has half of the training images of each class; the first half of a batch is of task A, the second of task B. With
    g_A the gradient of A's loss, the step follows (g_A(w) + g_B(w − α·g_A(w))) / 2, where α is `mltp_rate` times the current
    learning rate; the tasks swap roles in every step. To first order the direction is g_A + g_B − α H_B g_A: both roles
    together descend L_A + L_B − α ⟨g_A, g_B⟩, as MLDG does (Li et al. 2018). The winners of HAET 2021 describe such a two-task
    procedure without its update rule; this rule is ours. A step costs about as much as a plain one, as each pass takes half
    a batch.
    """

    def __call__(self, loss: Loss, batch_size: int, step: int, rate: float) -> Tensor:
        """Leave the mean of both tasks' gradients, the second one taken after an inner step for the first; return the mean loss."""
        middle = batch_size - batch_size // 2
        tasks = [slice(middle), slice(middle, batch_size)]
        first, second = tasks if step % 2 == 0 else reversed(tasks)
        value = self.backward(loss, first)
        inner = [g.clone() for g in self.gradients()]
        with self.moved(inner, torch.tensor(-rate * self.recipe.mltp_rate, device=inner[0].device)):
            value = (value + self.backward(loss, second)) / 2
        torch._foreach_mul_(self.gradients(), 0.5)
        return value


_RULES = {"plain": GradientRule, "sam": SharpnessAware, "mltp": TwoTasks}


def make_gradient_rule(network: nn.Module, recipe: Recipe) -> GradientRule:
    """Return the recipe's gradient rule."""
    return _RULES[recipe.gradient](network, recipe)


@torch.no_grad()
def centralise(parameters: Sequence[Tensor]) -> None:
    """Subtract from each weight's gradient its mean over all dimensions but the output one (Yong et al. 2020)."""
    for p in parameters:
        if p.grad is not None and p.ndim >= 2 and p[0].numel() > 1:
            p.grad.sub_(p.grad.mean(dim=tuple(range(1, p.ndim)), keepdim=True))
