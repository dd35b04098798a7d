"""Averages of a network's weights: a moving average, lookahead's slow weights, and batch norm's re-estimated statistics."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from jointnas.network.module import Network


class MovingAverage:
    """An exponential moving average of parameters and running statistics, with a smaller decay in the first steps.

    `torch.optim.swa_utils.AveragedModel` has one decay for all steps.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.network, self.decay = copy.deepcopy(network), decay
        floats = [t.is_floating_point() for t in network.state_dict().values()]
        self.target = [t for t, real in zip(self.network.state_dict().values(), floats, strict=True) if real]
        self.source = [t for t, real in zip(network.state_dict().values(), floats, strict=True) if real]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the network's current weights. step: the number of steps taken, from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.target, self.source, 1 - decay)


class Lookahead:
    """Lookahead (Zhang et al. 2019): every `every` steps, slow weights move by `rate` to the trained ones and replace them."""

    def __init__(self, network: nn.Module, every: int, rate: float) -> None:
        self.every, self.rate = every, rate
        self.fast: list[Tensor] = list(network.parameters())
        self.slow = [p.detach().clone() for p in self.fast]

    def update(self, step: int) -> None:
        """Synchronise after every `every`-th step."""
        if step % self.every == 0:
            self.synchronise()

    def synchronise(self) -> None:
        """Move the slow weights `rate` of the way to the trained ones, and reset the trained ones to them."""
        self.interpolate()
        torch._foreach_copy_(self.slow, self.fast)

    @torch.no_grad()
    def interpolate(self) -> None:
        """Set the trained weights to what `synchronise` would give, without moving the slow ones."""
        torch._foreach_copy_(self.fast, torch._foreach_lerp(self.slow, self.fast, self.rate))


@torch.no_grad()
def reestimate_norms(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set batch norm's running statistics to their means over batches (n, C, H, W) of one size at the current weights.

    `torch.optim.swa_utils.update_bn` would also switch on dropout and stochastic depth.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean over the batches
        norm.train()
    for images in batches:
        network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
