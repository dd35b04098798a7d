"""Image operations: each against torchvision's, image by image, and against its own closed form where that is short."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from jointnas.training.augmentation import OPERATIONS

GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
REACH = {"shear_x": 0.99, "shear_y": 0.99, "translate_x": 20, "translate_y": 20, "rotate": 135}
REACH |= dict.fromkeys(("brightness", "color", "contrast", "sharpness"), 0.99)
LEVELS = {"contrast": 1, "color": 1, "sharpness": 1}  # allowed by rounding; the others are equal
SHAPES = [(32, 32, 3), (17, 24, 3), (28, 28, 1), (9, 5, 1), (2, 3, 3), (1, 1, 3), (1, 1, 1)]


def torchvisions(name: str, image: Tensor, magnitude: float) -> Tensor:
    """Return torchvision's result on one (H, W, C) image, called as its policies call it."""
    x = image.permute(2, 0, 1).contiguous()
    slope = math.degrees(math.atan(magnitude))
    calls = {
        "identity": lambda: x,
        "shear_x": lambda: F.affine(x, 0.0, [0, 0], 1.0, [slope, 0.0], center=[0, 0]),
        "shear_y": lambda: F.affine(x, 0.0, [0, 0], 1.0, [0.0, slope], center=[0, 0]),
        "translate_x": lambda: F.affine(x, 0.0, [int(magnitude), 0], 1.0, [0.0, 0.0]),
        "translate_y": lambda: F.affine(x, 0.0, [0, int(magnitude)], 1.0, [0.0, 0.0]),
        "rotate": lambda: F.rotate(x, magnitude),
        "brightness": lambda: F.adjust_brightness(x, 1 + magnitude),
        "color": lambda: F.adjust_saturation(x, 1 + magnitude),
        "contrast": lambda: F.adjust_contrast(x, 1 + magnitude),
        "sharpness": lambda: F.adjust_sharpness(x, 1 + magnitude),
        "posterize": lambda: F.posterize(x, int(magnitude)),
        "solarize": lambda: F.solarize(x, magnitude),
        "autocontrast": lambda: F.autocontrast(x),
        "equalize": lambda: F.equalize(x),
        "invert": lambda: F.invert(x),
    }
    return calls[name]().permute(1, 2, 0)


def pictures(n: int, height: int, width: int, channels: int, seed: int = 0) -> Tensor:
    """Return noise, dim noise, few levels, one level a channel, a gradient, and noise with a level that prevails."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(256, (n, height, width, channels), generator=generator, dtype=torch.uint8)
    gradient = torch.linspace(0, 255, height * width).view(height, width, 1).expand(-1, -1, channels).to(torch.uint8)
    kinds = [
        noise,
        noise // 4 + 90,
        noise // 100 * 70,
        noise[:, :1, :1].expand_as(noise),
        gradient.expand_as(noise),
        noise.where(noise > 200, torch.tensor(7, dtype=torch.uint8)),
    ]
    return torch.stack([kinds[i % len(kinds)][i] for i in range(n)])


def random_magnitudes(name: str, n: int, bins: int | None = None, seed: int = 1) -> Tensor:
    """Return n magnitudes over the operation's range, of either sign where it has one; or of `bins` even steps."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(n, generator=generator)
    if bins:
        share = (share * bins).floor() / (bins - 1)
    if name == "posterize":
        return (share * 8).round()
    if name == "solarize":
        return 255 * share
    sign = 1.0 - 2.0 * torch.randint(2, (n,), generator=generator)
    return REACH.get(name, 0) * share * sign


def half_way(name: str, magnitude: float, height: int, width: int) -> Tensor:
    """Return (H, W): whether the place that a pixel is read from lies half-way between two, but for rounding."""
    y, x = torch.arange(height).double()[:, None] + 0.5, torch.arange(width).double() + 0.5
    from_x, from_y = x.expand(height, -1), y.expand(-1, width)
    if name == "shear_x":
        from_x = x + magnitude * y
    elif name == "shear_y":
        from_y = y + magnitude * x
    elif name == "rotate":
        cos, sin = math.cos(math.radians(magnitude)), math.sin(math.radians(magnitude))
        from_x = cos * (x - width / 2) - sin * (y - height / 2) + width / 2
        from_y = sin * (x - width / 2) + cos * (y - height / 2) + height / 2
    return ((from_x - from_x.round()).abs() < 1e-4) | ((from_y - from_y.round()).abs() < 1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in GEOMETRIC])
