"""Orthogonal designs of knobs near a recipe: which values `make.py --drawn crossed` crosses, and `benchmarks.search.effects` tells apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

CROSSED, CROSSED_AGAIN = "crossed", "crossed again"
CROSSED_LARGE, CROSSED_LARGE_AGAIN = "crossed large", "crossed large again"
CROSSED_PHOTOS_64, CROSSED_PHOTOS_64_AGAIN = "crossed photos-64", "crossed photos-64 again"


class Crossing(NamedTuple):
    """A recipe of the portfolio, the knobs that are changed in all its candidates (`base`), and other values to cross (`factors`)."""

    recipe: str
    base: Mapping[str, Any]
    factors: tuple[Mapping[str, Any], ...]


CROSSINGS = {
    CROSSED: Crossing(
        "resnet9-1m",
        {},
        (
            {"width": 18, "depth1": 0},
            {"learning_rate": 1.6},
            {"momentum": 0.85},
            {"weight_decay": 0.005},
            {"bias_learning_rate": 16.0},
            {"batch_size": 64},
            {"gradient_centralisation": False},
            {"ema": 0.995},
            {"schedule": "cosine"},
            {"warmup": 0.1},
            {"start_resolution": 1.0},
            {"label_smoothing": 0.0},
            {"dropout": 0.1},
            {"stochastic_depth": 0.1},
            {"mixup": 0.2},
            {"mix_probability": 0.15},
            {"crop": 0.0625},
            {"flip": "alternating"},
            {"cutout": 0.25},
            {"policy": "autoaugment-cifar10"},
            {"norm_images": 1000},
        ),
    ),
    CROSSED_AGAIN: Crossing(
        "resnet9-1m",
        {"momentum": 0.85, "flip": "alternating", "mix_probability": 0.15, "gradient_centralisation": False},
        (
            {"width": 14, "resolution": 1.0},
            {"activation": "gelu"},
            {"learning_rate": 0.65},
            {"momentum": 0.8},
            {"weight_decay": 0.0003},
            {"bias_learning_rate": 1.0},
            {"batch_size": 256},
            {"ema": 0.99},
            {"warmup": 0.1},
            {"start_resolution": 0.6},
            {"label_smoothing": 0.2},
            {"cutmix": 0.0},
            {"crop": 0.0625},
            {"initialisation": "dirac"},
            {"norm_images": 1000},
        ),
    ),
    CROSSED_LARGE: Crossing(
        "resnet9-1m-photos",
        {},
        (
            {"resolution": 0.625, "width": 10},
            {"resolution": 0.625, "width": 12, "depth1": 0},
            {"resolution": 0.75, "width": 10, "depth1": 0},
            {"learning_rate": 1.5},
            {"weight_decay": 0.005},
            {"batch_size": 64},
            {"ema": 0.99},
            {"schedule": "cosine"},
            {"warmup": 0.1},
            {"start_resolution": 1.0},
            {"start_resolution": 0.6},
            {"label_smoothing": 0.0},
            {"dropout": 0.1},
            {"mix_probability": 0.3},
            {"crop": 0.0625},
            {"cutout": 0.25},
            {"policy": "trivialaugment"},
            {"norm_images": 1000},
        ),
    ),
    CROSSED_LARGE_AGAIN: Crossing(
        "resnet9-1m-photos",
        {"resolution": 0.625, "width": 12, "depth1": 0, "crop": 0.0625},
        (
            {"width": 10, "depth3": 2},
            {"resolution": 0.75, "width": 8, "depth3": 2},
            {"activation": "gelu"},
            {"whitening": False},
            {"learning_rate": 0.65},
            {"momentum": 0.9},
            {"weight_decay": 0.0003},
            {"bias_learning_rate": 16.0},
            {"batch_size": 64},
            {"gradient": "mltp"},
            {"gradient_centralisation": True},
            {"ema": 0.995},
            {"start_resolution": 0.6},
            {"label_smoothing": 0.2},
            {"cutmix": 0.0},
            {"crop": 0.0},
            {"flip": True},
            {"initialisation": "dirac"},
        ),
    ),
    CROSSED_PHOTOS_64: Crossing(
        "resnet9-1m-photos-64",
        {},
        (
            {"resolution": 0.75, "width": 8, "depth3": 2},
            {"resolution": 0.5, "width": 14},
            {"whitening": False},
            {"learning_rate": 1.4},
            {"momentum": 0.9},
            {"weight_decay": 0.004},
            {"bias_learning_rate": 16.0},
            {"batch_size": 32},
            {"gradient": "mltp"},
            {"gradient_centralisation": True},
            {"ema": 0.0},
            {"warmup": 0.1},
            {"start_resolution": 0.6},
            {"label_smoothing": 0.2},
            {"dropout": 0.1},
            {"mix_probability": 0.3},
            {"crop": 0.125},
            {"flip": True},
            {"policy": "randaugment"},
            {"initialisation": "dirac"},
        ),
    ),
    CROSSED_PHOTOS_64_AGAIN: Crossing(
        "resnet9-1m-photos-64",
        {"label_smoothing": 0.2, "crop": 0.125},
        (
            {"width": 10, "resolution": 0.75},
            {"activation": "gelu"},
            {"learning_rate": 1.4},
            {"momentum": 0.8},
            {"weight_decay": 0.007},
            {"bias_learning_rate": 1.0},
            {"batch_size": 128},
            {"gradient": "mltp"},
            {"gradient": "sam"},
            {"ema": 0.0},
            {"schedule": "cosine"},
            {"start_resolution": 0.9, "resize_until": 0.9},
            {"mix_probability": 0.1},
            {"policy": "randaugment"},
        ),
    ),
}
"""The factors of `crossed` are values that did well as mutations, and their neighbours. `crossed again` starts from the four best of them and
goes further in the same directions. `crossed large` and `crossed large again` do so for photos of 64 pixels, and
`crossed photos-64` and `crossed photos-64 again` for the recipe that came of these. Of two factors that set one knob
the later one counts."""
