"""The `nn.Module` of a blueprint: built node by node, initialised from a generator that is passed in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from jointnas.network import layers
from jointnas.network.blueprint import Block, Blueprint, block_shapes
from jointnas.network.layers import Add, BatchNorm, Conv, Linear, Resize, Whiten
from jointnas.network.operations import OPERATIONS
from jointnas.network.operations.operation import Shape

OF_FEW_BITS = (".weight_scale", ".inputs.range")  # what the names of tensors end with that only layers of few bits have


class BlockModule(nn.Module):
    """One block: its nodes in order."""

    def __init__(self, block: Block, inputs: tuple[Shape, ...]) -> None:
        super().__init__()
        shapes = block_shapes(block, inputs)
        self.nodes = nn.ModuleList(OPERATIONS[n.operation].layer(layers, n, shapes[n.inputs[0]]) for n in block.nodes)
        self.reads = [n.inputs for n in block.nodes]

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the output of the last node."""
        values = list(inputs)
        for module, reads in zip(self.nodes, self.reads, strict=True):
            values.append(module(*[values[i] for i in reads]))
        return values[-1]


class Network(nn.Module):
    """A blueprint as a trainable module: (n, C, H, W) normalised images in, (n, classes) logits out."""

    def __init__(self, blueprint: Blueprint) -> None:
        super().__init__()
        self.blueprint = blueprint
        shapes = blueprint.shapes()
        self.blocks = nn.ModuleList(
            BlockModule(block, tuple(shapes[i] for i in inputs))
            for block, inputs in zip(blueprint.blocks, blueprint.wiring, strict=True)
        )
        first = self._stem[0]
        has_resize = isinstance(first, Resize)
        self.resize: Resize = first if isinstance(first, Resize) else Resize(*blueprint.input_shape[1:])
        self.entry = (
            nn.Identity() if has_resize else self.resize
        )  # a resize in the blueprint runs as part of the first block

    @property
    def _stem(self) -> nn.ModuleList:
        """The first block's nodes."""
        first = self.blocks[0]
        assert isinstance(first, BlockModule)
        return first.nodes

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        values: list[Tensor] = [self.entry(images)]
        for block, inputs in zip(self.blocks, self.blueprint.wiring, strict=True):
            values.append(block(*[values[i] for i in inputs]))
        return values[-1]

    @torch.no_grad()
    def fit_whitening(self, images: Tensor) -> None:
        """Set the whitening filter that reads the image, resized or not, from `images`, (n, C, H, W) normalised.

        Raises `DataError` when they hold fewer patches than a patch has values.
        """
        for module in self._stem:
            if isinstance(module, Whiten):
                module.fit(self.resize(images))
            if not isinstance(module, Resize):
                return

    def regularise(self, dropout: float, stochastic_depth: float, ghost_batch: int) -> None:
        """Set the regularisation that acts in training alone.

        dropout: before the last linear layer. stochastic_depth: probability that an image skips the last of L residual
        branches; the i-th is skipped with i/L of it. ghost_batch: the images that batch norm sees at once.
        """
        modules = list(self.modules())
        linear = [m for m in modules if isinstance(m, Linear)]
        for last in linear[-1:]:
            last.dropout = dropout
        sums = [m for m in modules if isinstance(m, Add)]
        for i, add in enumerate(sums, 1):
            add.drop = stochastic_depth * i / len(sums)
        for m in modules:
            if isinstance(m, BatchNorm):
                m.ghost = ghost_batch


def build(blueprint: Blueprint, generator: torch.Generator | None = None, dirac: bool = False) -> Network:
    """Return the network of a blueprint with fresh weights.

    Convolutions and linear layers start as He et al. 2015 with fan-in, biases at 0. With `dirac` the first filters of each
    spatial convolution pass their input channels on, one each, and only the rest are random. Raises `BlueprintError`.
    """
    network = Network(blueprint)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if dirac and isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1 and module.groups == 1:
            nn.init.dirac_(module.weight.data[: module.in_channels])
    return network


def layers_of_few_bits(network: nn.Module) -> Iterator[tuple[str, Conv | Linear]]:
    """Yield the layers whose weights have few bits, with their names."""
    for name, module in network.named_modules():
        if isinstance(module, Conv | Linear) and module.packing is not None:
            yield name, module


def with_weights(blueprint: Blueprint, state: Mapping[str, Tensor]) -> Network:
    """Return the network of a blueprint with the tensors of another one of the same shape, which may have other bits.

    Raises `RuntimeError` for tensors of another network.
    """
    network = Network(blueprint)
    fresh = {name: tensor for name, tensor in network.state_dict().items() if name.endswith(OF_FEW_BITS)}
    taken = {name: tensor for name, tensor in state.items() if name in fresh or not name.endswith(OF_FEW_BITS)}
    network.load_state_dict({**fresh, **taken})
    return network
