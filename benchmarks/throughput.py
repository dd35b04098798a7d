"""Images per second of the training loop with its own augmentation, side by side with two other ways to feed it.

    python benchmarks/throughput.py --data ../shared/data/cifar10-images.zip --to benchmarks/results/throughput.json

ours    the trainer: crop, flip and cutout on whole batches of decoded tensors
loader  (a) the same loop fed by a `DataLoader` with two workers and torchvision.transforms.v2 (crop, flip, and
        RandomErasing, whose square stays inside the image)
plain   (b) the same loop on images that were normalised once and are not augmented at all

The arms take turns within one process, `--repeats` rounds of `--seconds` each; a ratio is the median over rounds of ours
divided by the other arm of the same round. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torchvision
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from jointnas.data import Data, DataSpec, Split, load_data
from jointnas.networks import blueprint
from jointnas.recipe import Recipe
from jointnas.training import StepClock
from jointnas.training.trainer import Trainer

BATCH = 128
RECIPE = Recipe(batch_size=BATCH, crop=0.125, flip=True, cutout=0.25)
WARM_UP_STEPS = 5


class Images(Dataset[tuple[Tensor, int]]):
    """A split as torchvision's transforms want it: one (C, H, W) image at a time."""

    def __init__(self, split: Split, data: Data) -> None:
        self.images, self.labels = split.images.permute(0, 3, 1, 2).contiguous(), split.labels.tolist()
        side = split.images.shape[1]
        self.transform = v2.Compose(
            [
                v2.RandomCrop(side, padding=round(RECIPE.crop * side), padding_mode="reflect"),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(data.mean, data.std, inplace=True),
                v2.RandomErasing(p=1.0, scale=(RECIPE.cutout**2,) * 2, ratio=(1.0, 1.0), inplace=True),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.images[i].clone()), self.labels[i]


def loader_batches(data: Data) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of arm (a)."""
    images = Images(data.train, data)
    loader = DataLoader(images, BATCH, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True)
    while True:
        for x, y in loader:
            yield x.contiguous(memory_format=torch.channels_last), y


def plain_batches(trainer: Trainer) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of arm (b)."""
    split = trainer.data.train
    images = trainer.normalise(split.images).contiguous(memory_format=torch.channels_last)
    while True:
        order = torch.randperm(len(split))
        for start in range(0, len(split) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            yield images[rows], split.labels[rows]


def images_per_second(trainer: Trainer, batches: Iterator[tuple[Tensor, Tensor]], seconds: float) -> float:
    """Return the speed of the trainer's own step on these batches."""
    for _ in range(WARM_UP_STEPS):
        trainer.step(batches)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        trainer.step(batches)
        steps += 1
    return steps * BATCH / (time.perf_counter() - start)


def measure(width: int, data: Data, repeats: int, seconds: float) -> dict[str, object]:
    """Return medians and ratios for a ResNet-9 of one width."""
    network = blueprint({"network": "resnet9", "width": width}, data.input_shape, len(data.classes))
    trainer = Trainer(network, RECIPE, data, StepClock(10**9), 0, torch.device("cpu"), None)
    arms = {"ours": iter(trainer.batches), "plain": plain_batches(trainer), "loader": loader_batches(data)}
    speeds: dict[str, list[float]] = {arm: [] for arm in arms}
    for _ in range(repeats):
        for arm, batches in arms.items():
            speeds[arm].append(images_per_second(trainer, batches, seconds))
    ratios = {
        arm: [ours / other for ours, other in zip(speeds["ours"], speeds[arm], strict=True)]
        for arm in ("plain", "loader")
    }
    return {
        "width": width,
        "images_per_second": {arm: round(statistics.median(v)) for arm, v in speeds.items()},
        "ours_over_plain": summary(ratios["plain"]),
        "ours_over_loader": summary(ratios["loader"]),
    }


def summary(values: list[float]) -> dict[str, float]:
    """Return median, least and greatest."""
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    data = load_data(DataSpec(options.data, train_images=5000, val_images=1000))
    found = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "images": "x".join(map(str, data.input_shape)),
        "batch": BATCH,
        "rows": [measure(width, data, options.repeats, options.seconds) for width in options.widths],
    }
    text = json.dumps(found, indent=1)
    print(text)
    if options.to:
        options.to.parent.mkdir(parents=True, exist_ok=True)
        options.to.write_text(text + "\n")


if __name__ == "__main__":
    main()
