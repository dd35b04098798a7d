"""The training loop: one network, one recipe, one clock; validation predictions exist when the budget ends."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from jointnas.data import Data, Split
from jointnas.errors import BudgetError, DivergenceError
from jointnas.execution.contention import CpuShare
from jointnas.network.blueprint import Blueprint
from jointnas.network.module import Network, build
from jointnas.training.averages import Lookahead, MovingAverage, retake_norms
from jointnas.training.batches import Batches, Normalise
from jointnas.training.clock import Clock
from jointnas.training.gradients import centralise, make_gradient_rule
from jointnas.training.observation import CURVE_FRACTIONS, CurvePoint, Observation
from jointnas.training.optimizers import make_optimizer, set_learning_rate
from jointnas.training.precision import trains_in_bfloat16
from jointnas.training.recipe import Recipe
from jointnas.training.schedules import learning_rate_factor, training_side
from jointnas.training.scoring import accuracies, log_loss, predict

CURVE_IMAGES = 512  # validation images that the learning curve is read on
WHITENING_PIXELS = 500 * 32 * 32
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
    stop_at: float = 1.0,
    curve_images: int = CURVE_IMAGES,
    progress: Progress | None = None,
) -> Training:
    """Train a fresh network and score it on the validation images.

    The same seed under a `StepClock` gives the same weights on the CPU, bit for bit, at the same number of threads.
    stop_at: fraction of the budget after which the training ends and is scored; its schedules are those of the whole budget.
    curve_images: validation images, at most, that the learning curve is read on; more take time from a `WallClock`.
    Raises `BudgetError` when not one step fits or `stop_at` is no fraction, `DivergenceError` when the loss stops being
    finite, `RecipeError` for a batch larger than the training set, `DataError` where images are too few for whitening.
    """
    clock.start()
    if not 0 < stop_at <= 1:
        raise BudgetError(f"stop_at is a fraction of the budget in (0, 1], got {stop_at!r}: change it")
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # for dropout and stochastic depth, which take no generator
        return Trainer(
            blueprint, recipe, data, clock, seed, device, stop_at=stop_at, curve_images=curve_images, progress=progress
        ).run()


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
        *,
        stop_at: float = 1.0,
        curve_images: int = CURVE_IMAGES,
        progress: Progress | None = None,
    ) -> None:
        self.recipe, self.data, self.clock, self.device = recipe, data, clock, device
        self.stop_at, self.progress = stop_at, progress
        self.cpu_share = CpuShare() if device.type == "cpu" else None
        self.curve_images = min(curve_images, len(data.val))
        self.bfloat16 = trains_in_bfloat16(device)
        self.generator = torch.Generator().manual_seed(seed)
        self.normalise = Normalise(data.mean, data.std, device)
        network = build(blueprint, self.generator, dirac=recipe.initialisation == "dirac")
        network.regularise(recipe.dropout, recipe.stochastic_depth, recipe.ghost_batch)
        self.network = network.to(device).to(memory_format=torch.channels_last)
        _, height, width = data.input_shape
        enough = max(1, WHITENING_PIXELS // (height * width))
        self.network.fit_whitening(self.normalise(data.train.images[:enough].to(device)))
        self.batches = Batches(data.train, len(data.classes), recipe, self.normalise, self.generator, device)
        self.optimizer = make_optimizer(self.network, recipe)
        self.gradient = make_gradient_rule(self.network, recipe)
        self.average = MovingAverage(self.network, recipe.ema) if recipe.ema else None
        self.lookahead = Lookahead(self.network, recipe.lookahead, recipe.lookahead_rate) if recipe.lookahead else None
        self.curve: list[CurvePoint] = []
        self.curve_due = list(CURVE_FRACTIONS)
        self.steps = 0
        self.loss: Tensor | None = None
        self.step_seconds = 0.0  # of all steps together
        self.reported = -math.inf
        self.reading_seconds = self.looking_seconds = 0.0  # of scoring a few images, and of all that it takes

    @property
    def scored(self) -> Network:
        """The network whose weights count: the averaged one where there is one."""
        return self.average.network if self.average else self.network

    def run(self) -> Training:
        """Step until the clock says no, or early as asked, then score."""
        self._measure_scoring()
        self.clock.expect(BACKWARD_COST * self.reading_seconds * self.batches.batch_size / self.curve_images)
        batches = iter(self.batches)
        while self.clock.may_step() and self.clock.fraction() < self.stop_at:
            began = time.perf_counter()
            self.step(batches)
            self.step_seconds += time.perf_counter() - began
            self.clock.stepped()
            self._look()
        if self.steps == 0:
            raise BudgetError(
                f"a budget holds setting up, one training step and the scoring, got {self.clock}, of which setting up took "
                f"{self.clock.seconds():.3g}s: raise --train-time"
            )
        self._finish()
        logits = predict(self.scored, self.data.val, self.normalise, self.device, self.recipe.test_flip, self._tell)
        seconds = self.clock.seconds()
        if not bool(torch.isfinite(logits).all()):
            raise self._diverged("the scored network's outputs", "others", f"after {self.steps} steps")
        accuracy, balanced = accuracies(logits, self.data.val.labels)
        return Training(
            Observation(
                accuracy=accuracy,
                balanced_accuracy=balanced,
                log_loss=log_loss(logits, self.data.val.labels),
                fraction=self.stop_at,
                seconds=seconds,
                steps=self.steps,
                step_seconds=self.step_seconds / self.steps,
                images_per_second=self.steps * self.recipe.batch_size / seconds,
                cpu_share=self.cpu_share.read() if self.cpu_share else None,
                curve=tuple(self.curve),
            ),
            self.scored.eval(),
        )

    def step(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Take one training step with the next batch. Raises `DivergenceError`."""
        fraction = self.clock.fraction()
        factor = learning_rate_factor(self.recipe, fraction)
        set_learning_rate(self.optimizer, self.recipe.optimizer_learning_rate * factor)
        height, width = self.network.resize.size
        self.network.resize.training_size = (
            training_side(self.recipe, fraction, height),
            training_side(self.recipe, fraction, width),
        )
        images, targets = next(batches)

        def loss(part: slice) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                logits = self.network(images[part])
                return F.cross_entropy(logits, targets[part], label_smoothing=self.recipe.label_smoothing)

        self.optimizer.zero_grad(set_to_none=True)
        self._check_loss()
        self.loss = self.gradient(loss, len(images), self.steps, self.recipe.learning_rate * factor)
        if self.recipe.gradient_centralisation:
            centralise(self.gradient.parameters)
        self.optimizer.step()
        self.steps += 1
        if self.lookahead:
            self.lookahead.update(self.steps)
        if self.average:
            self.average.update(self.steps)

    def _check_loss(self) -> None:
        """Raise `DivergenceError` when the last step's loss is not finite.

        Asked one step late, so that a GPU has a step in its queue while it is asked.
        """
        if self.loss is not None and not math.isfinite(value := self.loss.item()):
            raise self._diverged("the loss", str(value), f"at step {self.steps}")

    def _diverged(self, what: str, received: str, where: str) -> DivergenceError:
        recipe = self.recipe
        return DivergenceError(
            f"{what} stays finite, got {received} {where} with {recipe.optimizer}, learning_rate = {recipe.learning_rate:.4g}, "
            f"weight_decay = {recipe.weight_decay:.4g} and gradient = {recipe.gradient}: lower the learning rate"
        )

    def _finish(self) -> None:
        """Bring the network to its own size, and the weights that are scored to their final state."""
        self.network.resize.training_size = None
        if self.lookahead:
            self.lookahead.follow()
        if self.recipe.norm_images:
            rows = torch.randperm(len(self.data.train), generator=self.generator)[: self.recipe.norm_images]
            self._retake_norms(self.data.train.images[rows])

    def _retake_norms(self, images: Tensor) -> None:
        parts = torch.split(images, self.recipe.batch_size)
        retake_norms(self.scored, [self.normalise(part.to(self.device)) for part in parts])

    @contextmanager
    def _as_at_the_end(self) -> Iterator[None]:
        """Hold the weights and statistics that would be scored if the training ended now, then put them back.

        So a point of the curve says what a training that is stopped there would reach. No random number is drawn.
        """
        leads = self.lookahead if self.scored is self.network else None
        if not (leads or self.recipe.norm_images):
            yield
            return
        kept = copy.deepcopy(self.scored.state_dict())
        if leads:
            leads.lead()
        if self.recipe.norm_images:
            self._retake_norms(self.data.train.images[: min(self.recipe.norm_images, self.curve_images)])
        yield
        self.scored.load_state_dict(kept)

    def _look(self) -> None:
        """Read the learning curve where it is due, and tell the progress."""
        fraction, seconds = self.clock.fraction(), self.clock.seconds()
        passed = [due for due in self.curve_due if fraction >= due]
        if passed:  # several at once where one step is long
            del self.curve_due[: len(passed)]
            if self.clock.has_room(self.looking_seconds):
                logits, labels = self._measure_scoring()
                reading = accuracies(logits, labels)[0], log_loss(logits, labels)
                self.curve.append(CurvePoint(fraction, seconds, self.steps, *reading))
        self._tell()

    def _tell(self) -> None:
        """Tell the progress, twice a second at most."""
        seconds = self.clock.seconds()
        if self.progress and seconds - self.reported >= PROGRESS_SECONDS:
            self.reported = seconds
            self.progress(self.clock.fraction(), seconds)

    def _measure_scoring(self) -> tuple[Tensor, Tensor]:
        """Score the curve's images, reserve the time that the end will take, and return logits (n, classes) and labels (n,)."""
        part = Split(self.data.val.images[: self.curve_images], self.data.val.labels[: self.curve_images])
        began = time.perf_counter()
        with self._as_at_the_end():
            start = time.perf_counter()
            logits = predict(self.scored, part, self.normalise, self.device, self.recipe.test_flip)
            self.reading_seconds = time.perf_counter() - start
        self.network.train()
        self.looking_seconds = time.perf_counter() - began
        retaken = min(self.recipe.norm_images, len(self.data.train)) / self.recipe.views
        self.clock.reserve(SCORING_MARGIN * self.reading_seconds * (len(self.data.val) + retaken) / len(part))
        return logits, part.labels
