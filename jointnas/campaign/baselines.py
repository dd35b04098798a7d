"""The eighteen baselines that HAET 2021's second team chose its network among, and the campaign that ranks them.

The networks are those of the pytorch-cifar collection: families of ours where there is one, so that a later search can scale
depth and width too; else `classic` networks, or torchvision's and timm's. All have one recipe, pytorch-cifar's: SGD at 0.1,
momentum 0.9 (Nesterov's, the one kind there is), weight decay 5e-4 on everything, batches of 128, crop and flip, a cosine that
falls from the first step on. A repeat trains every baseline once, on its own draw of training and validation images.
From 64 pixels on, the families keep their stems at stride 1, unless a candidate sets another; most others do not.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from jointnas.campaign.candidate_file import candidate_costs
from jointnas.campaign.events import Callback
from jointnas.campaign.retrain import spread
from jointnas.campaign.runner import Runner
from jointnas.campaign.spec import BaselinesSpec
from jointnas.campaign.store import Run
from jointnas.campaign.trial import Trial
from jointnas.data.dataset import load_data
from jointnas.data.spec import DataSpec
from jointnas.errors import BlueprintError, SearchError, suggest
from jointnas.network import library_networks
from jointnas.network.operations.operation import Shape
from jointnas.space.knob_space import Candidate
from jointnas.training.job import trial_executor

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

HANG_SECONDS = 900.0  # without progress: one batch of the largest network takes minutes on a slow CPU


def candidate(name: str, recipe: Mapping[str, Any] | None = None) -> Candidate:
    """Return a baseline's candidate, with another recipe than the plain one where it is given.

    Raises `SearchError` that suggests the nearest name.
    """
    if name not in ARCHITECTURES:
        raise SearchError(f"no baseline is called {name!r}: {suggest(name, ARCHITECTURES)}")
    return {"architecture": dict(ARCHITECTURES[name]), "recipe": dict(RECIPE if recipe is None else recipe)}


def candidates(spec: BaselinesSpec) -> dict[str, Candidate]:
    """Return what a run trains, by name."""
    return {**{name: candidate(name, spec.recipe) for name in spec.baselines}, **spec.also}


def trainable(names: Sequence[str]) -> list[str]:
    """Return the baselines, each once, whose libraries are installed. Raises `SearchError` for an unknown one."""
    return [name for name in dict.fromkeys(names) if all(map(find_spec, _libraries([candidate(name)])))]


def _libraries(chosen: Iterable[Candidate]) -> list[str]:
    """Return what the candidates' networks are taken from, where they are not ours."""
    architectures = [own["architecture"] for own in chosen]
    return sorted(
        {library_networks.find(str(a["name"])).library for a in architectures if a.get("network") == "library"}
    )


def repeat_images(spec: DataSpec, repeat: int) -> DataSpec:
    """Return the images of a repeat, from 1 on: as many as `spec` has, drawn by a seed of the repeat."""
    return replace(spec, seed=spec.seed + repeat - 1)


def train_baselines(run: Run, emit: Callback = lambda event: None) -> None:
    """Train each candidate of the run's spec once a repeat; trainings that the run holds are not repeated.

    The run's rounds are the repeats. Each training ends with a `TrialEnded` event.
    """
    spec = run.spec
    assert isinstance(spec, BaselinesSpec)
    assert spec.data is not None
    chosen = candidates(spec)
    trained = Counter(trial.round for trial in run.trials() if trial.observation)
    ended = {repeat for repeat, count in trained.items() if count == len(chosen)}
    for repeat in range(1, spec.repeats + 1):
        if repeat in ended:
            continue
        images = repeat_images(spec.data, repeat)
        fingerprint = load_data(images).fingerprint
        executor = trial_executor(
            images,
            run.context.slot,
            fingerprint,
            kind=spec.executor,
            hang_seconds=HANG_SECONDS,
        )
        with executor:
            runner = Runner(run, executor, spec.clock, spec.seed, emit, mixes_machines=spec.mix_machines)
            trials = [t for t in runner.trials.values() if t.round == repeat] or runner.add(
                repeat,
                list(chosen.values()),
                list(chosen),
                repeats=[repeat - 1] * len(chosen),
            )
            runner.train(trials)


def by_accuracy(trials: Sequence[Trial], spec: BaselinesSpec, input_shape: Shape, classes: int) -> list[dict[str, Any]]:
    """Return a row for each candidate of a run, the highest mean validation accuracy first and those without any last.

    macs and params are None where the network does not fit the images.
    """
    rows = [
        _row(own, name, [t for t in trials if t.identity == name], input_shape, classes)
        for name, own in candidates(spec).items()
    ]
    rows.sort(key=lambda row: row["val_accuracy"]["mean"] or -1.0, reverse=True)
    return [{"rank": place, **row} for place, row in enumerate(rows, 1)]


def _row(own: Candidate, name: str, trials: Sequence[Trial], input_shape: Shape, classes: int) -> dict[str, Any]:
    ended = [(t.round, t.observation) for t in trials if t.observation]
    good = [o for _, o in ended if o.accuracy is not None]
    return {
        "name": name,
        **own,
        "val_accuracy": spread([o.accuracy for o in good if o.accuracy is not None]),
        "images_per_second": statistics.fmean(o.images_per_second or 0.0 for o in good) if good else None,
        **_costs(own, input_shape, classes),
        "failures": [f"repeat {repeat}: {o.failure}" for repeat, o in ended if o.accuracy is None],
    }


def _costs(own: Candidate, input_shape: Shape, classes: int) -> dict[str, int | None]:
    try:
        costs = candidate_costs(own, input_shape, classes)
    except BlueprintError:  # its trainings report it as their failure
        return {"macs": None, "params": None}
    return {metric: int(costs[metric]) for metric in ("macs", "params")}
