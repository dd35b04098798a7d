"""Images per second of the training loop with each augmentation, side by side with other ways to feed the same loop.

    python -m benchmarks.training.throughput --data cifar10-images.zip --to benchmarks/results/throughput.json

plain    the loop on images that were normalised once and are not augmented at all
ours     the trainer's own batches: crop, flip and cutout, and with each policy on top
loader   the same augmentation as torchvision.transforms.v2, image by image, in a `DataLoader` with two workers (RandomErasing
         in the place of cutout: its square stays inside the image)
kornia   the same as kornia modules on whole batches, in the loop's process (its AutoAugment draws one sub-policy a batch)
folder   arm `ours: autoaugment`, its images decoded again from the folder's files in every pass by the two workers

The arms take turns within one process, `--repeats` rounds of `--seconds` each; a ratio is taken within a round, and the median
over the rounds is given with its range. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import kornia
import numpy as np
import torch
from kornia.augmentation import Normalize, RandomCrop, RandomErasing, RandomHorizontalFlip
from kornia.augmentation.auto import AutoAugment
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.measure import machine, ratio, take_turns, write
from jointnas.data.dataset import Data, load_data
from jointnas.data.spec import DataSpec
from jointnas.network.cost import blueprint_cost
from jointnas.network.families import make_blueprint
from jointnas.training.batches import Batches
from jointnas.training.clock import StepClock
from jointnas.training.recipe import Recipe
from jointnas.training.trainer import Trainer

BATCH = 128
BASIC: dict[str, Any] = {"batch_size": BATCH, "crop": 0.125, "flip": True, "cutout": 0.25}
CUT = BASIC["cutout"] ** 2
OURS = {
    "ours: crop, flip, cutout": {},
    "ours: autoaugment": {"policy": "autoaugment-cifar10"},
    "ours: randaugment": {"policy": "randaugment"},
    "ours: trivialaugment": {"policy": "trivialaugment"},
}
RATIOS = (
    *((name, "plain") for name in OURS),
    ("ours: crop, flip, cutout", "loader: crop, flip, erase"),
    ("ours: autoaugment", "loader: autoaugment"),
    ("ours: autoaugment", "folder: autoaugment"),
    ("ours: crop, flip, cutout", "kornia: crop, flip, erase"),
    ("ours: autoaugment", "kornia: autoaugment"),
)
WARM_UP_STEPS = 5

Feed = Iterator[tuple[Tensor, Tensor]]


def transform(data: Data, policy: bool) -> v2.Compose:
    """Return torchvision's version of the augmentation, for one (C, H, W) uint8 image."""
    side = data.input_shape[1]
    return v2.Compose(
        [
            v2.RandomCrop(side, padding=round(BASIC["crop"] * side), padding_mode="reflect"),
            v2.RandomHorizontalFlip(),
            *([v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)] if policy else []),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(data.mean, data.std, inplace=True),
            v2.RandomErasing(p=1.0, scale=(CUT, CUT), ratio=(1.0, 1.0), inplace=True),
        ]
    )


class Decoded(Dataset[tuple[Tensor, int]]):
    """The packed images, one at a time."""

    def __init__(self, data: Data, policy: bool) -> None:
        self.images = data.train.images.permute(0, 3, 1, 2).contiguous()
        self.labels = data.train.labels.tolist()
        self.transform = transform(data, policy)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.images[i].clone()), self.labels[i]


class Folder(Decoded):
    """The same images as JPEG files, decoded each time."""

    def __init__(self, data: Data, folder: Path) -> None:
        super().__init__(data, policy=True)
        self.paths = [folder / f"{i}.jpg" for i in range(len(self.labels))]
        for path, image in zip(self.paths, data.train.images.numpy(), strict=True):
            Image.fromarray(image).save(path, quality=95)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        pixels = torch.from_numpy(np.asarray(Image.open(self.paths[i]).convert("RGB"))).permute(2, 0, 1)
        return self.transform(pixels), self.labels[i]


def loaded(images: Dataset[tuple[Tensor, int]]) -> Feed:
    """Yield a `DataLoader`'s batches for ever."""
    loader = DataLoader(images, BATCH, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True)
    while True:
        for x, y in loader:
            yield x.contiguous(memory_format=torch.channels_last), y


