"""The speed and the peak memory of training a network with a recipe on a device."""

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

from jointnas.data.dataset import Data, Split
from jointnas.data.images import CROP
from jointnas.data.pack import Pack
from jointnas.measurement.features import PHASES
from jointnas.measurement.inference import TIMED_SECONDS, Call, timed, warm_up
from jointnas.network.blueprint import Blueprint
from jointnas.network.operations.operation import Shape
from jointnas.training.batches import CHUNK_PIXELS
from jointnas.training.clock import StepClock
from jointnas.training.recipe import NEVER, SWITCH, Recipe, knobs_by_speed
from jointnas.training.scoring import synchronise
from jointnas.training.trainer import Trainer

MOST_BATCHES = 8  # of a pass that is timed: of tiny images the trainer reads a hundred at once
STILL = 1e-5  # learning rate: weights that hardly move never diverge
SWITCHED_ON = 0.5  # in the range of every switch


class TrainingCost(NamedTuple):
    """Images per second, and bytes."""

    images_per_second: float
    train_memory: float


def as_measured(recipe: Recipe) -> Recipe:
    """Return the representative of all recipes of the same cost; measurements use it, also in their keys."""
    switches = {name: SWITCHED_ON if getattr(recipe, name) else 0.0 for name in knobs_by_speed(SWITCH)}
    free = {name: getattr(Recipe(), name) for name in knobs_by_speed(NEVER)}
    return replace(recipe, **{**switches, **free, "learning_rate": STILL})


def measure_training(blueprint: Blueprint, recipe: Recipe, classes: int, device: torch.device | str) -> TrainingCost:
    """Measure whole steps of the trainer on random images: reading, augmentation, gradients, optimizer, averages.

    images_per_second: over a budget of seconds, in the precision that the device trains in. Where images grow, it is the mean
    over `PHASES` equal parts of the budget; where SAM takes its second pass in some steps only, it is computed from steps with
    and without it. train_memory: see `step_memory`; with images at full size and SAM's second pass.
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
        clock = StepClock(2 * PHASES)  # in the middle of a phase while it is measured
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
    """Return a trainer on random images: as many batches as the trainer reads at once, but two at least and `MOST_BATCHES` at most."""
    recipe = as_measured(recipe)
    _, height, width = blueprint.input_shape
    batches = min(MOST_BATCHES, max(2, CHUNK_PIXELS // (height * width * recipe.batch_size)))
    data = random_data(blueprint.input_shape, classes, batches * recipe.batch_size)
    return Trainer(blueprint, recipe, data, clock, 0, device)


def random_data(input_shape: Shape, classes: int, images: int) -> Data:
    """Return a data set of random images of shape (C, H, W), with balanced classes."""
    channels, height, width = input_shape
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, height, width, channels), dtype=torch.uint8, generator=generator)
    split = Split(pixels, torch.arange(images) % classes)
    names = tuple(map(str, range(classes)))
    pack = Pack(
        pixels.numpy(), split.labels.numpy(), {"train": (0, images)}, names, "random", np.zeros(images, np.uint64)
    )
    nothing = np.empty(0, dtype=np.int64)
    return Data(split, split, names, "random", (0.5,) * channels, (0.25,) * channels, (), CROP, pack, nothing)


def _images_per_second(trainer: Trainer, within: float) -> float:
    """Return the speed of the median pass over the trainer's images, at the clock's present fraction."""
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
    """Return the peak bytes of a training step: persistent ones, and the peak of temporary ones.

    Persistent are weights, statistics, optimizer state and averages, counted exactly. Temporary are activations, gradients
    and the batch, from reading the images to updating the averages. On a GPU the peak is that of torch's allocator. On a CPU
    it is the most bytes of outputs alive between two operations: a few per cent below what torch's profiler reports, as scratch
    space inside an operation is not counted. The data set itself is not counted.
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
    if trainer.quantiser:
        yield from (*trainer.quantiser.continuous, *trainer.quantiser.quantised)


def peak_bytes(call: Call, device: torch.device) -> int:
    """Return the peak bytes of the tensors that a call creates."""
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
    """Counts the bytes of the storages that operations create, while each is alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: int = 0
        self._alive = 0
        self._made: set[int] = set()  # the storages alive, by their ids

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation; outputs that are not among its inputs are new."""
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
