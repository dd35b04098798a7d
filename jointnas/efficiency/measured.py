"""Models that have a network: their exact costs, and metrics that are measured on this device again and again."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from jointnas.campaign.baselines import ARCHITECTURES, trainable
from jointnas.campaign.baselines import candidate as baseline
from jointnas.campaign.candidate_file import CandidateFile, built_in_recipes, candidate_costs, find_candidate
from jointnas.efficiency.models import MODEL, Images, Metric, Model
from jointnas.errors import EfficiencyError, suggest
from jointnas.execution import Event, Job, LocalExecutor, Slot
from jointnas.measurement.meter import (
    PATIENCE_SECONDS,
    TOGETHER,
    check_metrics,
    payload_of,
    prepare_measurements,
    workload_of,
)
from jointnas.network.library_networks import is_known
from jointnas.training.job import WORKER_MODULES
from jointnas.training.observation import QUIET_CPU_SHARE

BASELINES = "baselines"  # the name of all of them

Progress = Callable[[int, int], None]
"""Called after each measurement, with how many have ended and how many there are."""


def networks_named(name: str) -> dict[str, CandidateFile] | None:
    """Return the candidates that a name stands for: all baselines or one, a built-in recipe, a candidate file, or a network of torchvision
    or timm; None for anything else."""
    if name == BASELINES:
        return {own: CandidateFile(baseline(own)) for own in trainable(list(ARCHITECTURES))}
    if Path(name).suffix in (".toml", ".json"):
        return {Path(name).stem: find_candidate(name)}
    own = network_named(name)
    return None if own is None else {name: own}


def network_named(name: str) -> CandidateFile | None:
    """Return the baseline, the built-in recipe, or the network of torchvision or timm of this name; None for anything else."""
    if name in ARCHITECTURES:
        return CandidateFile(baseline(name))
    if name in built_in_recipes():
        return find_candidate(name)
    if is_known(name):
        return CandidateFile({"architecture": {"network": "library", "name": name}, "recipe": {}})
    return None


def unknown_model(name: str) -> EfficiencyError:
    """Return the error of a name that stands for no model."""
    names = [BASELINES, *ARCHITECTURES, *built_in_recipes()]
    return EfficiencyError(
        "a model is a table (.csv), a run, a winner's folder, a candidate file, a baseline, a recipe, or a network of torchvision or timm, "
        f"got {name!r}: {suggest(name, names)}"
    )


def with_costs(files: Mapping[str, CandidateFile], images: Images) -> list[Model]:
    """Return models with their exact costs for these images. Raises `BlueprintError`."""
    models = []
    for name, file in files.items():
        costs = candidate_costs(file.candidate, *images, file.members)
        metrics = {metric: Metric((float(value),)) for metric, value in costs.items()}
        models.append(Model(name, metrics, file.candidate if file.members == 1 else None, images))
    return models


def check_measurements(metrics: Sequence[str], repeats: int, slot: Slot) -> None:
    """Raise `ConstraintError` for a metric that cannot be measured here, `EfficiencyError` for a number of repeats below 1."""
    check_metrics(metrics, slot.device)
    if repeats < 1:
        raise EfficiencyError(f"--repeats must be 1 or more, got {repeats}: raise it")


def measured(
    models: Sequence[Model],
    metrics: Sequence[str],
    repeats: int,
    slot: Slot,
    progress: Progress = lambda ended, total: None,
) -> list[Model]:
    """Return the models with metrics measured `repeats` times each, in a worker of the slot; a model without a network keeps what it has.

    A metric that a model had before is replaced. All models are measured once before any is measured again, so that what drifts on the device
    affects all alike; what other programs disturbed is measured once more at the end. Metrics that the meter measures together have rows of
    their own, below 0. Raises `ConstraintError` for a metric that cannot be measured here, `EfficiencyError` where measuring a model failed, or
    where models read images of different shapes.
    """
    check_measurements(metrics, repeats, slot)
    groups = [group for own in TOGETHER if (group := [metric for metric in metrics if metric in own])]
    own = [(i, m.candidate, m.images) for i, m in enumerate(models) if m.candidate is not None and m.images is not None]
    shapes = list(dict.fromkeys(images for _, _, images in own))
    if len(shapes) != 1:
        texts = " and ".join(f"{'×'.join(map(str, shape))} of {classes} classes" for shape, classes in shapes)
        raise EfficiencyError(
            f"networks are measured on images of one kind, got {texts or 'no network'}: rank them apart, or name networks"
        )
    payloads, places = [], []
    for row in range(repeats):
        for i, candidate, images in own:
            for number, group in enumerate(groups):
                payloads.append(payload_of(*workload_of(candidate, *images), group))
                places.append((i, -1 - row - number * repeats))
    found: dict[int, dict[str, dict[int, float]]] = {i: {} for i, _, _ in own}
    prepare = partial(prepare_measurements, *shapes[0], slot.device)
    jobs, ended = [Job(number, payload) for number, payload in enumerate(payloads)], 0
    disturbed: dict[int, Job] = {}
    with LocalExecutor(prepare, replace(slot, workers=1), PATIENCE_SECONDS, WORKER_MODULES) as executor:
        for event in itertools.chain(executor.results(jobs), _again(executor, disturbed)):
            if event.kind == "failed":
                name = models[places[event.number][0]].name
                raise EfficiencyError(f"{name} cannot be measured ({event.reason}): leave it out")
            if event.kind == "done":
                i, row = places[event.number]
                share = event.result.get("cpu_share")
                if share is not None and share < QUIET_CPU_SHARE:
                    disturbed.setdefault(event.number, jobs[event.number])
                for metric, value in event.result["metrics"].items():
                    if metric in metrics:
                        found[i].setdefault(metric, {})[row] = value
                ended += 1
                progress(ended, len(jobs) + len(disturbed))
    return [_with(model, found.get(i, {})) for i, model in enumerate(models)]


def _again(executor: LocalExecutor, disturbed: Mapping[int, Job]) -> Iterator[Event]:
    """Measure once more what other programs disturbed, when all measurements have ended."""
    yield from executor.results(list(disturbed.values()))


def _with(model: Model, values: Mapping[str, Mapping[int, float]]) -> Model:
    metrics = {
        metric: Metric(tuple(own[r] for r in sorted(own, reverse=True)), rows=tuple(sorted(own, reverse=True)))
        for metric, own in values.items()
    }
    return replace(model, metrics={**model.metrics, **metrics})


def write_table(models: Sequence[Model], path: Path) -> None:
    """Write models as a CSV that `read_table` reads: a row for each repeat, so that only what was measured together shares rows.

    Raises `EfficiencyError`.
    """
    names = list(dict.fromkeys(name for model in models for name in model.metrics))
    deviations = [n for n in names if any(m.metrics[n].deviation is not None for m in models if n in m.metrics)]
    columns = [MODEL, *(c for n in names for c in ([n, f"{n}_std"] if n in deviations else [n]))]
    rows: list[dict[str, object]] = []
    for model in models:
        blocks: dict[
            tuple[int, ...], list[str]
        ] = {}  # metrics by the rows that they were measured in; single values share one row
        for name, metric in model.metrics.items():
            blocks.setdefault(metric.rows if len(metric.values) > 1 else (), []).append(name)
        for own in blocks.values():
            for i in range(len(model.metrics[own[0]].values)):
                row: dict[str, object] = {MODEL: model.name}
                for name in own:
                    metric = model.metrics[name]
                    row[name] = repr(metric.values[i])
                    if metric.deviation is not None:
                        row[f"{name}_std"] = repr(metric.deviation)
                rows.append(row)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise EfficiencyError(
            f"the table {str(path)!r} cannot be written ({error.strerror}): choose another file"
        ) from error
