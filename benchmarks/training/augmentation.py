"""Augmentation policies alone: images per core-second of ours, of torchvision image by image, and of kornia.

    python -m benchmarks.training.augmentation --data cifar10-images.zip --to benchmarks/results/augmentation.json

Every arm runs on one thread and changes the same uint8 images of 32×32; the arms take turns, and ratios are taken within a
round. torchvision is called on one image at a time, as a `DataLoader` does it, on tensors and on PIL images (the faster one
is what ours is compared with); kornia gets whole batches of 128 float images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import kornia
import torch
from kornia.augmentation.auto import AutoAugment as KorniaAutoAugment
from kornia.augmentation.auto import RandAugment as KorniaRandAugment
from kornia.augmentation.auto import TrivialAugment as KorniaTrivialAugment
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from benchmarks.measure import machine, ratio, take_turns, write
from jointnas.data.dataset import load_data
from jointnas.data.spec import DataSpec
from jointnas.training.augmentation import make_policy

CHUNK, KORNIA_BATCH, ONE_BY_ONE = 512, 128, 256
POLICIES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "autoaugment-cifar10": (
        lambda: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
        lambda: KorniaAutoAugment("cifar10"),
    ),
    "randaugment": (lambda: v2.RandAugment(2, 9), lambda: KorniaRandAugment(2, 9)),
    "trivialaugment": (lambda: v2.TrivialAugmentWide(), lambda: KorniaTrivialAugment()),
}


def speed(change: Callable[[Any], Any], parts: Sequence[Any], images: int, seconds: float) -> float:
    """Return the images a second that `change` takes, part after part; `images` are in one part."""
    for part in parts[:2]:
        change(part)
    count, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        change(parts[count % len(parts)])
        count += 1
    return count * images / (time.process_time() - start)


def measure(name: str, images: Tensor, repeats: int, seconds: float) -> dict[str, Any]:
    """Return medians and ratios for one policy; images are (n, H, W, C) uint8."""
    torchvision_policy, kornia_policy = (make() for make in POLICIES[name])
    ours, generator = make_policy(name, operations=2, magnitude=9), torch.Generator().manual_seed(0)
    assert ours is not None
    planes = images.permute(0, 3, 1, 2).contiguous()
    tensors = list(planes[:ONE_BY_ONE])
    pictures = [Image.fromarray(image.numpy()) for image in images[:ONE_BY_ONE]]
    floats = list((planes.float() / 255).split(KORNIA_BATCH))[:8]
    speeds = take_turns(
        {
            "ours": partial(speed, lambda x: ours(x, generator), list(images.split(CHUNK))[:8], CHUNK, seconds),
            "torchvision, tensors": partial(speed, torchvision_policy, tensors, 1, seconds),
            "torchvision, PIL": partial(speed, torchvision_policy, pictures, 1, seconds),
            "kornia": partial(speed, kornia_policy, floats, KORNIA_BATCH, seconds),
        },
        repeats,
    )
    return {
        "policy": name,
        "microseconds_an_image": {arm: round(1e6 / sorted(v)[len(v) // 2], 1) for arm, v in speeds.items()},
        "ratios": {f"ours / {arm}": ratio(speeds["ours"], values) for arm, values in speeds.items() if arm != "ours"},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = load_data(DataSpec(options.data, train_images=5000, val_images=1000)).train.images
    rows = [measure(name, images, options.repeats, options.seconds) for name in POLICIES]
    write({"machine": {**machine(), "kornia": kornia.__version__}, "rows": rows}, options.to)


if __name__ == "__main__":
    main()
