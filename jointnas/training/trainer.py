"""The training loop: one network, one recipe, one clock; validation predictions exist when the budget ends."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from jointnas.blueprint import Blueprint
from jointnas.data import Data, Split
from jointnas.errors import BudgetError, DivergenceError
from jointnas.module import Network, build
from jointnas.recipe import Recipe
from jointnas.training.batches import Batches, Normalise
from jointnas.training.clock import Clock
from jointnas.training.observation import CurvePoint, Observation
from jointnas.training.optimizers import learning_rate_factor, make_optimizer

CURVE_FRACTIONS = (0.1, 0.25, 0.5, 0.75)  # where the learning curve is read, before the end
CURVE_IMAGES = 512  # validation images it is read on
WHITENING_PIXELS = 500 * 32 * 32
SCORING_BATCH = 500
SCORING_MARGIN = 1.15  # on the measured time of scoring, for the machine's unevenness
PROGRESS_SECONDS = 0.5
BACKWARD_COST = 3.0  # of a training step, in forward passes: what the first step is expected to take

Progress = Callable[[float, float], None]
"""Called about twice a second with the fraction of the budget and the seconds since its start."""


class Training(NamedTuple):
    """What a training gives: the observation, and the network whose weights were scored."""

    observation: Observation
    model: Network


def train_network(
    blueprint: Blueprint,
    recipe: Recipe,
    data: Data,
    clock: Clock,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Training:
    """Train a fresh network and score it on the validation images.

    The same seed under a `StepClock` gives the same weights on the CPU, bit for bit, at the same number of threads.
    Raises `BudgetError` when not one step fits, `DivergenceError` when the loss stops being finite, and `RecipeError` for a
    batch larger than the training set.
    """
    clock.start()
    return Trainer(blueprint, recipe, data, clock, seed, torch.device(device), progress).run()


class Trainer:
    """One training: what it holds, one step of it, and the whole of it."""

    def __init__(
        self,
        blueprint: Blueprint,
        recipe: Recipe,
        data: Data,
        clock: Clock,
        seed: int,
        device: torch.device,
        progress: Progress | None,
    ) -> None:
        self.recipe, self.data, self.clock, self.device, self.progress = recipe, data, clock, device, progress
        self.generator = torch.Generator().manual_seed(seed)
        self.normalise = Normalise(data.mean, data.std, device)
        self.network = build(blueprint, self.generator).to(device).to(memory_format=torch.channels_last)
        _, height, width = data.input_shape
        enough = max(1, WHITENING_PIXELS // (height * width))
        self.network.fit_whitening(self.normalise(data.train.images[:enough].to(device)))
        self.batches = Batches(data.train, recipe, self.normalise, self.generator, device)
        self.optimizer = make_optimizer(self.network, recipe)
        self.average = _Average(self.network, recipe.ema) if recipe.ema else None
        self.curve: list[CurvePoint] = []
        self.curve_due = list(CURVE_FRACTIONS)
        self.steps = 0
        self.reported = -math.inf
        self.reading_seconds = 0.0

    @property
    def scored(self) -> Network:
        """The network whose weights count: the averaged one where there is one."""
        return self.average.network if self.average else self.network

    def run(self) -> Training:
        """Step until the clock says no, then score."""
        self._measure_scoring()
        self.clock.expect(
            BACKWARD_COST * self.reading_seconds * self.batches.batch_size / min(CURVE_IMAGES, len(self.data.val))
        )
        batches = iter(self.batches)
        while self.clock.may_step():
            self.step(batches)
            self.clock.stepped()
            self._look()
        if self.steps == 0:
            raise BudgetError(
                f"a budget holds setting up, one training step and the scoring, got {self.clock}, of which setting up took "
                f"{self.clock.seconds():.3g}s: raise --train-time"
            )
        logits = predict(self.scored, self.data.val, self.normalise, self.device, self._tell)
        seconds = self.clock.seconds()
        if not bool(torch.isfinite(logits).all()):
            raise DivergenceError(
                f"the scored network's outputs stay finite, got others after {self.steps} steps with {self.recipe.optimizer} "
                f"and learning_rate = {self.recipe.learning_rate:.4g}: lower the learning rate"
            )
        accuracy, balanced = accuracies(logits, self.data.val.labels)
        return Training(
            Observation(
                accuracy=accuracy,
                balanced_accuracy=balanced,
                seconds=seconds,
                steps=self.steps,
                images_per_second=self.steps * self.recipe.batch_size / seconds,
                curve=tuple(self.curve),
            ),
            self.scored.eval(),
        )

    def step(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Take one training step with the next batch. Raises `DivergenceError`."""
        rate = self.recipe.optimizer_learning_rate * learning_rate_factor(self.recipe, self.clock.fraction())
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        images, labels = next(batches)
        loss = F.cross_entropy(self.network(images), labels, label_smoothing=self.recipe.label_smoothing)
        if not math.isfinite(loss.item()):
            raise DivergenceError(
                f"the loss stays finite, got {loss.item()} at step {self.steps + 1} with {self.recipe.optimizer} and "
                f"learning_rate = {self.recipe.learning_rate:.4g}: lower the learning rate"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.steps += 1
        if self.average:
            self.average.update(self.steps)

    def _look(self) -> None:
        """Read the learning curve where it is due, and tell the progress."""
        fraction, seconds = self.clock.fraction(), self.clock.seconds()
        passed = [due for due in self.curve_due if fraction >= due]
        if passed:  # several at once where one step is long
            del self.curve_due[: len(passed)]
            if self.clock.has_room(self.reading_seconds):
                self.curve.append(CurvePoint(fraction, seconds, self.steps, self._measure_scoring()))
        self._tell()

    def _tell(self) -> None:
        """Tell the progress, twice a second at most."""
        seconds = self.clock.seconds()
        if self.progress and seconds - self.reported >= PROGRESS_SECONDS:
            self.reported = seconds
            self.progress(self.clock.fraction(), seconds)

    def _measure_scoring(self) -> float:
        """Score a few validation images, reserve the time that all of them will take, and return the accuracy."""
        part = Split(self.data.val.images[:CURVE_IMAGES], self.data.val.labels[:CURVE_IMAGES])
        start = time.perf_counter()
        logits = predict(self.scored, part, self.normalise, self.device)
        self.reading_seconds = time.perf_counter() - start
        self.network.train()
        self.clock.reserve(SCORING_MARGIN * self.reading_seconds * len(self.data.val) / len(part))
        return accuracies(logits, part.labels)[0]


class _Average:
    """An exponential moving average of parameters and running statistics; it forgets faster in its first steps."""

    def __init__(self, network: Network, decay: float) -> None:
        self.network, self.decay = copy.deepcopy(network), decay
        floats = [t.is_floating_point() for t in network.state_dict().values()]
        self.target = [t for t, real in zip(self.network.state_dict().values(), floats, strict=True) if real]
        self.source = [t for t, real in zip(network.state_dict().values(), floats, strict=True) if real]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the network's present weights."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.target, self.source, 1 - decay)


@torch.inference_mode()
def predict(
    network: Network, split: Split, normalise: Normalise, device: torch.device, tell: Callable[[], None] = lambda: None
) -> Tensor:
    """Return the (n, classes) logits of a split, on the CPU; the network is left in evaluation mode.

    tell: called after each batch, so that a long scoring shows a sign of life.
    """
    network.eval()
    parts = []
    for i in range(0, len(split), SCORING_BATCH):
        parts.append(network(normalise(split.images[i : i + SCORING_BATCH].to(device))))
        tell()
    return torch.cat(parts).cpu()


def accuracies(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the share of right answers, and its mean over the classes that occur."""
    right = (logits.argmax(1) == labels).double()
    counts = torch.bincount(labels, minlength=logits.shape[1])
    by_class = torch.zeros(logits.shape[1], dtype=torch.float64).index_add_(0, labels, right)
    present = counts > 0
    return float(right.mean()), float((by_class[present] / counts[present]).mean())
