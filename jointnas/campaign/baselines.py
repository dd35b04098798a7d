"""The eighteen baselines that HAET 2021's second team chose its network among, and the campaign that ranks them.

The networks are those of the pytorch-cifar collection: families of ours where there is one, so that a later search can scale
depth and width too; else `classic` networks, or torchvision's and timm's. All have one recipe, pytorch-cifar's: SGD at 0.1,
momentum 0.9 (Nesterov's, the one kind there is), weight decay 5e-4 on everything, batches of 128, crop and flip, a cosine that
falls from the first step on. A repeat trains every baseline once, on training and validation images of its own.
From 64 pixels on, the families keep their stems at stride 1, unless a candidate says otherwise; most others do not.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

from jointnas.campaign.retrain import spread
from jointnas.campaign.runner import SEED_STRIDE
from jointnas.campaign.store import Run, Trial
from jointnas.data import DataSpec, load_data
from jointnas.errors import BlueprintError, SearchError, suggest
from jointnas.execution import Event, Job, LocalExecutor, Slot
from jointnas.execution.worker import Handler
from jointnas.network import library_networks
from jointnas.network.cost import blueprint_cost
from jointnas.network.families import make_blueprint
from jointnas.network.operations.operation import Shape
from jointnas.space.knob_space import Candidate
from jointnas.training.clock import Clock
from jointnas.training.job import prepare_trials
from jointnas.training.observation import Observation

ARCHITECTURES: Mapping[str, Mapping[str, str | bool]] = {
    "lenet": {"network": "classic", "name": "lenet"},
    "vgg16": {"network": "classic", "name": "vgg16"},
    "resnet18": {"network": "resnet"},
    "preactresnet18": {"network": "resnet", "pre_activation": True},
    "senet18": {"network": "senet"},
    "resnext29": {"network": "classic", "name": "resnext29"},
    "densenet121": {"network": "library", "name": "densenet121"},
    "googlenet": {"network": "library", "name": "googlenet"},
    "mobilenet": {"network": "classic", "name": "mobilenet_v1"},
    "mobilenetv2": {"network": "mobilenet"},
    "shufflenet": {"network": "classic", "name": "shufflenet_v1"},
    "shufflenetv2": {"network": "library", "name": "shufflenet_v2_x1_0"},
    "efficientnetb0": {"network": "library", "name": "efficientnet_b0"},
    "regnetx200mf": {"network": "classic", "name": "regnetx_200mf"},
    "dpn92": {"network": "library", "name": "dpn92"},
    "pnasnet": {"network": "classic", "name": "pnasnet"},
    "dla": {"network": "classic", "name": "dla"},
    "simpledla": {"network": "classic", "name": "simpledla"},
}

RECIPE: Mapping[str, str | float | bool] = {
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "bias_weight_decay": 5e-4,
    "batch_size": 128,
    "schedule": "cosine",
    "warmup": 0.0,
    "label_smoothing": 0.0,
    "crop": 0.125,
    "flip": True,
}

HANG_SECONDS = 900.0  # without a word: one batch of the largest takes minutes on a slow CPU

Watch = Callable[[str, Trial], None]
"""Called with a baseline's name and its trial when that has ended."""


def candidate(name: str) -> Candidate:
    """Return a baseline's candidate. Raises `SearchError` that names the nearest known one."""
    if name not in ARCHITECTURES:
        raise SearchError(f"no baseline is called {name!r}: {suggest(name, ARCHITECTURES)}")
    return {"architecture": dict(ARCHITECTURES[name]), "recipe": dict(RECIPE)}


def trainable(names: Sequence[str]) -> list[str]:
    """Return the baselines, each once, whose libraries are installed. Raises `SearchError` for an unknown one."""
    return [name for name in dict.fromkeys(names) if all(find_spec(library) for library in _libraries([name]))]


def _libraries(names: Sequence[str]) -> list[str]:
    """Return what the baselines' networks are taken from, where they are not ours."""
    architectures = [candidate(name)["architecture"] for name in names]
    return sorted({library_networks.find(str(a["name"])).library for a in architectures if a["network"] == "library"})


