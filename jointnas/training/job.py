"""The job of a training worker: train one candidate under one budget; optionally test it and save its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError

from jointnas.data.dataset import Data, load_data
from jointnas.data.pack import Pack, open_pack
from jointnas.data.spec import DataSpec
from jointnas.errors import ExportError
from jointnas.execution import find_executor
from jointnas.execution.executor import HANG_SECONDS, Event, Executor, Job
from jointnas.execution.retrying import RetryingExecutor
from jointnas.execution.slots import Slot
from jointnas.execution.worker import Handler, Progress
from jointnas.network.blueprint import Blueprint
from jointnas.network.families import MORPHISMS, make_blueprint
from jointnas.network.module import Network
from jointnas.network.morphisms import apply, parse
from jointnas.network.operations.operation import Shape
from jointnas.network.weights_file import float_weights, read_weights, save_weights
from jointnas.training.batches import Normalise
from jointnas.training.clock import StepClock, clock_from_json
from jointnas.training.confusion import Confusion
from jointnas.training.ensemble import train_ensemble
from jointnas.training.members import LARGEST_ENSEMBLE, SEEDS
from jointnas.training.observation import Observation
from jointnas.training.recipe import Recipe
from jointnas.training.scoring import ensemble_logits, predict
from jointnas.training.trained_blueprint import trained_blueprint
from jointnas.training.trainer import CURVE_IMAGES, TIMED_IMAGES, train_network

WORKER_MODULES = ("jointnas.training.job", "torch._dynamo")  # optimizers import torch._dynamo in their first step


@dataclass(frozen=True)
class TrainingJob:
    """One training.

    clock: JSON of a clock. stop_at, curve_images: see `train_network`. test: also score the test images, outside of the budget.
    weights: the file to save the weights in. with_val: train on the validation images too; then the result has no accuracy.
    parent: the `Parent` whose weights the network starts from, which may have other bits; None for fresh weights.
    last_rate: see `train_network`.
    members, ensemble: how many networks to train together within the budget, and of which kind (`training.ensemble`).
    """

    candidate: Mapping[str, Any]
    clock: Mapping[str, float]
    seed: int
    stop_at: float = 1.0
    curve_images: int = CURVE_IMAGES
    test: bool = False
    weights: str | None = None
    with_val: bool = False
    parent: Mapping[str, Any] | None = None
    last_rate: float = 0.0
    members: int = 1
    ensemble: str = SEEDS

    def numbered(self, number: int) -> Job:
        """Return the job for an executor, with this number."""
        return Job(number, asdict(self))

    @classmethod
    def from_json(cls, payload: Mapping[str, Any]) -> TrainingJob:
        """Return the job of an executor's payload."""
        return cls(**payload)


@dataclass(frozen=True)
class Parent:
    """The network that another one is grown from: its architecture, of which the child's morphisms are a continuation, and its weights."""

    architecture: Mapping[str, Any]
    weights: str  # a safetensors file


@dataclass(frozen=True)
class TrainingResult:
    """The result of a job. test_accuracy, confusion: None without `test`, or after a failure. members: how many networks it has.

    confusion: counts of the test images by their class and the one they were given.
    unsaved: why their weights could not be written, as on a full disk; the training counts all the same.
    """

    observation: Observation
    test_accuracy: float | None = None
    members: int = 1
    unsaved: str = ""
    confusion: Sequence[Sequence[int]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "observation": self.observation.to_json(),
            "test_accuracy": self.test_accuracy,
            "members": self.members,
            "unsaved": self.unsaved,
            "confusion": self.confusion,
        }

    @classmethod
    def of(cls, event: Event) -> TrainingResult:
        """Return the result in a "done" or "failed" event."""
        if event.kind == "failed":
            return cls(Observation.failed(event.reason))
        result = event.result
        seen = Observation.from_json(result["observation"])
        others = {name: result[name] for name in ("members", "unsaved", "confusion") if name in result}
        return cls(seen, result["test_accuracy"], **others)


def trial_executor(
    spec: DataSpec,
    slot: Slot,
    fingerprint: str | None,
    *,
    kind: str = "local",
    hang_seconds: float = HANG_SECONDS,
) -> Executor:
    """Return an executor whose workers train candidates on the data of `spec`, which must have this fingerprint.

    A training that runs out of memory is run once more alone, and one whose machine was lost up to twice (`RetryingExecutor`).
    kind: the executor's name.
    """
    prepare = PrepareTrials(DataSpec(**spec.to_json()), slot.device, fingerprint)
    return RetryingExecutor(find_executor(kind)(prepare, slot, hang_seconds, WORKER_MODULES))


