"""The `nn.Module` of a blueprint: built node by node, initialised from a generator that is passed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import skip_init

from jointnas.errors import DataError, ExportError
from jointnas.network import library_networks
from jointnas.network.blueprint import Block, Blueprint, Node, Shape, block_shapes

WHITENING_EPSILON = 1e-2


class BatchNorm(nn.BatchNorm2d):
    """Batch norm whose scale γ may stay at 1, and which in training may see `ghost` images at a time (Hoffer et al. 2017).

    Each ghost batch is normalised by its own statistics, and the running ones follow one after the other.
    """

    def __init__(self, channels: int, scale: bool) -> None:
        super().__init__(channels)
        self.ghost = 0
        if not scale:
            self.register_parameter("weight", None)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, C, H, W) normalised."""
        if self.training and 0 < self.ghost < len(x):
            return torch.cat([self._normalised(part) for part in torch.split(x, self.ghost)])
        return self._normalised(x)

    def _normalised(self, x: Tensor) -> Tensor:
        """Return one batch normalised; a single value a channel has no statistics and takes the running ones."""
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class Conv(nn.Conv2d):
    """A convolution that takes stride 1 along a side where a single window fits, which changes no output.

    PyTorch's bfloat16 gradient of a strided convolution of images one pixel wide is uninitialised memory where only padding
    is met (seen in 2.15 on a CPU with AVX-512 BF16); with stride 1 it is zero, as it should be.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, channels, H, W)."""
        sides = zip(x.shape[-2:], self.stride, self.kernel_size, (self.padding[0], self.padding[1]), strict=True)
        stride = tuple(1 if side + 2 * int(pad) == kernel else step for side, step, kernel, pad in sides)
        return F.conv2d(x, self.weight, self.bias, stride, self.padding, self.dilation, self.groups)


class Linear(nn.Linear):
    """A linear layer that in training drops out its inputs with probability `dropout`."""

    dropout = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, features)."""
        return super().forward(F.dropout(x, self.dropout, self.training))


class Add(nn.Module):
    """A sum whose first input is a shortcut; in training the others are left out of an image with probability `drop`."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = 0.0

    def forward(self, shortcut: Tensor, *branches: Tensor) -> Tensor:
        """Return the sum."""
        for branch in branches:
            if self.training and self.drop:  # stochastic depth: of some images the whole branch
                branch = branch * F.dropout(branch.new_ones(len(branch), *[1] * (branch.dim() - 1)), self.drop)
            shortcut = shortcut + branch
        return shortcut


class Blend(nn.Module):
    """A convex combination of two values with a trained weight λ, which starts at 1: the first value alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return λ·first + (1 − λ)·second."""
        return torch.lerp(second, first, self.weight.to(first.dtype))


CELU_PART = 2**19
"""Values that are computed at a time, so that what lies between them in float32 stays in the cache."""


class _CELU(torch.autograd.Function):
    """CELU on a CPU by ELU's derivative, which PyTorch computes many times as fast as ELU: its `exp` is vectorised.

    CELU(x) = max(x, α CELU'(x) − α), where CELU'(x) = exp(min(x, 0) / α). Its absolute error is a few roundings of α in
    float32, in which lower precisions are computed too. The gradient reads the output, which the next layer keeps anyway.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: float) -> Tensor:
        y = torch.empty_like(x)
        rows = max(1, CELU_PART * len(x) // max(1, x.numel()))
        for part, result in zip(torch.split(x, rows), torch.split(y, rows), strict=True):
            wide = part if part.dtype == torch.float64 else part.float()
            ones = wide.new_ones(()).expand_as(wide)
            slope = torch.ops.aten.elu_backward(ones, alpha, alpha, 1 / alpha, False, wide)  # α CELU'(x)
            result.copy_(torch.maximum(wide, slope.sub_(alpha), out=slope))
        ctx.save_for_backward(y)
        ctx.alpha = alpha
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.elu_backward(gradients[0], ctx.alpha, 1.0, 1 / ctx.alpha, True, y), None


class CELU(nn.Module):
    """max(0, x) + min(0, α (exp(x / α) − 1)) (Barron 2017): fast on the CPU, PyTorch's own elsewhere and where it is traced."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape."""
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        if traced or x.device.type != "cpu":
            return F.celu(x, self.alpha)
        y: Tensor = _CELU.apply(x, self.alpha)
        return y


