"""Training of weights of few bits by ProxConnect and its relatives (Dockhorn et al. 2021, "Demystifying and Generalizing BinaryConnect").

A layer has continuous weights w* and quantised ones w = P(w*). A step of the optimizer starts from one of the two and takes the gradient at
one of the two:

| quantiser | starts from | gradient at | P |
|---|---|---|---|
| binaryconnect | w* | w | the projection on the levels |
| proxconnect | w* | w | the proximal map, which grows to the projection |
| proxquant | w | w | the growth of that map since the last step |
| reverse-proxconnect | w | w* | likewise |

Where every step starts from w, the maps of all steps add up. So a step applies only what the map has grown by since the last step: inside the
range of fixed levels, and where one of ρ and ϱ is 0, the maps of all steps without gradients are together that of proxconnect. Outside of the
range weights move to the last level at the same pace; were they set on it at once, scales that follow the weights would shrink with every
step. The paper scales the map by the learning rate instead. This form is ours: ρ and ϱ mean the same for all methods.

The optimizer is the recipe's. Averages of weights are those of w*. What is scored is projected, so its weights are on their levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jointnas.network.layers import Conv, Linear
from jointnas.network.levels import Levels
from jointnas.network.module import Network, layers_of_few_bits
from jointnas.training.recipe import START, Recipe

STARTS_FROM_CONTINUOUS = ("binaryconnect", "proxconnect")
GRADIENT_AT_CONTINUOUS = ("reverse-proxconnect",)


class ProxConnect:
    """The quantiser of a training: from `start` on the network has, between two steps, the weights at which the next gradient is taken.

    Before, copies of the network may be made for averages, with continuous weights and the first scales.
    """

    def __init__(self, network: Network, recipe: Recipe) -> None:
        self.recipe = recipe
        self.layers = _quantised_layers(network)
        self.weights: list[Tensor] = [layer.weight for layer, _ in self.layers]
        self.continuous = [w.detach().clone() for w in self.weights]
        for layer, levels in self.layers:
            first = levels.first_scales(layer.weight.detach())
            layer.weight_scale.copy_(levels.fitted_scales(layer.weight.detach(), first))
        self.fraction = 0.0
        self.quantised = self._mapped(0.0)

    def start(self) -> None:
        """Set the weights at which the first gradient is taken."""
        self._load(self._of_gradient)

    def prepare_step(self) -> None:
        """Set the weights that the optimizer's step starts from; their gradients stay."""
        self._load(self.continuous if self.recipe.quantiser in STARTS_FROM_CONTINUOUS else self.quantised)

    def finish_step(self, fraction: float) -> None:
        """Take the network's weights as the continuous ones, and set those at which the next gradient is taken.

        fraction: of the budget that is used.
        """
        with torch.no_grad():
            torch._foreach_copy_(self.continuous, self.weights)
        if self.recipe.scales_from != START:
            for layer, levels in self.layers:
                layer.weight_scale.copy_(levels.fitted_scales(layer.weight.detach(), layer.weight_scale))
        self.quantised = self._mapped(fraction)
        self.fraction = fraction
        self._load(self._of_gradient)

    def restore_continuous(self) -> None:
        """Set the network's weights to the continuous ones, which averages are made of."""
        self._load(self.continuous)

    def project(self, network: Network) -> None:
        """Project the continuous weights of this network or of a copy on their levels."""
        with torch.no_grad():
            for layer, levels in _quantised_layers(network):
                if self.recipe.scales_from != START:
                    layer.weight_scale.copy_(levels.fitted_scales(layer.weight, layer.weight_scale))
                layer.weight.copy_(levels.projected(layer.weight, layer.weight_scale))

    @property
    def _of_gradient(self) -> Sequence[Tensor]:
        return self.continuous if self.recipe.quantiser in GRADIENT_AT_CONTINUOUS else self.quantised

    def _load(self, values: Sequence[Tensor]) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self.weights, list(values))

    def _mapped(self, fraction: float) -> list[Tensor]:
        rho, varrho = strength(self.recipe, fraction, self.fraction)
        clip = self.recipe.quantiser in STARTS_FROM_CONTINUOUS
        return [
            levels.proximal(w, layer.weight_scale, rho, varrho, clip)
            for w, (layer, levels) in zip(self.continuous, self.layers, strict=True)
        ]


def strength(recipe: Recipe, fraction: float, before: float) -> tuple[float, float]:
    """Return ρ and ϱ of a step's proximal map in half distances of levels; 1 is the projection.

    fraction, before: of the budget, after this step and after the one before it.
    """
    if recipe.quantiser == "binaryconnect":
        return 1.0, 1.0
    now, then = (min(1.0, f / recipe.prox_until) for f in (fraction, before))
    rho, varrho = (_step(end * now, end * then, recipe.quantiser) for end in (recipe.prox_rho, recipe.prox_varrho))
    return rho, varrho


def _step(now: float, then: float, quantiser: str) -> float:
    """Return the value of one step where it has grown from `then` to `now`."""
    if quantiser in STARTS_FROM_CONTINUOUS or now >= 1:
        return now
    return 1 - (1 - now) / (1 - then)


def _quantised_layers(network: nn.Module) -> list[tuple[Conv | Linear, Levels]]:
    layers = [layer for _, layer in layers_of_few_bits(network)]
    return [(layer, Levels(layer.packing, layer.weight.device)) for layer in layers if layer.packing is not None]