def test_levels_are_torchvisions(name: str, shape: tuple[int, int, int]) -> None:
    images = pictures(60, *shape)
    magnitudes = random_magnitudes(name, 60)
    expected = torch.stack([torchvisions(name, i, m) for i, m in zip(images, magnitudes.tolist(), strict=True)])
    off = (OPERATIONS[name](images, magnitudes).int() - expected.int()).abs()
    assert int(off.max()) <= LEVELS.get(name, 0)
    assert float(off.float().mean()) < 0.1  # a picture of one level may be off as a whole


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bins", [None, 10, 31])
@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometry_is_torchvisions_but_half_way_between_pixels(
    name: str, bins: int | None, shape: tuple[int, int, int]
) -> None:
    images = pictures(60, *shape)
    magnitudes = random_magnitudes(name, 60, bins)
    results = OPERATIONS[name](images, magnitudes)
    differing = 0
    for image, magnitude, result in zip(images, magnitudes.tolist(), results, strict=True):
        differs = (result != torchvisions(name, image, magnitude)).any(2)
        assert not bool((differs & ~half_way(name, magnitude, *shape[:2])).any())
        differing += int(differs.sum())
    assert differing <= 0.02 * images.shape[0] * shape[0] * shape[1]


@pytest.mark.parametrize("name", ["shear_x", "shear_y"])
def test_a_share_of_two_percent_of_the_pixels_at_most_differs_at_the_shears_of_autoaugment(name: str) -> None:
    images = pictures(300, 32, 32, 3)
    magnitudes = random_magnitudes(name, 300, 10) * (0.3 / 0.99)
    expected = torch.stack([torchvisions(name, i, m) for i, m in zip(images, magnitudes.tolist(), strict=True)])
    assert float((OPERATIONS[name](images, magnitudes) != expected).float().mean()) < 0.02


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_image_is_changed_by_its_own_magnitude_alone_and_the_input_stays(name: str, channels: int) -> None:
    images = pictures(24, 12, 10, channels)
    magnitudes = random_magnitudes(name, 24)
    before = images.clone()
    together = OPERATIONS[name](images, magnitudes)
    assert torch.equal(images, before)
    assert together.dtype == torch.uint8
    assert together.shape == images.shape
    for i in range(24):
        assert torch.equal(together[i : i + 1], OPERATIONS[name](images[i : i + 1], magnitudes[i : i + 1]))


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"color", "contrast"}))
def test_channels_are_treated_alike_where_no_grey_is_taken(name: str) -> None:
    images = pictures(12, 11, 13, 5)
    magnitudes = random_magnitudes(name, 12)
    channels = [OPERATIONS[name](images[..., c : c + 1].contiguous(), magnitudes) for c in range(5)]
    assert torch.equal(OPERATIONS[name](images, magnitudes), torch.cat(channels, 3))


def test_the_grey_of_other_than_three_channels_is_their_mean() -> None:
    images = pictures(12, 8, 8, 4)
    gone = torch.full((12,), -1.0)
    mean = images.double().mean(3).floor()
    expected = mean.to(torch.uint8)[..., None].expand_as(images)
    assert torch.equal(OPERATIONS["color"](images, gone), expected)
    flat = mean.mean((1, 2)).floor().to(torch.uint8)
    assert torch.equal(OPERATIONS["contrast"](images, gone), flat.view(-1, 1, 1, 1).expand_as(images))


@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_one_level_stays_as_it_is(name: str) -> None:
    images = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 20, 20, 3).contiguous()
    assert torch.equal(OPERATIONS[name](images, torch.zeros(256)), images)


@pytest.mark.parametrize("name", ["translate_x", "translate_y"])
def test_a_translation_moves_right_or_down_and_leaves_zeros(name: str) -> None:
    images = pictures(9, 6, 7, 3)
    moves = torch.tensor([0, 1, 2.9, -1, -2.9, 6, 7, -7, 100])
    axis = 1 if name == "translate_x" else 0
    for image, move, result in zip(images, moves.int().tolist(), OPERATIONS[name](images, moves), strict=True):
        side = image.shape[axis]
        kept = max(0, side - abs(move))
        expected = torch.zeros_like(image)
        expected.narrow(axis, max(0, move) if kept else 0, kept).copy_(
            image.narrow(axis, max(0, -move) if kept else 0, kept)
        )
        assert torch.equal(result, expected)


def test_a_quarter_turn_is_exact_on_squares() -> None:
    images = pictures(12, 9, 9, 3)
    quarters = torch.tensor([0, 1, 2, 3] * 3)
    expected = torch.stack([torch.rot90(i, k) for i, k in zip(images, quarters.tolist(), strict=True)])
    assert torch.equal(OPERATIONS["rotate"](images, 90.0 * quarters), expected)