class Whiten(nn.Module):
    """A fixed convolution that whitens k×k patches; its filter (a buffer) comes from training patches.

    Until `fit` is called it passes the patches through unchanged. Source: the ResNet-9 team's report, HAET 2021, §2.4.4.
    """

    weight: Tensor

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        features = channels * kernel**2
        self.kernel = kernel
        self.register_buffer("weight", torch.eye(features).reshape(features, channels, kernel, kernel))

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, C·k², H, W) from (n, C, H, W)."""
        return F.conv2d(x, self.weight, padding=self.kernel // 2)

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Set the filter to V / √(Λ + ε), the eigenvectors and eigenvalues of the patches' covariance.

        images: (n, C, H, W), at the resolution this layer sees. Patches are taken inside the image,
        unless it is smaller than one. Raises `DataError` for fewer patches than a patch has values.
        """
        padding = 0 if min(images.shape[-2:]) >= self.kernel else self.kernel // 2
        patches = F.unfold(images.float(), self.kernel, padding=padding)  # (n, C·k², positions)
        patches = patches - patches.mean(dim=(0, 2), keepdim=True)
        count, features = patches.shape[0] * patches.shape[2], patches.shape[1]
        if count < features:
            raise DataError(
                f"whitening takes {features} training patches or more, got {count}: add images or set whitening = false"
            )
        covariance = torch.bmm(patches, patches.transpose(1, 2)).sum(0).double() / count
        values, vectors = torch.linalg.eigh(covariance.cpu())
        rows = (vectors / (values.clamp_min(0) + WHITENING_EPSILON).sqrt()).T.flip(0)  # largest variance first
        self.weight.copy_(rows.reshape(self.weight.shape))


class Lambda(nn.Module):
    """An operation without weights."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply the operation."""
        return self.function(*inputs)


class Resize(nn.Module):
    """Bilinear resizing with antialiasing, so that shrinking keeps what the image shows.

    While it trains it may give images of another size, `training_size`.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size = (height, width)
        self.training_size: tuple[int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, C, height, width), and x itself where it has that size."""
        size = self.training_size if self.training and self.training_size else self.size
        return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear", antialias=True)


class Scale(nn.Module):
    """Multiplication by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return `factor · x`."""
        return x * self.factor


def _conv(node: Node, shape: Shape) -> nn.Module:
    conv: nn.Module = skip_init(  # type: ignore[no-untyped-call]
        Conv,
        shape[0],
        node.get("channels"),
        node.get("kernel"),
        stride=node.get("stride"),
        padding=node.get("padding"),
        groups=node.get("groups"),
        bias=node.get("bias"),
    )
    return conv


def _linear(node: Node, shape: Shape) -> nn.Module:
    linear: nn.Module = skip_init(  # type: ignore[no-untyped-call]
        Linear, shape[0], node.get("features"), bias=node.get("bias")
    )
    return linear


MODULES: Mapping[str, Callable[[Node, Shape], nn.Module]] = {
    "conv": _conv,
    "whiten": lambda node, shape: Whiten(shape[0], node.get("kernel")),
    "linear": _linear,
    "batch_norm": lambda node, shape: BatchNorm(shape[0], node.get("scale")),
    "relu": lambda node, shape: nn.ReLU(),
    "celu": lambda node, shape: CELU(node.get("alpha")),
    "gelu": lambda node, shape: nn.GELU(),
    "silu": lambda node, shape: nn.SiLU(),
    "hard_swish": lambda node, shape: nn.Hardswish(),
    "relu6": lambda node, shape: nn.ReLU6(),
    "sigmoid": lambda node, shape: nn.Sigmoid(),
    "hard_sigmoid": lambda node, shape: nn.Hardsigmoid(),
    "max_pool": lambda node, shape: nn.MaxPool2d(node.get("kernel"), node.get("stride"), node.get("padding", 0)),
    "avg_pool": lambda node, shape: nn.AvgPool2d(node.get("kernel"), node.get("stride"), node.get("padding", 0)),
    "global_max_pool": lambda node, shape: nn.AdaptiveMaxPool2d(1),
    "global_avg_pool": lambda node, shape: nn.AdaptiveAvgPool2d(1),
    "flatten": lambda node, shape: nn.Flatten(),
    "resize": lambda node, shape: Resize(node.get("height"), node.get("width")),
    "scale": lambda node, shape: Scale(node.get("factor")),
    "add": lambda node, shape: Add(),
    "blend": lambda node, shape: Blend(),
    "concat": lambda node, shape: Lambda(lambda *values: torch.cat(values, dim=1)),
    "multiply": lambda node, shape: Lambda(torch.mul),
    "shuffle": lambda node, shape: nn.ChannelShuffle(node.get("groups")),
    "opaque": lambda node, shape: library_networks.build(
        node.get("library"), node.get("name"), shape, node.get("features")
    ),
}


class BlockModule(nn.Module):
    """One block: its nodes in order."""

    def __init__(self, block: Block, inputs: tuple[Shape, ...]) -> None:
        super().__init__()
        shapes = block_shapes(block, inputs)
        self.nodes = nn.ModuleList(MODULES[n.operation](n, shapes[n.inputs[0]]) for n in block.nodes)
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
        own = isinstance(first, Resize)
        self.resize: Resize = first if isinstance(first, Resize) else Resize(*blueprint.input_shape[1:])
        self.entry = nn.Identity() if own else self.resize  # a blueprint's own resizing is met in its first block

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
        """Set what acts in training alone.

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


def save_weights(network: Network, path: Path) -> None:
    """Write a network's parameters and statistics as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}, path)


def load_weights(network: Network, path: Path) -> Network:
    """Read what `save_weights` wrote into a network of the same blueprint. Raises `ExportError`; executes nothing."""
    try:
        network.load_state_dict(load_file(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ExportError(
            f"weights fit their blueprint, got {str(path)!r} ({str(error).splitlines()[-1].strip()}): retrain it"
        ) from error
    return network