@dataclass(frozen=True)
class PrepareTrials:
    """Loads the data and warms up, before any clock starts; returns the function that runs a job.

    pack: the decoded images, where a worker has no file of them.
    """

    spec: DataSpec
    device: str
    fingerprint: str | None
    pack: Pack | None = None

    def __call__(self) -> Handler:
        """Return the function that runs a job."""
        data = load_data(self.spec, fingerprint=self.fingerprint, pack=self.pack)
        _warm_up(data, self.device)

        def handle(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
            return run_job(TrainingJob.from_json(payload), data, self.device, progress).to_json()

        return handle

    def carried(self) -> PrepareTrials:
        """Return this with the decoded images, for workers on other machines."""
        return replace(self, pack=open_pack(self.spec.source, self.spec.image_size, fit=self.spec.fit).in_memory())


def run_job(job: TrainingJob, data: Data, device: str, progress: Progress | None = None) -> TrainingResult:
    """Train the job's candidate in this process and return its result."""
    recipe = Recipe.from_knobs(job.candidate["recipe"])
    network = initial_network(job, data.input_shape, len(data.classes))
    blueprint = network.blueprint if isinstance(network, Network) else network
    for library in blueprint.libraries:  # before the clock starts
        import_module(library)
    own = data.with_val_in_train(TIMED_IMAGES) if job.with_val else data
    curve_images = 0 if job.with_val else job.curve_images
    if job.members > 1 and isinstance(network, Blueprint):
        observation, networks = train_ensemble(
            network,
            recipe,
            own,
            job.clock,
            job.members,
            job.ensemble,
            seed=job.seed,
            device=device,
            keep_all=job.with_val,
            curve_images=curve_images,
            progress=progress,
        )
    else:
        observation, model = train_network(
            network,
            recipe,
            own,
            clock_from_json(dict(job.clock)),
            seed=job.seed,
            device=device,
            stop_at=job.stop_at,
            curve_images=curve_images,
            progress=progress,
            last_rate=job.last_rate,
        )
        networks = [model]
    if job.with_val:
        observation = replace(
            observation, accuracy=None, balanced_accuracy=None, macro_f1=None, log_loss=None, smoothed_accuracy=None
        )
    tested = None
    if job.test:
        split = data.test()
        normalise = Normalise(data.mean, data.std, torch.device(device))
        report = (lambda: progress(1.0, observation.seconds or 0.0)) if progress else (lambda: None)
        logits = [predict(n, split, normalise, torch.device(device), recipe.test_flip, report) for n in networks]
        tested = Confusion.of(ensemble_logits(logits), split.labels, data.classes)
    unsaved = _save(networks, Path(job.weights)) if job.weights else ""
    if tested is None:
        return TrainingResult(observation, None, len(networks), unsaved)
    return TrainingResult(observation, tested.accuracy, len(networks), unsaved, tested.counts)


def _save(networks: Sequence[Network], weights: Path) -> str:
    """Write the weights of a job's networks; return why that is not possible, and then leave no file."""
    if not weights.parent.is_dir():
        return f"this machine has no folder {str(weights.parent)!r}"
    files = member_files(weights, LARGEST_ENSEMBLE)
    try:
        for stale in files[len(networks) :]:  # of an earlier training of this job that was interrupted
            stale.unlink(missing_ok=True)
        for network, path in zip(networks, files, strict=False):
            save_weights(network, path)
    except (OSError, SafetensorError) as error:
        for path in files:
            path.unlink(missing_ok=True)
        return str(error)
    return ""


def member_files(weights: Path, members: int) -> list[Path]:
    """Return the files of the weights of each member of an ensemble: that of a single network, then others beside it."""
    return [weights, *(weights.with_stem(f"{weights.stem}-member-{i}") for i in range(2, members + 1))]


def initial_network(job: TrainingJob, input_shape: Shape, classes: int) -> Blueprint | Network:
    """Return what a job trains: the candidate's blueprint, or its parent's network, grown by the morphisms that the candidate has more.

    The job's seed draws what the morphisms draw. Raises `ExportError` for weights that are not the parent's, `MorphismError`.
    """
    architecture = job.candidate["architecture"]
    if job.parent is None:
        return trained_blueprint(job.candidate, input_shape, classes)
    parent = Parent(**job.parent)
    shared, grown = (_parts(own) for own in (parent.architecture, architecture))
    networks = [make_blueprint(own.architecture, input_shape, classes) for own in (shared, grown)]
    if networks[0] != networks[1] or grown.morphisms[: len(shared.morphisms)] != shared.morphisms:
        raise ExportError(
            f"weights go with a network of the same architecture, got those of another one in {parent.weights!r}: give the network's own"
        )
    network = Network(make_blueprint(parent.architecture, input_shape, classes))
    tensors = float_weights(read_weights(Path(parent.weights)))
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ExportError(
            f"the weights in {parent.weights!r} are those of another network ({str(error).splitlines()[-1].strip()}): give its own"
        ) from error
    rng = torch.Generator().manual_seed(job.seed)
    for text in grown.morphisms[len(shared.morphisms) :]:
        network = apply(network, parse(text), rng)
    return network


class _Parts(NamedTuple):
    """An architecture without its morphisms, and these."""

    architecture: dict[str, Any]
    morphisms: list[str]


def _parts(architecture: Mapping[str, Any]) -> _Parts:
    own = {name: value for name, value in architecture.items() if name != MORPHISMS}
    return _Parts(own, list(architecture.get(MORPHISMS, ())))


def _warm_up(data: Data, device: str) -> None:
    """Train a tiny network for one step, so that no budget pays for imports and first calls."""
    network = make_blueprint({"network": "resnet9", "width": 4}, data.input_shape, len(data.classes))
    recipe = Recipe(batch_size=min(32, len(data.train)), optimizer="adamw")
    train_network(network, recipe, data, StepClock(1), device=device)
