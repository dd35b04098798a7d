"""Models that have a network: their exact costs, and metrics that are measured on this device again and again."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from jointnas.campaign.baselines import ARCHITECTURES, trainable
from jointnas.campaign.baselines import candidate as baseline
from jointnas.campaign.candidate_file import built_in_recipes, candidate_costs, find_candidate
from jointnas.efficiency.models import MODEL, Metric, Model
from jointnas.errors import EfficiencyError, suggest
from jointnas.execution import Job, LocalExecutor, Slot
from jointnas.measurement.meter import (
    PATIENCE_SECONDS,
    TOGETHER,
    check_metrics,
    payload_of,
    prepare_measurements,
    workload_of,
)
from jointnas.network.library_networks import is_known
from jointnas.network.operations.operation import Shape
from jointnas.space.knob_space import Candidate
from jointnas.training.job import WORKER_MODULES

BASELINES = "baselines"  # the name of all of them

Progress = Callable[[int, int], None]
"""Called after each measurement, with how many have ended and how many there are."""


def candidates_named(name: str) -> dict[str, Candidate] | None:
    """Return the candidates that a name stands for: all baselines or one, a built-in recipe, a candidate file, or a network of torchvision
    or timm; None for anything else."""
    if name == BASELINES:
        return {own: baseline(own) for own in trainable(list(ARCHITECTURES))}
    if name in ARCHITECTURES:
        return {name: baseline(name)}
    if Path(name).suffix in (".toml", ".json"):
        return {Path(name).stem: find_candidate(name).candidate}
    if name in built_in_recipes():
        return {name: find_candidate(name).candidate}
    if is_known(name):
        return {name: {"architecture": {"network": "library", "name": name}, "recipe": {}}}
    return None


def unknown_model(name: str) -> EfficiencyError:
    """Return the error of a name that stands for no model."""
    names = [BASELINES, *ARCHITECTURES, *built_in_recipes()]
    return EfficiencyError(
        "a model is a table (.csv), a run, a winner's folder, a candidate file, a baseline, a recipe, or a network of torchvision or timm, "
        f"got {name!r}: {suggest(name, names)}"
    )


def with_costs(candidates: Mapping[str, Candidate], input_shape: Shape, classes: int) -> list[Model]:
    """Return models with their exact costs for images of shape (C, H, W). Raises `BlueprintError`."""
    models = []
    for name, candidate in candidates.items():
        costs = candidate_costs(candidate, input_shape, classes)
        models.append(Model(name, {metric: Metric((float(value),)) for metric, value in costs.items()}, candidate))
    return models


def measured(
    models: Sequence[Model],
    metrics: Sequence[str],
    repeats: int,
    slot: Slot,
    input_shape: Shape,
    classes: int,
    progress: Progress = lambda ended, total: None,
) -> list[Model]:
    """Return the models with metrics measured `repeats` times each, in a worker of the slot; a model without a network keeps what it has.

    All models are measured once before any is measured again, so that what drifts on the device affects all alike. Metrics that the meter
    measures together have the same rows. Raises `ConstraintError` for a metric that cannot be measured here, `EfficiencyError` where
    measuring a model failed.
    """
    check_metrics(metrics, slot.device)
    if repeats < 1:
        raise EfficiencyError(f"--repeats must be 1 or more, got {repeats}: raise it")
    groups = [group for own in TOGETHER if (group := [metric for metric in metrics if metric in own])]
    own = [(i, model) for i, model in enumerate(models) if model.candidate is not None]
    payloads, places = [], []
    for row in range(repeats):
        for i, model in own:
            assert model.candidate is not None
            for group in groups:
                payloads.append(payload_of(*workload_of(model.candidate, input_shape, classes), group))
                places.append((i, row))
    found: dict[int, dict[str, dict[int, float]]] = {i: {} for i, _ in own}
    prepare = partial(prepare_measurements, input_shape, classes, slot.device)
    with LocalExecutor(prepare, replace(slot, workers=1), PATIENCE_SECONDS, WORKER_MODULES) as executor:
        ended = 0
        for event in executor.results([Job(number, payload) for number, payload in enumerate(payloads)]):
            if event.kind == "failed":
                name = models[places[event.number][0]].name
                raise EfficiencyError(f"{name} cannot be measured ({event.reason}): leave it out")
            if event.kind == "done":
                i, row = places[event.number]
                for metric, value in event.result["metrics"].items():
                    if metric in metrics:
                        found[i].setdefault(metric, {})[row] = value
                ended += 1
                progress(ended, len(payloads))
    return [_with(model, found.get(i, {})) for i, model in enumerate(models)]


def _with(model: Model, values: Mapping[str, Mapping[int, float]]) -> Model:
    metrics = {
        metric: Metric(tuple(own[r] for r in sorted(own)), rows=tuple(sorted(own))) for metric, own in values.items()
    }
    return Model(model.name, {**model.metrics, **metrics}, model.candidate)


def write_table(models: Sequence[Model], path: Path) -> None:
    """Write models as a CSV that `read_table` reads: a row for each repeat. Raises `EfficiencyError`."""
    names = list(dict.fromkeys(name for model in models for name in model.metrics))
    deviations = [n for n in names if any(m.metrics[n].deviation is not None for m in models if n in m.metrics)]
    columns = [MODEL, *(c for n in names for c in ([n, f"{n}_std"] if n in deviations else [n]))]
    rows = []
    for model in models:
        for i in range(max(len(metric.values) for metric in model.metrics.values())):
            row: dict[str, object] = {MODEL: model.name}
            for name, metric in model.metrics.items():
                if i < len(metric.values) and math.isfinite(metric.values[i]):
                    row[name] = repr(metric.values[i])
                if i == 0 and metric.deviation is not None:
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
