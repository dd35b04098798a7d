"""The layers of networks that PyTorch does not have, or not in this form."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jointnas.errors import DataError
from jointnas.network.operations.packing import Packing

WHITENING_EPSILON = 1e-2
RANGE_RATE = 0.1  # at which the range of 8-bit inputs follows that of a batch
HIGHEST = 255  # code of an 8-bit input


def is_traced() -> bool:
    """Return whether a network's operations are recorded, as for an export."""
    return bool(torch.compiler.is_compiling() or torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]


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


class EightBits(nn.Module):
    """Values in 256 steps of a range that holds zero: it follows the batches in training, and is fixed afterwards.

    Gradients pass where values are in the range. rate: at which it follows that of a batch.
    """

    range: Tensor
    rate = RANGE_RATE

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("range", torch.zeros(2))  # the lowest and the highest value

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape and type."""
        if self.training:
            self._follow(x.detach())
        scale, zero = self.steps()
        if is_traced():
            codes = torch.clamp(torch.round(x.float() / scale + zero), 0, HIGHEST)
            return ((codes - zero) * scale).to(x.dtype)
        return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, 0, HIGHEST).to(x.dtype)

    def steps(self) -> tuple[Tensor, Tensor]:
        """Return the size of a step, and the code of zero."""
        low, high = self.range.unbind()
        scale = ((high - low) / HIGHEST).clamp_min(torch.finfo(torch.float32).tiny)
        return scale, torch.round(-low / scale).clamp(0, HIGHEST).to(torch.int32)

    def _follow(self, x: Tensor) -> None:
        low, high = x.amin().float().clamp_max(0), x.amax().float().clamp_min(0)
        seen, is_new = torch.stack([low, high]), (self.range == 0).all()  # no transfer from a GPU
        self.range.copy_(torch.where(is_new, seen, torch.lerp(self.range, seen, self.rate)))


def prepare_packing(layer: nn.Conv2d | nn.Linear, packing: Packing | None) -> EightBits | None:
    """Give a layer of few bits a buffer for its scales; return what its inputs pass through, None for nothing."""
    if packing is not None:
        layer.register_buffer("weight_scale", torch.ones(packing.scale_count(len(layer.weight))))
    return EightBits() if packing is not None and packing.activation_bits else None


class Conv(nn.Conv2d):
    """A convolution that takes stride 1 along a side where a single window fits, which changes no output.

    PyTorch's bfloat16 gradient of a strided convolution of images one pixel wide is uninitialised memory where only padding
    is met (seen in 2.15 on a CPU with AVX-512 BF16); with stride 1 it is zero, as it should be.
    packing: of weights of few bits; then `weight_scale` holds the scales of their levels.
    """

    weight_scale: Tensor

    def __init__(
        self, read: int, channels: int, kernel: int, *, packing: Packing | None = None, **settings: Any
    ) -> None:
        super().__init__(read, channels, kernel, **settings)
        self.packing = packing
        self.inputs = prepare_packing(self, packing)

    def reset_parameters(self) -> None:
        """Draw nothing: `build` draws the weights, and loading replaces them."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, channels, H, W)."""
        x = x if self.inputs is None else self.inputs(x)
        sides = zip(x.shape[-2:], self.stride, self.kernel_size, (self.padding[0], self.padding[1]), strict=True)
        stride = tuple(1 if side + 2 * int(pad) == kernel else step for side, step, kernel, pad in sides)
        return F.conv2d(x, self.weight, self.bias, stride, self.padding, self.dilation, self.groups)


class Linear(nn.Linear):
    """A linear layer that in training drops out its inputs with probability `dropout`. packing: as of `Conv`."""

    dropout = 0.0
    weight_scale: Tensor

    def __init__(self, read: int, features: int, *, packing: Packing | None = None, bias: bool = True) -> None:
        super().__init__(read, features, bias)
        self.packing = packing
        self.inputs = prepare_packing(self, packing)

    def reset_parameters(self) -> None:
        """Draw nothing, as `Conv`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, features)."""
        x = x if self.inputs is None else self.inputs(x)
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
"""Values that are computed at a time, so that the float32 values in between stay in the cache."""


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
        if is_traced() or x.device.type != "cpu":
            return F.celu(x, self.alpha)
        y: Tensor = _CELU.apply(x, self.alpha)
        return y


class Whiten(nn.Module):
    """A fixed convolution that whitens k×k patches; its filter (a buffer) comes from training patches.

    Until `fit` is called it passes the patches through unchanged. See Page 2018, "How to train your ResNet".
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
                f"whitening needs at least {features} training patches, got {count}: add images or set whitening = false"
            )
        covariance = torch.bmm(patches, patches.transpose(1, 2)).sum(0).cpu().double() / count
        values, vectors = torch.linalg.eigh(covariance)
        rows = (vectors / (values.clamp_min(0) + WHITENING_EPSILON).sqrt()).T.flip(0)  # largest variance first
        self.weight.copy_(rows.reshape(self.weight.shape))


class Resize(nn.Module):
    """Bilinear resizing with antialiasing, so that shrinking loses no detail to aliasing.

    In training it may resize to another size, `training_size`.
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


class Concat(nn.Module):
    """Its inputs' channels in a row."""

    def forward(self, *images: Tensor) -> Tensor:
        """Return (n, sum of channels, H, W)."""
        return torch.cat(images, dim=1)


class Multiply(nn.Module):
    """An image times a value per channel, or times another image."""

    def forward(self, image: Tensor, factors: Tensor) -> Tensor:
        """Return (n, C, H, W)."""
        return image * factors
