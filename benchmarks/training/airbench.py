"""A hand-tuned peer under the same clock: airbench94's network and recipe (Jordan 2024, arXiv 2404.00498, the version with Muon), for a CPU.

    python -m benchmarks.training.airbench --widths 16 64 64 --batch-size 250 --train-time 60s --data cifar10-images.zip --to airbench.json

The protocol is that of `benchmarks.training.ten_minutes`: the same images of each seed, a budget from the decoded data to the
validation predictions, and the test images scored once. Network, optimizers, schedules, augmentation and the six views of a scored
image are airbench94's; what a CPU changes is that widths and batch are smaller, that steps run in bfloat16 where the CPU has it, and that
the schedules follow the clock. One training of three seconds warms the process up. `--rate` multiplies the learning rates of all but the
filters, `--filter-rate` that of the filters. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn, optim

from benchmarks.measure import machine, write
from benchmarks.training.step import iterated
from benchmarks.training.ten_minutes import FIRST_SEED, TRAIN_IMAGES, VAL_IMAGES
from jointnas.campaign.retrain import spread
from jointnas.data.dataset import Data, Split, load_data
from jointnas.data.spec import DataSpec
from jointnas.training.batches import Normalise
from jointnas.training.clock import WallClock
from jointnas.training.precision import trains_in_bfloat16
from jointnas.training.scoring import accuracy
from jointnas.units import parse_duration

BIAS_RATE, HEAD_RATE, FILTER_RATE = 0.053, 0.67, 0.24
SGD_MOMENTUM, MUON_MOMENTUM = 0.85, 0.6
DECAY_OF_AN_IMAGE = 2e-6
WHITENING_TRAINED = 3 / 8  # of the budget: how long the whitening layer's bias is trained
NEWTON_SCHULZ_STEPS = 3
LABEL_SMOOTHING, TRANSLATION, KERNEL = 0.2, 2, 2
WHITENED_IMAGES = 5000
VIEWS = 6
WARM_UP_SECONDS = 3.0
SCORING_IMAGES = 500


class Group(nn.Module):
    """Two convolutions with batch norm and GELU, the first one pooled."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(n, width, 3, padding=1, bias=False) for n in (channels, width))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, eps=1e-12, momentum=0.4) for _ in range(2))
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            norm.weight.requires_grad = False
            nn.init.dirac_(convolution.weight[: convolution.weight.shape[1]].data)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, width, H / 2, W / 2)."""
        x = F.gelu(self.norms[0](F.max_pool2d(self.convolutions[0](x), 2)))
        return F.gelu(self.norms[1](self.convolutions[1](x)))


class AirbenchNet(nn.Module):
    """Whitened 2×2 patches and their negatives, three groups, and a linear layer."""

    def __init__(self, widths: Sequence[int], classes: int, images: Tensor) -> None:
        super().__init__()
        features = images.shape[1] * KERNEL**2
        patches = F.unfold(images, KERNEL).transpose(1, 2).reshape(-1, features)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors.T / (values[:, None] + 5e-4).sqrt()).view(features, -1, KERNEL, KERNEL)
        self.register_buffer("filters", torch.cat([filters, -filters]))
        self.bias = nn.Parameter(torch.zeros(2 * features))
        self.groups = nn.Sequential(*(Group(a, b) for a, b in zip((2 * features, *widths), widths, strict=False)))
        self.head = nn.Linear(widths[-1], classes, bias=False)
        with torch.no_grad():
            self.head.weight.div_(self.head.weight.std())

    def forward(self, x: Tensor, train_bias: bool = True) -> Tensor:
        """Return (n, classes) logits. train_bias: whether the whitening layer's bias gets a gradient."""
        x = self.groups(F.gelu(F.conv2d(x, self.filters, self.bias if train_bias else self.bias.detach())))  # type: ignore[arg-type]
        x = F.adaptive_max_pool2d(x, 1).flatten(1)
        logits: Tensor = self.head(x) / x.shape[1]
        return logits


class Muon(optim.Optimizer):
    """airbench's Muon: each filter is scaled to the norm √out before it takes an orthogonal step."""

    def __init__(self, parameters: Sequence[Tensor], dtype: torch.dtype) -> None:
        super().__init__(parameters, {"lr": 0.0})
        self.dtype = dtype  # of the iteration

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step along the parameters' gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
                velocity.mul_(MUON_MOMENTUM).add_(p.grad)
                update = p.grad.add(velocity, alpha=MUON_MOMENTUM)
                p.mul_(len(p) ** 0.5 / p.norm())
                rows = iterated(update.flatten(1).to(self.dtype), NEWTON_SCHULZ_STEPS)
                p.add_(rows.reshape(p.shape).to(p.dtype), alpha=-group["lr"])


def moved(padded: Tensor) -> Tensor:
    """Return (n, C, H, W) crops of padded images: every image translated by up to two pixels."""
    n, _, height, width = (*padded.shape[:2], *(side - 2 * TRANSLATION for side in padded.shape[2:]))
    images = torch.empty((n, padded.shape[1], height, width)).contiguous(memory_format=torch.channels_last)
    places = torch.randint(2 * TRANSLATION + 1, (n, 2))
    for top in range(2 * TRANSLATION + 1):
        for left in range(2 * TRANSLATION + 1):
            chosen = (places == torch.tensor([top, left])).all(1)
            images[chosen] = padded[chosen, :, top : top + height, left : left + width]
    return images


