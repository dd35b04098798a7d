"""The job of a worker that trains: one candidate under one budget; for a finished winner, also test and keep it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from jointnas.data.dataset import Data, load_data
from jointnas.data.spec import DataSpec
from jointnas.execution import find_executor
from jointnas.execution.executor import HANG_SECONDS, Event, Executor, Job
from jointnas.execution.slots import Slot
from jointnas.execution.worker import Handler, Progress
from jointnas.network.families import make_blueprint
from jointnas.network.module import save_weights
from jointnas.training.batches import Normalise
from jointnas.training.clock import StepClock, clock_from_json
from jointnas.training.observation import Observation
from jointnas.training.recipe import Recipe
from jointnas.training.scoring import accuracies, predict
from jointnas.training.trainer import CURVE_IMAGES, train_network

WORKER_MODULES = ("jointnas.training.job", "torch._dynamo")  # optimizers import the latter in their first step


@dataclass(frozen=True)
class TrainingJob:
    """One training that a worker is asked for.

    clock: as `Clock.to_json` gives it. stop_at: fraction of the budget after which it ends. curve_images: validation images that the
    learning curve is read on. test: score the test images too, after the clock. weights: the file to keep the weights in.
    """

    candidate: Mapping[str, Any]
    clock: Mapping[str, float]
    seed: int
    stop_at: float = 1.0
    curve_images: int = CURVE_IMAGES
    test: bool = False
    weights: str | None = None

    def numbered(self, number: int) -> Job:
        """Return the executor's job with this number."""
        return Job(number, asdict(self))

    @classmethod
    def from_json(cls, payload: Mapping[str, Any]) -> TrainingJob:
        """Return the job in an executor's payload."""
        return cls(**payload)


@dataclass(frozen=True)
class TrainingResult:
    """What a worker returns. test_accuracy: None where the job did not ask for it, or failed."""

    observation: Observation
    test_accuracy: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return JSON types."""
        return {"observation": self.observation.to_json(), "test_accuracy": self.test_accuracy}

    @classmethod
    def of(cls, event: Event) -> TrainingResult:
        """Return the result that a "done" or "failed" event carries."""
        if event.kind == "failed":
            return cls(Observation.failed(event.reason))
        return cls(Observation.from_json(event.result["observation"]), event.result["test_accuracy"])


def trial_executor(
    spec: DataSpec,
    slot: Slot,
    fingerprint: str | None,
    *,
    kind: str = "local",
    hang_seconds: float = HANG_SECONDS,
    libraries: tuple[str, ...] = (),
) -> Executor:
    """Return workers that train candidates on the images of `spec`, which must have this fingerprint.

    kind: the executor's name. libraries: modules to import before any clock starts, for networks that are taken from them.
    """
    prepare = partial(prepare_trials, spec.to_json(), slot.device, fingerprint)
    return find_executor(kind)(prepare, slot, hang_seconds, (*WORKER_MODULES, *libraries))


def prepare_trials(spec: Mapping[str, Any], device: str, fingerprint: str | None) -> Handler:
    """Load the data and warm the libraries up, before any clock starts; return what trains a payload's candidate."""
    data = load_data(DataSpec(**spec), fingerprint=fingerprint)
    _warm_up(data, device)

    def handle(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
        return run_job(TrainingJob.from_json(payload), data, device, progress).to_json()

    return handle


def run_job(job: TrainingJob, data: Data, device: str, progress: Progress | None = None) -> TrainingResult:
    """Train the job's candidate in this process and return its result."""
    network = make_blueprint(job.candidate["architecture"], data.input_shape, len(data.classes))
    recipe = Recipe.from_knobs(job.candidate["recipe"])
    observation, model = train_network(
        network,
        recipe,
        data,
        clock_from_json(dict(job.clock)),
        seed=job.seed,
        device=device,
        stop_at=job.stop_at,
        curve_images=job.curve_images,
        progress=progress,
    )
    test_accuracy = None
    if job.test:
        split = data.test()
        normalise = Normalise(data.mean, data.std, torch.device(device))
        tell = (lambda: progress(1.0, observation.seconds or 0.0)) if progress else (lambda: None)
        logits = predict(model, split, normalise, torch.device(device), recipe.test_flip, tell)
        test_accuracy = accuracies(logits, split.labels)[0]
    if job.weights:
        save_weights(model, Path(job.weights))
    return TrainingResult(observation, test_accuracy)


def _warm_up(data: Data, device: str) -> None:
    """Take one step with a tiny network, so that imports and first calls do not count against a budget."""
    network = make_blueprint({"network": "resnet9", "width": 4}, data.input_shape, len(data.classes))
    recipe = Recipe(batch_size=min(32, len(data.train)), optimizer="adamw")
    train_network(network, recipe, data, StepClock(1), device=device)
