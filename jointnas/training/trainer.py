"""The training loop: one network, one recipe, one clock; scoring is part of the budget."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from jointnas.cores import processor_name
from jointnas.data.dataset import Data, Split
from jointnas.errors import BudgetError, DivergenceError
from jointnas.execution.contention import CpuShare
from jointnas.network.blueprint import Blueprint
from jointnas.network.module import Network, build, with_weights
from jointnas.network.quantisation import quantised
from jointnas.training.averages import Lookahead, MovingAverage, reestimate_norms
from jointnas.training.batches import Batches, Normalise
from jointnas.training.clock import Clock
from jointnas.training.confusion import Confusion
from jointnas.training.gradients import centralise, make_gradient_rule
from jointnas.training.losses import class_weights, cross_entropy
from jointnas.training.observation import CURVE_FRACTIONS, CurvePoint, Observation
from jointnas.training.optimizers import make_optimizer, set_learning_rate
from jointnas.training.precision import trains_in_bfloat16
from jointnas.training.proxconnect import ProxConnect
from jointnas.training.recipe import Recipe
from jointnas.training.schedules import SMALLEST_SIDE, learning_rate_factor, smallest_side, training_side
from jointnas.training.scoring import (
    SCORING_BATCH,
    accuracy,
    ensemble_logits,
    log_loss,
    predict,
    smoothed_accuracy,
    synchronise,
)

CURVE_IMAGES = SCORING_BATCH  # validation images that are scored for the learning curve
TIMED_IMAGES = 128  # validation images that are scored before the first step, to know how long scoring takes; the fewest of a curve
CURVE_SHARE = 0.02  # of the budget at most, for all points of the learning curve together
WHITENING_PIXELS = 500 * 32 * 32
SCORING_MARGIN = 1.15  # on the measured time of scoring, as it varies
PROGRESS_SECONDS = 0.5
BACKWARD_COST = 3.0  # of a training step, in forward passes, until a step is measured

Progress = Callable[[float, float], None]
"""Called about twice a second with the used fraction of the budget and the seconds since its start."""


class Training(NamedTuple):
    """The result of a training: the observation, and the network whose weights were scored."""

    observation: Observation
    model: Network


def train_network(
    network: Blueprint | Network,
    recipe: Recipe,
    data: Data,
    clock: Clock,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    stop_at: float = 1.0,
    curve_images: int = CURVE_IMAGES,
    progress: Progress | None = None,
    last_rate: float = 0.0,
) -> Training:
    """Train a network and score it on the validation images: a new one of a blueprint, or one that has weights already.

    Its layers get the bits of the recipe.

    On the CPU, a seed under a `StepClock` gives the same weights bit for bit at the same number of threads.
    stop_at: fraction of the budget after which the network is scored; the schedules are those of the whole budget.
    curve_images: maximum number of validation images that are scored for the learning curve, in the time of the clock: fewer, but no
        less than 128, where its points would take more than a fiftieth of a budget of seconds.
    last_rate: the learning rate at the end of the budget as a share of its peak, on top of which the schedule falls.
    Raises `BudgetError` when not one step fits or `stop_at` lies outside (0, 1], `DivergenceError` when the loss is not finite,
    `RecipeError` for a batch larger than the training set, `DataError` for too few images to fit the whitening.
    """
    clock.start()
    if not 0 < stop_at <= 1:
        raise BudgetError(f"stop_at must be a fraction of the budget in (0, 1], got {stop_at!r}")
    device = torch.device(device)
    with seeded(seed, device):
        return Trainer(
            network,
            recipe,
            data,
            clock,
            seed,
            device,
            stop_at=stop_at,
            curve_images=curve_images,
            progress=progress,
            last_rate=last_rate,
        ).run()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generator, which dropout and stochastic depth use, and restore it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class Trainer:
    """The state of one training: `run` is the whole of it, `step` one step.

    snapshots: how many networks it ends with, copies at equal parts of the budget after the warm-up, the last one at its end. They are
    scored together, by the mean of their probabilities.
    """

    def __init__(
        self,
        network: Blueprint | Network,
        recipe: Recipe,
        data: Data,
        clock: Clock,
        seed: int,
        device: torch.device,
        *,
        stop_at: float = 1.0,
        curve_images: int = CURVE_IMAGES,
        progress: Progress | None = None,
        last_rate: float = 0.0,
        snapshots: int = 1,
    ) -> None:
        self.recipe, self.data, self.clock, self.device = recipe, data, clock, device
        self.stop_at, self.progress, self.last_rate = stop_at, progress, last_rate
        self.cpu_share = CpuShare() if device.type == "cpu" else None
        self.curve_images = min(curve_images, len(data.val))
        self.bfloat16 = trains_in_bfloat16(device)
        self.generator = torch.Generator().manual_seed(seed)
        self.normalise = Normalise(data.mean, data.std, device)
        self.network = self._initial_network(network)
        grows = recipe.start_resolution < 1
        self.smallest_side = smallest_side(self.network.blueprint, self.network.resize.size) if grows else SMALLEST_SIDE
        self.batches = Batches(data.train, len(data.classes), recipe, self.normalise, self.generator, device)
        self.optimizer = make_optimizer(self.network, recipe)
        self.gradient = make_gradient_rule(self.network, recipe)
        self.quantiser = ProxConnect(self.network, recipe) if recipe.quantisation else None
        self.average = MovingAverage(self.network, recipe.ema) if recipe.ema else None
        self.lookahead = Lookahead(self.network, recipe.lookahead, recipe.lookahead_rate) if recipe.lookahead else None
        if self.quantiser:
            self.quantiser.start()
        parts = range(1, snapshots)
        self.due_snapshots = [recipe.warmup + (1 - recipe.warmup) * part / snapshots for part in parts]
        self.snapshots: list[Network] = []
        self.val_logits: list[Tensor] = []  # (n, classes) of each network, once they are scored
        self.curve: list[CurvePoint] = []
        self.due_fractions = list(CURVE_FRACTIONS)
        self.steps = 0
        self.loss: Tensor | None = None
        weights = class_weights(data.train.labels, len(data.classes), recipe.class_weights)
        self.class_weights = None if weights is None else weights.to(device)
        self.step_seconds = 0.0  # of all steps together
        self.last_report = -math.inf
        self.scoring_seconds = 0.0  # of the curve's images
        self.curve_seconds = 0.0  # with setting and restoring the weights

    def _initial_network(self, given: Blueprint | Network) -> Network:
        dirac = self.recipe.initialisation == "dirac"
        plan = quantised(given.blueprint if isinstance(given, Network) else given, self.recipe.quantisation)
        if isinstance(given, Network):
            network = given if plan == given.blueprint else with_weights(plan, given.state_dict())
        else:
            network = build(plan, self.generator, dirac)
        network.regularise(self.recipe.dropout, self.recipe.stochastic_depth, self.recipe.ghost_batch)
        network = network.to(self.device).to(memory_format=torch.channels_last)
        if isinstance(given, Blueprint):
            _, height, width = self.data.input_shape
            images = self.data.train.images[: max(1, WHITENING_PIXELS // (height * width))]
            network.fit_whitening(self.normalise(images.to(self.device)))
        return network.train()

    @property
    def networks(self) -> list[Network]:
        """The networks that the training ends with."""
        return [*self.snapshots, self.scored]

    @property
    def scored(self) -> Network:
        """The network that is scored: the moving average if the recipe has one."""
        return self.average.network if self.average else self.network

    def run(self) -> Training:
        """Train until the budget or `stop_at` is reached, then score."""
        self._plan_curve()
        batches = iter(self.batches)
        while self.clock.may_step() and self.clock.fraction() < self.stop_at:
            began = time.perf_counter()
            self.step(batches)
            self.step_seconds += time.perf_counter() - began
            self.clock.stepped()
            self._take_snapshot()
            self._update_curve()
            self._report_progress()
        if self.steps == 0:
            raise BudgetError(
                f"a budget of {self.clock} is too short for one training step and the scoring, as setup took "
                f"{self.clock.seconds():.3g}s: raise --train-time"
            )
        self._finish()
        return Training(self._observe(), self.scored.eval())

    def _plan_curve(self) -> None:
        """Time the scoring of a few images, and let the learning curve have as many as its share of the budget holds."""
        wanted, self.curve_images = self.curve_images, min(TIMED_IMAGES, len(self.data.val))
        for _ in range(2):  # the first call is slower
            self._score_curve_images()
        timed = self.curve_images
        forward_seconds = self.scoring_seconds / self.recipe.views / timed  # of an image
        self.clock.expect(BACKWARD_COST * forward_seconds * self.batches.batch_size)
        share = (
            len(CURVE_FRACTIONS) * self.clock.share_of(self.curve_seconds) / timed
        )  # that an image takes at all points
        self.curve_images = min(wanted, max(timed, int(CURVE_SHARE / share))) if share else wanted
        self.curve_seconds *= self.curve_images / timed

    def _observe(self) -> Observation:
        """Score the validation images and return the observation. Raises `DivergenceError`."""
        split, recipe = self.data.val, self.recipe
        self.val_logits = [
            predict(network, split, self.normalise, self.device, recipe.test_flip, self._report_progress)
            for network in self.networks
        ]
        logits = ensemble_logits(self.val_logits)
        seconds = self.clock.seconds()
        if not bool(torch.isfinite(logits).all()):
            raise self._diverged(f"the network's outputs are not finite after step {self.steps}")
        by_class = Confusion.of(logits, split.labels, self.data.classes)
        return Observation(
            accuracy=by_class.accuracy,
            balanced_accuracy=by_class.balanced_accuracy,
            macro_f1=by_class.macro_f1,
            log_loss=log_loss(logits, split.labels),
            smoothed_accuracy=smoothed_accuracy(logits, split.labels),
            fraction=self.stop_at,
            seconds=seconds,
            steps=self.steps,
            step_seconds=self.step_seconds / self.steps,
            images_per_second=self.steps * recipe.batch_size / seconds,
            cpu_share=self.cpu_share.read() if self.cpu_share else None,
            machine=processor_name() if self.device.type != "cuda" else torch.cuda.get_device_name(self.device),
            curve=tuple(self.curve),
        )

    def step(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Take one training step with the next batch. Raises `DivergenceError`."""
        fraction = self.clock.fraction()
        factor = self.last_rate + (1 - self.last_rate) * learning_rate_factor(self.recipe, fraction)
        set_learning_rate(self.optimizer, self.recipe.optimizer_learning_rate * factor)
        height, width = self.network.resize.size
        self.network.resize.training_size = (
            training_side(self.recipe, fraction, height, self.smallest_side),
            training_side(self.recipe, fraction, width, self.smallest_side),
        )
        images, targets = next(batches)

        def loss(part: slice) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                logits = self.network(images[part])
                return cross_entropy(logits, targets[part], self.recipe.label_smoothing, self.class_weights)

        self.optimizer.zero_grad(set_to_none=True)
        self._check_loss()
        self.loss = self.gradient(loss, len(images), self.steps, self.recipe.learning_rate * factor)
        if self.recipe.gradient_centralisation:
            centralise(self.gradient.parameters)
        if self.quantiser:
            self.quantiser.prepare_step()
        self.optimizer.step()
        self.steps += 1
        if self.lookahead:
            self.lookahead.update(self.steps)
        if self.average:
            self.average.update(self.steps)
        if self.quantiser:
            self.quantiser.finish_step(fraction)

    def _check_loss(self) -> None:
        """Raise `DivergenceError` if the previous step's loss is not finite. Reading it waits for that step, so only one is ever queued."""
        if self.loss is not None and not math.isfinite(value := self.loss.item()):
            raise self._diverged(f"the loss is {value} at step {self.steps}")

    def _diverged(self, symptom: str) -> DivergenceError:
        recipe = self.recipe
        return DivergenceError(
            f"the training diverged: {symptom} with optimizer = {recipe.optimizer}, learning_rate = {recipe.learning_rate:.4g}, "
            f"weight_decay = {recipe.weight_decay:.4g} and gradient = {recipe.gradient}; lower the learning rate"
        )

    def _finish(self) -> None:
        """Set the input to its full size and the scored weights to their final state."""
        self.network.resize.training_size = None
        if self.quantiser:
            self.quantiser.restore_continuous()
        if self.lookahead:
            self.lookahead.synchronise()
        if self.quantiser:
            self.quantiser.project(self.scored)
        if self.recipe.norm_images:
            rows = torch.randperm(len(self.data.train), generator=self.generator)[: self.recipe.norm_images]
            self._reestimate_norms(self.data.train.images[rows])

    def _reestimate_norms(self, images: Tensor) -> None:
        parts = torch.tensor_split(images, math.ceil(len(images) / self.recipe.batch_size))  # of nearly equal sizes
        reestimate_norms(self.scored, (self.normalise(part.to(self.device)) for part in parts))

    @contextmanager
    def _final_weights(self) -> Iterator[None]:
        """Set the weights and statistics that would be scored if the training ended now, then restore the current ones.

        So a point of the curve is what a training stopped there would reach. No random number is drawn.
        """
        lookahead = self.lookahead if self.scored is self.network else None
        if not (lookahead or self.recipe.norm_images or self.quantiser):
            yield
            return
        current = copy.deepcopy(self.scored.state_dict())
        if self.quantiser and self.scored is self.network:
            self.quantiser.restore_continuous()
        if lookahead:
            lookahead.interpolate()
        if self.quantiser:
            self.quantiser.project(self.scored)
        if self.recipe.norm_images:
            images = min(self.recipe.norm_images, self.curve_images or TIMED_IMAGES)
            self._reestimate_norms(self.data.train.images[:images])
        yield
        self.scored.load_state_dict(current)

    def _take_snapshot(self) -> None:
        """Copy the network if a snapshot is due, as a point of the curve would score it: norms are re-estimated on the curve's images."""
        if self.due_snapshots and self.clock.fraction() >= self.due_snapshots[0]:
            del self.due_snapshots[0]
            with self._final_weights():
                self.snapshots.append(copy.deepcopy(self.scored))
            self.snapshots[-1].resize.training_size = None
            self.network.train()

    def _update_curve(self) -> None:
        """Add a point to the learning curve if one is due and its time fits."""
        fraction, seconds = self.clock.fraction(), self.clock.seconds()
        passed = [due for due in self.due_fractions if fraction >= due]
        del self.due_fractions[: len(passed)]  # a long step may pass several
        if passed and self.curve_images and self.clock.has_room(self.curve_seconds):
            logits, labels = self._score_curve_images()
            point = CurvePoint(fraction, seconds, self.steps, accuracy(logits, labels), log_loss(logits, labels))
            self.curve.append(point)

    def _report_progress(self) -> None:
        """Report the progress, at most twice a second."""
        seconds = self.clock.seconds()
        if self.progress and seconds - self.last_report >= PROGRESS_SECONDS:
            self.last_report = seconds
            self.progress(self.clock.fraction(), seconds)

    def _score_curve_images(self) -> tuple[Tensor, Tensor]:
        """Return logits (n, classes) and labels (n,) of the curve's images, and reserve time for scoring at the end."""
        part = Split(self.data.val.images[: self.curve_images], self.data.val.labels[: self.curve_images])
        synchronise(self.device)  # the last step is no part of the scoring
        began = time.perf_counter()
        with self._final_weights():
            synchronise(self.device)
            start = time.perf_counter()
            logits = predict(self.scored, part, self.normalise, self.device, self.recipe.test_flip)
            self.scoring_seconds = time.perf_counter() - start
        self.network.train()
        self.curve_seconds = time.perf_counter() - began
        norm_images = min(self.recipe.norm_images, len(self.data.train)) / self.recipe.views
        networks = len(self.networks) + len(self.due_snapshots)
        self.clock.reserve(
            SCORING_MARGIN * self.scoring_seconds * (networks * len(self.data.val) + norm_images) / len(part)
        )
        return logits, part.labels