@torch.inference_mode()
def views_of(network: nn.Module, images: Tensor) -> Tensor:
    """Return (n, classes): the mean over the image and its mirror image, half of it from both moved by a pixel two ways."""
    height, width = images.shape[2:]
    padded = F.pad(images, [1] * 4, "reflect")
    views = {1 / 2: [images], 1 / 4: [padded[:, :, :height, :width], padded[:, :, 2:, 2:]]}
    return torch.stack([w / 2 * (network(x) + network(x.flip(3))) for w, xs in views.items() for x in xs]).sum(0)


def scored(network: nn.Module, split: Split, normalise: Normalise) -> float:
    """Return the accuracy on a split."""
    network.eval()
    parts = torch.split(split.images, SCORING_IMAGES)
    logits = torch.cat([views_of(network, normalise(part)) for part in parts])
    return accuracy(logits, split.labels)


def train(data: Data, seed: int, seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    """Train once and return the accuracies and the number of steps."""
    torch.manual_seed(seed)
    clock = WallClock(seconds)
    clock.start()
    bfloat16 = trains_in_bfloat16(torch.device("cpu"))
    normalise = Normalise(data.mean, data.std, torch.device("cpu"))
    images, labels = normalise(data.train.images), data.train.labels
    network = AirbenchNet(options.widths, len(data.classes), images[:WHITENED_IMAGES])
    network = network.to(memory_format=torch.channels_last).train()
    decay = DECAY_OF_AN_IMAGE * options.batch_size
    rates = [options.rate * rate for rate in (BIAS_RATE, BIAS_RATE, HEAD_RATE)]
    norms = [p for n, p in network.named_parameters() if "norms" in n and p.requires_grad]
    groups = [
        {"params": own, "lr": 0.0, "weight_decay": decay / rate}
        for own, rate in zip([[network.bias], norms, [network.head.weight]], rates, strict=True)
    ]
    sgd = optim.SGD(groups, momentum=SGD_MOMENTUM, nesterov=True)
    muon = Muon([p for p in network.parameters() if p.ndim == 4], torch.bfloat16 if bfloat16 else torch.float32)
    clock.reserve(time_of_scoring(network, data, normalise, clock))
    padded = F.pad(images, [TRANSLATION] * 4, "reflect")
    padded = torch.where((torch.rand(len(labels)) < 0.5)[:, None, None, None], padded.flip(3), padded)
    steps = epoch = 0
    while clock.may_step():
        pixels, order = moved(padded.flip(3) if epoch % 2 else padded), torch.randperm(len(labels))
        epoch += 1
        for rows in order[: len(order) - len(order) % options.batch_size].split(options.batch_size):
            if not clock.may_step():
                break
            fraction = clock.fraction()
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                logits = network(pixels[rows], train_bias=fraction < WHITENING_TRAINED)
                loss = F.cross_entropy(logits, labels[rows], label_smoothing=LABEL_SMOOTHING, reduction="sum")
            network.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            factors = [max(0.0, 1 - fraction / WHITENING_TRAINED), 1 - fraction, 1 - fraction]
            for group, rate, factor in zip(sgd.param_groups, rates, factors, strict=True):
                group["lr"] = rate * factor
            muon.param_groups[0]["lr"] = options.filter_rate * FILTER_RATE * (1 - fraction)
            sgd.step()
            muon.step()
            steps += 1
            clock.stepped()
    accuracy = scored(network, data.val, normalise)
    return {
        "accuracy": accuracy,
        "seconds": clock.seconds(),
        "test_accuracy": scored(network, data.test(), normalise),
        "steps": steps,
        "macs": round(VIEWS * FlopCountAnalysis(network.eval(), images[:1]).unsupported_ops_warnings(False).total()),
        "params": sum(p.numel() for p in network.parameters()),
    }


def time_of_scoring(network: nn.Module, data: Data, normalise: Normalise, clock: WallClock) -> float:
    """Return the seconds to reserve for scoring, by a part of the validation images."""
    part = Split(data.val.images[:SCORING_IMAGES], data.val.labels[:SCORING_IMAGES])
    scored(network, part, normalise)  # the first call is slower
    start = clock.seconds()
    scored(network, part, normalise)
    network.train()
    return 1.15 * (clock.seconds() - start) * len(data.val) / len(part)


def main() -> None:
    """Train each seed, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--train-images", type=int, default=TRAIN_IMAGES)
    parser.add_argument("--val-images", type=int, default=VAL_IMAGES)
    parser.add_argument("--train-time", default="60s")
    parser.add_argument("--widths", type=int, nargs=3, default=[16, 64, 64])
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--rate", type=float, default=1.0, help="factor on the learning rates of biases and head")
    parser.add_argument("--filter-rate", type=float, default=1.0, help="factor on the learning rate of filters")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    if options.batch_size > options.train_images:
        parser.error(f"a batch has {options.train_images} images at most, got --batch-size {options.batch_size}")
    rows: list[dict[str, Any]] = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        spec = DataSpec(options.data, options.train_images, options.val_images, options.image_size, seed)
        data = load_data(spec)
        if not rows:
            train(data, seed, WARM_UP_SECONDS, options)
        rows.append({"seed": seed, **train(data, seed, parse_duration(options.train_time), options)})
        print(rows[-1], flush=True)
    answer = {"machine": machine(), **{k: v for k, v in vars(options).items() if k != "to"}}
    answer["data"] = Path(options.data).name
    answer["test"] = spread([row["test_accuracy"] for row in rows])
    answer["validation"] = spread([row["accuracy"] for row in rows])
    write({**answer, "rows": rows}, options.to)


if __name__ == "__main__":
    main()