def repeat_images(spec: DataSpec, repeat: int) -> DataSpec:
    """Return the images of a repeat, from 1 on: as many as `spec` says, drawn by a seed of the repeat's own."""
    return replace(spec, seed=spec.seed + repeat - 1)


def train_baselines(
    run: Run, names: Sequence[str], repeats: int, spec: DataSpec, slot: Slot, clock: Clock, watch: Watch
) -> None:
    """Train each baseline once a repeat; what the run already holds is not trained again.

    The run's rounds are the repeats, and the names are the same, in one order, whenever it is resumed.
    """
    for repeat in range(1, repeats + 1):
        trials = [t for t in run.trials() if t.round == repeat] or _ask(run, names, repeat, spec.seed)
        waiting = {t.number: t for t in trials if t.observation is None}
        if not waiting:
            continue
        images = repeat_images(spec, repeat)
        fingerprint = load_data(images).fingerprint
        prepare = partial(_prepare, images.to_json(), slot.device, fingerprint, _libraries(names))
        jobs = [
            Job(t.number, {"candidate": t.candidate, "clock": clock.to_json(), "seed": t.seed})
            for t in waiting.values()
        ]
        with LocalExecutor(prepare, slot, HANG_SECONDS) as executor:
            for event in executor.results(jobs):
                if event.kind in ("done", "failed"):
                    observation = _observed(event)
                    run.end_trial(event.number, observation)
                    trial = replace(waiting[event.number], observation=observation)
                    watch(_name(trial, names), trial)


def _ask(run: Run, names: Sequence[str], repeat: int, seed: int) -> list[Trial]:
    first = (repeat - 1) * len(names) + 1
    trials = [Trial(first + i, repeat, candidate(name), seed * SEED_STRIDE + first + i) for i, name in enumerate(names)]
    run.add_trials(trials, [f"{name} {repeat}" for name in names])
    return trials


def _name(trial: Trial, names: Sequence[str]) -> str:
    return names[(trial.number - 1) % len(names)]


def _prepare(spec: dict[str, Any], device: str, fingerprint: str, libraries: Sequence[str]) -> Handler:
    """Import what the networks are taken from before any clock runs, then prepare as for every trial."""
    for library in libraries:
        importlib.import_module(library)
    return prepare_trials(spec, device, fingerprint)


def _observed(event: Event) -> Observation:
    if event.kind == "failed":
        return Observation.failed(event.reason)
    return Observation.from_json(event.result["observation"])


def rank(trials: Sequence[Trial], names: Sequence[str], input_shape: Shape, classes: int) -> list[dict[str, Any]]:
    """Return a row for each baseline, the highest mean validation accuracy first and those without any last.

    macs and params are None where the network does not fit the images.
    """
    rows = [_row(name, [t for t in trials if _name(t, names) == name], input_shape, classes) for name in names]
    rows.sort(key=lambda row: row["val_accuracy"]["mean"] or -1.0, reverse=True)
    return [{"rank": place, **row} for place, row in enumerate(rows, 1)]


def _row(name: str, trials: Sequence[Trial], input_shape: Shape, classes: int) -> dict[str, Any]:
    ended = [(t.round, t.observation) for t in trials if t.observation]
    good = [o for _, o in ended if o.accuracy is not None]
    return {
        "name": name,
        **candidate(name),
        "val_accuracy": spread([o.accuracy for o in good if o.accuracy is not None]),
        "images_per_second": statistics.fmean(o.images_per_second or 0.0 for o in good) if good else None,
        **_costs(name, input_shape, classes),
        "failures": [f"repeat {repeat}: {o.failure}" for repeat, o in ended if o.accuracy is None],
    }


def _costs(name: str, input_shape: Shape, classes: int) -> dict[str, int | None]:
    try:
        found = blueprint_cost(make_blueprint(candidate(name)["architecture"], input_shape, classes))
    except BlueprintError:  # which its trainings tell as their failure
        return {"macs": None, "params": None}
    return {metric: found[metric] for metric in ("macs", "params")}
