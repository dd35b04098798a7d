"""What training a network by a recipe costs on a device: images a second, and the most memory a step holds."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from jointnas.data import Data, Split
from jointnas.data.pack import Pack
from jointnas.measurement.features import PHASES
from jointnas.measurement.inference import TIMED_SECONDS, Call, synchronise, timed, warm_up
from jointnas.network.blueprint import Blueprint
from jointnas.network.operations.operation import Shape
from jointnas.training.batches import CHUNK_PIXELS
from jointnas.training.clock import StepClock
from jointnas.training.recipe import Recipe
from jointnas.training.trainer import Trainer

COSTLY_KNOBS = (
    "optimizer",
    "batch_size",
    "gradient",
    "sam_every",
    "gradient_centralisation",
    "lookahead",
    "start_resolution",
    "resize_until",
    "flip",
    "policy",
    "policy_operations",
    "ghost_batch",
)
"""Knobs whose every value may make a training step slower or larger."""

SWITCH_KNOBS = (
    "momentum",
    "weight_decay",
    "bias_weight_decay",
    "ema",
    "label_smoothing",
    "dropout",
    "stochastic_depth",
    "mixup",
    "cutmix",
    "cutout",
)
"""Knobs that make a step do something from zero on, the same for every value above it."""

FREE_KNOBS = (
    "learning_rate",
    "bias_learning_rate",
    "sam_rho",
    "mltp_rate",
    "lookahead_rate",
    "schedule",
    "warmup",
    "cycles",
    "cycle_growth",
    "mix_probability",
    "crop",
    "policy_magnitude",
    "initialisation",
    "norm_images",
    "test_flip",
)
"""Knobs that change numbers and not what a step does: they scale, draw or time, or act before training or after it."""

STILL = 1e-5  # learning rate: weights that stay where they are never diverge
SWITCHED_ON = 0.5  # in the range of every switch


class TrainingCost(NamedTuple):
    """Training images a second, and bytes."""

    images_per_second: float
    train_memory: float


def as_measured(recipe: Recipe) -> Recipe:
    """Return the recipe that stands for all that cost the same; figures are measured with it and kept under it."""
    switches = {name: SWITCHED_ON if getattr(recipe, name) else 0.0 for name in SWITCH_KNOBS}
    free = {name: getattr(Recipe(), name) for name in FREE_KNOBS}
    return replace(recipe, **{**switches, **free, "learning_rate": STILL})


def measure_training(blueprint: Blueprint, recipe: Recipe, classes: int, device: torch.device | str) -> TrainingCost:
    """Return what whole steps of the trainer cost on random images: reading, augmenting, gradients, optimizer, averages.

    images_per_second: over a budget of seconds, in the precision that the device trains in. Where images grow, it is the mean
    over `PHASES` equal parts of the budget; where only some steps of SAM take its second pass, it follows from steps with and
    without. train_memory: see `step_memory`; images at full size, SAM's second pass taken.
    Raises `BlueprintError`, `RecipeError` and what the trainer and torch raise.
    """
    if recipe.gradient == "sam" and recipe.sam_every > 1:
        sharp = measure_training(blueprint, replace(recipe, sam_every=1), classes, device)
        plain = measure_training(blueprint, replace(recipe, gradient="plain"), classes, device)
        share = 1 / recipe.sam_every
        seconds = share / sharp.images_per_second + (1 - share) / plain.images_per_second
        return sharp._replace(images_per_second=1 / seconds)
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)  # for dropout and stochastic depth, which take no generator
        clock = StepClock(2 * PHASES)  # it stands in the middle of a phase while that is measured
        trainer = make_trainer(blueprint, recipe, classes, clock, device)
        phases = PHASES if recipe.start_resolution < 1 else 1
        speeds = []
        for _ in range(phases):
            clock.stepped()
            speeds.append(_images_per_second(trainer, TIMED_SECONDS / phases))
            clock.stepped()
        while clock.may_step():
            clock.stepped()
        return TrainingCost(fmean(speeds), step_memory(trainer))


def make_trainer(blueprint: Blueprint, recipe: Recipe, classes: int, clock: StepClock, device: torch.device) -> Trainer:
    """Return a trainer of random images: two batches, or as many as the trainer reads at a time where those are more."""
    recipe = as_measured(recipe)
    _, height, width = blueprint.input_shape
    batches = max(2, CHUNK_PIXELS // (height * width * recipe.batch_size))
    data = random_data(blueprint.input_shape, classes, batches * recipe.batch_size)
    return Trainer(blueprint, recipe, data, clock, 0, device)


def random_data(input_shape: Shape, classes: int, images: int) -> Data:
    """Return a data set of random pixels of this shape, (C, H, W), with classes in turn."""
    channels, height, width = input_shape
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, height, width, channels), dtype=torch.uint8, generator=generator)
    split = Split(pixels, torch.arange(images) % classes)
    names = tuple(map(str, range(classes)))
    pack = Pack(pixels.numpy(), split.labels.numpy(), {"train": (0, images)}, names, "random")
    nothing = np.empty(0, dtype=np.int64)
    return Data(split, split, names, "random", (0.5,) * channels, (0.25,) * channels, (), pack, nothing)


def _images_per_second(trainer: Trainer, within: float) -> float:
    """Return the speed of the median pass over the trainer's images, at its clock's present fraction."""
    batches = iter(trainer.batches)
    steps = trainer.batches.n // trainer.batches.batch_size

    def take(count: int) -> None:
        for _ in range(count):
            trainer.step(batches)
        synchronise(trainer.device)

    warm_up(lambda: take(1))
    passes = timed(lambda: take(steps), within=within, fewest=1)
    return steps * trainer.batches.batch_size / median(passes)


def step_memory(trainer: Trainer) -> int:
    """Return the most bytes that a training holds in a step: what it keeps, and the peak of what it needs besides.

    It keeps weights, statistics, optimizer state and averages, counted exactly. The peak, from reading the images to the
    updated averages, is of activations, gradients and the batch. On a GPU torch's allocator keeps count of it. On a CPU it is
    the most bytes alive, between two operations, of what operations have made: a few per cent below what torch's profiler sees
    allocated, as the scratch space inside an operation is not in it. The data set itself is not counted.
    """
    trainer.step(iter(trainer.batches))  # the optimizer makes its state in its first step
    trainer.optimizer.zero_grad(set_to_none=True)
    return kept_bytes(trainer) + peak_bytes(lambda: trainer.step(iter(trainer.batches)), trainer.device)


def kept_bytes(trainer: Trainer) -> int:
    """Return the bytes of weights, statistics, optimizer state and averages."""
    return sum(tensor.nbytes for tensor in _kept(trainer))


def _kept(trainer: Trainer) -> Iterator[Tensor]:
    yield from trainer.network.state_dict().values()
    for state in trainer.optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))
    if trainer.average:
        yield from trainer.average.network.state_dict().values()
    if trainer.lookahead:
        yield from trainer.lookahead.slow


def peak_bytes(call: Call, device: torch.device) -> int:
    """Return the most bytes that a call holds at once of what it makes."""
    if device.type == "cuda":
        synchronise(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        synchronise(device)
        return torch.cuda.max_memory_allocated(device) - before
    storages = _Storages()
    with storages:
        call()
    return storages.peak


class _Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the storages that operations make, for as long as each is alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: int = 0
        self._alive = 0
        self._made: set[int] = set()  # the storages alive, by their ids

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute an operation; what it gives but did not read is new."""
        read = {id(storage) for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if id(storage) not in read and id(storage) not in self._made:
                self._made.add(id(storage))
                self._alive += storage.nbytes()
                weakref.finalize(storage, self._release, id(storage), storage.nbytes())
        self.peak = max(self.peak, self._alive)
        return result

    def _release(self, storage: int, size: int) -> None:
        self._made.discard(storage)
        self._alive -= size


def _storages(values: Any) -> list[UntypedStorage]:
    return [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor)]
