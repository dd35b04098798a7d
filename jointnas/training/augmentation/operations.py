"""The image operations of augmentation policies, each on a whole batch with one magnitude per image.

An operation takes images (m, H, W, C) uint8 and magnitudes (m,) float32 on the same device and returns (m, H, W, C) uint8. It
does not change its input, and may return it. Magnitudes and results are those of `torchvision.transforms.v2.functional`:
invert, posterize, solarize, autocontrast, equalize and brightness are equal bit for bit; contrast, color and sharpness differ
by one level at most, from rounding; geometric operations (nearest neighbour, zeros outside) differ only in pixels whose source
lies half-way between two. C ≥ 1: grey is the luma of three channels, the mean of any other number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

Operation = Callable[[Tensor, Tensor], Tensor]
PlacedOperation = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""An operation at random places: (m, 2) numbers in [0, 1), and the (n, H, W, C) images of the whole batch, are given too."""

GREY = 128
LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in grey, ITU-R BT.601 as torchvision rounds it."""


def identity(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Return the images."""
    return images


# ---- geometry


def shear_x(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Shift each row left by the magnitude times its distance from the top (negative: right)."""
    height = images.shape[1]
    y = torch.arange(height, device=images.device) + 0.5
    shifts = (magnitudes[:, None] * y).round_()  # (m, H)
    return _shift(images.flatten(0, 1), shifts.flatten()).view_as(images)


def shear_y(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Shift each column up by the magnitude times its distance from the left (negative: down)."""
    height, width = images.shape[1:3]
    x, y = torch.arange(width, device=images.device), torch.arange(height, device=images.device)
    shifts = (magnitudes[:, None, None] * (x + 0.5)).round_()  # (m, 1, W)
    return _read(images, shifts + y[:, None], x.float())


def translate_x(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Shift each image right by whole pixels (negative: left); fractions are dropped."""
    shifts = -magnitudes.trunc()
    return _shift(images.flatten(0, 1), shifts.repeat_interleave(images.shape[1])).view_as(images)


def translate_y(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Shift each image down by whole pixels (negative: up); fractions are dropped."""
    return _shift(images.flatten(2), -magnitudes.trunc()).view_as(images)


def rotate(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Rotate each image counter-clockwise about its centre, in degrees."""
    height, width = images.shape[1:3]
    radians = magnitudes.cpu().double().deg2rad().view(-1, 1, 1)  # as not every GPU has double precision
    cos, sin = (own.float().to(images.device) for own in (radians.cos(), radians.sin()))
    mid_x, mid_y = (width - 1) / 2, (height - 1) / 2
    x = torch.arange(width, device=images.device) - mid_x
    y = (torch.arange(height, device=images.device) - mid_y)[:, None]
    return _read(images, (sin * x + (cos * y + mid_y)).round_(), (cos * x - (sin * y - mid_x)).round_())


def _read(images: Tensor, from_y: Tensor, from_x: Tensor) -> Tensor:
    """Return out[i, y, x] = images[i, from_y[i, y, x], from_x[i, y, x]], zero outside.

    Positions are floats with whole values: from_y (m, H, W), which is overwritten, and from_x of a shape that broadcasts to it.
    """
    m, height, width, channels = images.shape
    bordered = pad(images, (0, 0, 1, 1, 1, 1)).view(-1, channels)  # one zero all around stands for all outside
    within = from_y.clamp_(-1, height).add_(1).mul_(width + 2).add_(from_x.clamp(-1, width).add_(1))  # exact below 2²⁴
    first = torch.arange(m, device=images.device, dtype=torch.int32) * ((height + 2) * (width + 2))
    return bordered.index_select(0, (within.int() + first.view(m, 1, 1)).view(-1)).view_as(images)


def _shift(lines: Tensor, shifts: Tensor) -> Tensor:
    """Return out[i, k] = lines[i, k + shifts[i]] for lines (n, L, bytes) and whole shifts (n,), zero outside.

    The lines form one strip, padded with L zeros before, between and after them; each result is a window of this strip.
    """
    n, length, size = lines.shape
    strip = lines.new_zeros(2 * n + 1, length, size)
    strip[1::2] = lines
    windows = strip.as_strided((2 * n * length + 1, length * size), (size, 1))
    first = torch.arange(1, 2 * n, 2, device=lines.device) * length
    return windows.index_select(0, first + shifts.clamp(-length, length).long())


# ---- levels of single pixels


def invert(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Return 255 − value."""
    return images.bitwise_not()


def posterize(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Keep the `magnitude` highest bits of each value (0…8)."""
    dropped = 8 - magnitudes.int()
    masks = (torch.full_like(dropped, 255) << dropped).to(torch.uint8)
    return images & masks.view(-1, 1, 1, 1)


def solarize(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Invert values ≥ magnitude (0…255)."""
    thresholds = magnitudes.ceil().to(torch.uint8).view(-1, 1, 1, 1)
    reached = images.maximum(thresholds) == images  # ≥ between different shapes of bytes is ten times slower
    return images ^ reached.view(torch.uint8).neg_()


def brightness(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Return (1 + magnitude) · value."""
    return _bytes(images.float().mul_((1 + magnitudes).view(-1, 1, 1, 1)))


# ---- levels that depend on other pixels


def autocontrast(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Stretch each channel to 0…255, unless it has one level."""
    m, _, width, channels = images.shape
    rows = images.float().flatten(2)  # (m, H, W·C)
    low = rows.amin(1).view(m, width, channels).amin(1, keepdim=True)  # (m, 1, C)
    high = rows.amax(1).view(m, width, channels).amax(1, keepdim=True)
    flat = low == high
    scale = (high - low).mul_(1 / 255).masked_fill_(flat, 1)
    low.masked_fill_(flat, 0)
    return _bytes(rows.sub_(low.repeat(1, 1, width)).div_(scale.repeat(1, 1, width))).view_as(images)


def equalize(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Equalise each channel's histogram as PIL does, unless fewer than 255 pixels are below its brightest level."""
    m, height, width, channels = images.shape
    offsets = torch.arange(m * channels, dtype=torch.int32, device=images.device).view(m, 1, channels) * 256
    indices = (images.flatten(2).int() + offsets.repeat(1, 1, width)).view(-1)  # into tables (m, C, 256)
    counts = torch.bincount(indices, minlength=m * channels * 256).view(-1, 256).int()
    up_to = counts.cumsum(1, dtype=torch.int32)  # pixels at a level or below
    below_brightest = (up_to * (up_to < height * width)).amax(1, keepdim=True)
    step = below_brightest // 255  # (m·C, 1)
    table = (up_to - counts).add_(step // 2).float().div_(step.clamp(min=1))  # quotients exact below 2²⁴ pixels
    levels = torch.arange(256, dtype=torch.float32, device=images.device)
    table = _bytes(torch.where(step == 0, levels, table))
    return table.view(-1).index_select(0, indices).view_as(images)


def contrast(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Return (1 + magnitude) · value − magnitude · mean grey of the image."""
    values = images.float().flatten(1)
    mean = _grey(images).flatten(1).mean(1)
    return _bytes(
        values.mul_((1 + magnitudes)[:, None]).addcmul_(mean[:, None], magnitudes[:, None], value=-1)
    ).view_as(images)


def color(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Return (1 + magnitude) · value − magnitude · grey of the pixel; one channel stays as it is."""
    if images.shape[3] == 1:
        return images
    share = magnitudes.view(-1, 1, 1, 1)
    return _bytes(images.float().mul_(1 + share).addcmul_(_grey(images), share, value=-1))


def sharpness(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Return value + magnitude · (value − blurred); the outermost pixels keep their values.

    Blurred is the rounded mean of the 3 × 3 neighbourhood, the middle pixel counted five times.
    """
    if min(images.shape[1:3]) <= 2:
        return images
    values = images.short()  # sums are below 2¹²
    sums = values[:, :-2] + values[:, 1:-1] + values[:, 2:]
    sums = sums[:, :, :-2] + sums[:, :, 1:-1] + sums[:, :, 2:]
    middle = values[:, 1:-1, 1:-1]
    blurred = sums.add_(middle, alpha=4).float().mul_(1 / 13).round_()
    inside = middle.float()
    sharpened = images.clone()
    sharpened[:, 1:-1, 1:-1] = _bytes(inside.addcmul(inside - blurred, magnitudes.view(-1, 1, 1, 1)))
    return sharpened


# ---- at a random place, or with a random other image


def cutout(images: Tensor, magnitudes: Tensor, places: Tensor, batch: Tensor) -> Tensor:
    """Set a square of `magnitude` pixels, rounded, to grey; its centre is a random pixel, so part of it may lie outside."""
    height, width = images.shape[1:3]
    size = magnitudes.round()
    inside = []
    for side, place in ((height, places[:, 0]), (width, places[:, 1])):
        centre = (place * side).floor() + size % 2 / 2  # of an odd square in a pixel, of an even one between two
        distance = torch.arange(side, device=images.device) + 0.5 - centre[:, None]
        inside.append(distance.abs() < size[:, None] / 2)  # (m, side)
    erased = inside[0][:, :, None] & inside[1][:, None, :]
    return images.masked_fill(erased[..., None], GREY)


def sample_pairing(images: Tensor, magnitudes: Tensor, places: Tensor, batch: Tensor) -> Tensor:
    """Return (1 − magnitude) · value + magnitude · value of a random image of the batch; the label stays (Inoue 2018)."""
    others = batch.index_select(0, (places[:, 0] * len(batch)).long())
    return _bytes(torch.lerp(images.float(), others.float(), magnitudes.view(-1, 1, 1, 1)))


def _grey(images: Tensor) -> Tensor:
    """Return (m, H, W, 1) float: the grey of each pixel, rounded down."""
    values = images.float()
    if images.shape[3] == 3:
        red, green, blue = (values[..., c : c + 1] for c in range(3))
        return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2]).floor_()
    return values if images.shape[3] == 1 else values.mean(3, keepdim=True).floor_()


def _bytes(values: Tensor) -> Tensor:
    """Return float values, which are overwritten, as uint8: clamped to 0…255 and rounded down."""
    return values.clamp_(0, 255).short().to(torch.uint8)  # via short: torch converts float to uint8 slowly


OPERATIONS: Mapping[str, Operation] = {
    operation.__name__: operation
    for operation in (
        identity, shear_x, shear_y, translate_x, translate_y, rotate, brightness, color, contrast, sharpness,
        posterize, solarize, autocontrast, equalize, invert,
    )
}  # fmt: skip
"""Every operation by name, without those at random places."""

PLACED: Mapping[str, PlacedOperation] = {operation.__name__: operation for operation in (cutout, sample_pairing)}
"""Operations at random places, by name."""