def whole_batches(data: Data, change: Callable[[Tensor], Tensor]) -> Feed:
    """Yield batches of shuffled (b, C, H, W) float images in [0, 1] that `change` has augmented."""
    images = data.train.images.permute(0, 3, 1, 2)
    while True:
        order = torch.randperm(len(images))
        for rows in order[: len(order) // BATCH * BATCH].split(BATCH):
            yield (
                change(images[rows].float() / 255).contiguous(memory_format=torch.channels_last),
                data.train.labels[rows],
            )


def kornia_change(data: Data, policy: bool) -> Callable[[Tensor], Tensor]:
    """Return kornia's version of the augmentation."""
    side = data.input_shape[1]
    return torch.nn.Sequential(
        RandomCrop((side, side), padding=round(BASIC["crop"] * side), padding_mode="reflect"),
        RandomHorizontalFlip(),
        *([AutoAugment("cifar10")] if policy else []),
        Normalize(torch.tensor(data.mean), torch.tensor(data.std)),
        RandomErasing(scale=(CUT, CUT), ratio=(1.0, 1.0), p=1.0),
    )


def plain(trainer: Trainer) -> Feed:
    """Yield batches without augmentation."""
    split = trainer.data.train
    images = trainer.normalise(split.images).contiguous(memory_format=torch.channels_last)
    while True:
        order = torch.randperm(len(split))
        for rows in order[: len(order) // BATCH * BATCH].split(BATCH):
            yield images[rows], split.labels[rows]


def ours(data: Data, knobs: dict[str, Any], trainer: Trainer) -> Feed:
    """Return the trainer's own kind of batches."""
    recipe, generator = Recipe(**{**BASIC, **knobs}), torch.Generator().manual_seed(0)
    return iter(Batches(data.train, len(data.classes), recipe, trainer.normalise, generator, trainer.device))


def images_per_second(trainer: Trainer, feed: Feed, seconds: float) -> float:
    """Return the speed of the trainer's own step on these batches."""
    for _ in range(WARM_UP_STEPS):
        trainer.step(feed)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        trainer.step(feed)
        steps += 1
    return steps * BATCH / (time.perf_counter() - start)


def measure(width: int, data: Data, folder: Path, repeats: int, seconds: float) -> dict[str, Any]:
    """Return medians and ratios for a ResNet-9 of one width."""
    network = make_blueprint({"network": "resnet9", "width": width}, data.input_shape, len(data.classes))
    trainer = Trainer(network, Recipe(**BASIC), data, StepClock(10**9), 0, torch.device("cpu"))
    feeds: dict[str, Feed] = {
        "plain": plain(trainer),
        **{name: ours(data, knobs, trainer) for name, knobs in OURS.items()},
        "loader: crop, flip, erase": loaded(Decoded(data, policy=False)),
        "loader: autoaugment": loaded(Decoded(data, policy=True)),
        "folder: autoaugment": loaded(Folder(data, folder)),
        "kornia: crop, flip, erase": whole_batches(data, kornia_change(data, policy=False)),
        "kornia: autoaugment": whole_batches(data, kornia_change(data, policy=True)),
    }
    arms = {name: partial(images_per_second, trainer, feed, seconds) for name, feed in feeds.items()}
    speeds = take_turns(arms, repeats)
    return {
        "width": width,
        "macs": blueprint_cost(network)["macs"],
        "images_per_second": {arm: round(sorted(values)[len(values) // 2]) for arm, values in speeds.items()},
        "ratios": {f"{a} / {b}": ratio(speeds[a], speeds[b]) for a, b in RATIOS},
    }


def decoding(data_file: Path, data: DataSpec, repeats: int) -> dict[str, Any]:
    """Return the seconds that opening the packed cache takes against decoding as many files."""
    count = 1000

    def decode() -> float:
        with zipfile.ZipFile(data_file) as archive:
            names = [n for n in archive.namelist() if n.lower().endswith((".jpg", ".png"))]
            start = time.perf_counter()
            for name in islice(names, count):
                np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
            return (time.perf_counter() - start) / count

    def reopen() -> float:
        start = time.perf_counter()
        images = len(load_data(data).train)
        return (time.perf_counter() - start) / images

    seconds = take_turns({"decode": decode, "reopen": reopen}, repeats)
    return {
        "microseconds_an_image": {arm: round(1e6 * sorted(v)[len(v) // 2], 2) for arm, v in seconds.items()},
        "decode / reopen": ratio(seconds["decode"], seconds["reopen"]),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--widths", type=int, nargs="+", default=[8])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    spec = DataSpec(options.data, train_images=5000, val_images=1000)
    data = load_data(spec)
    found: dict[str, Any] = {"machine": {**machine(), "kornia": kornia.__version__}, "batch": BATCH}
    if Path(options.data).suffix == ".zip":
        found["packed_cache"] = decoding(Path(options.data), spec, options.repeats)
    with tempfile.TemporaryDirectory() as folder:
        found["rows"] = [
            measure(width, data, Path(folder), options.repeats, options.seconds) for width in options.widths
        ]
    write(found, options.to)


if __name__ == "__main__":
    main()
