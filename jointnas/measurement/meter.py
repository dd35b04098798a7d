"""The meter: measured metrics of candidates, from the store, or from a worker in a slot like the run's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from jointnas.errors import ConstraintError, suggest
from jointnas.execution import Job, LocalExecutor, Slot
from jointnas.execution.contention import CpuShare
from jointnas.execution.worker import Handler, Progress
from jointnas.measurement.device_command import DeviceCommand
from jointnas.measurement.inference import BATCH, energy_counters, measure_energy, measure_inference
from jointnas.measurement.store import Store, key, surroundings
from jointnas.measurement.training import make_trainer, measure_training, step_memory
from jointnas.network import families
from jointnas.network.blueprint import Blueprint
from jointnas.network.operations.operation import Shape
from jointnas.space.constraint import MEASURED, TRAINING_METRICS
from jointnas.training.clock import StepClock
from jointnas.training.job import WORKER_MODULES
from jointnas.training.observation import QUIET_CPU_SHARE
from jointnas.training.recipe import Recipe
from jointnas.training.trained_blueprint import trained_blueprint

PATIENCE_SECONDS = 600.0  # without a message from the worker; measuring a network sends none

LATENCY = "latency"

Workload = tuple[Blueprint, Recipe]

TOGETHER = (("latency", "latency_p95"), ("batch_latency", "batch_latency_p95"), ("energy",), TRAINING_METRICS)
"""Metrics that are measured together."""


def check_metrics(metrics: Iterable[str], device: torch.device | str) -> None:
    """Raise `ConstraintError` for a metric that does not exist or that this device cannot measure."""
    for metric in metrics:
        if metric not in MEASURED:
            raise ConstraintError(f"no measured metric is called {metric!r}: {suggest(metric, MEASURED)}")
        if metric == "energy":
            energy_counters(torch.device(device))


def measure(
    candidate: Mapping[str, Any], input_shape: Shape, classes: int, metrics: Sequence[str], device: torch.device | str
) -> dict[str, float]:
    """Measure a candidate's metrics in this process, which should do nothing else meanwhile.

    Raises `ConstraintError` as `check_metrics` does, and `BlueprintError` or `RecipeError` for an invalid candidate.
    """
    metrics_by_name = measure_workload(*workload_of(candidate, input_shape, classes), classes, metrics, device)
    return {metric: metrics_by_name[metric] for metric in metrics}


def measure_workload(
    blueprint: Blueprint, recipe: Recipe, classes: int, metrics: Sequence[str], device: torch.device | str
) -> dict[str, float]:
    """Return the metrics of a network, and those that are measured together with them.

    Inference metrics are of all views that the recipe scores; its other knobs and `classes` affect training metrics alone.
    """
    check_metrics(metrics, device)
    measures: tuple[Callable[[], tuple[float, ...]], ...] = (
        lambda: measure_inference(blueprint, device, 1, recipe.test_flip),
        lambda: measure_inference(blueprint, device, BATCH, recipe.test_flip),
        lambda: (measure_energy(blueprint, device, energy_counters(torch.device(device)), recipe.test_flip),),
        lambda: measure_training(blueprint, recipe, classes, device),
    )
    metrics_by_name: dict[str, float] = {}
    for names, figures in zip(TOGETHER, measures, strict=True):
        if any(name in metrics for name in names):
            metrics_by_name.update(zip(names, figures(), strict=True))
    return metrics_by_name


def prepare_measurements(input_shape: Shape, classes: int, device: str) -> Handler:
    """Warm up the libraries and return the handler that measures a payload's network."""
    tiny = families.make_blueprint({"network": "resnet9", "width": 4}, input_shape, classes)
    step_memory(make_trainer(tiny, Recipe(batch_size=32), classes, StepClock(1), torch.device(device)))

    def handle(payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
        blueprint, recipe = Blueprint.from_json(payload["blueprint"]), Recipe.from_knobs(payload["recipe"])
        share = CpuShare()
        metrics = measure_workload(blueprint, recipe, classes, payload["metrics"], device)
        return {"metrics": metrics, "cpu_share": share.read() if device == "cpu" else None}

    return handle


class Meter:
    """Measures candidates in one worker, which starts when a measurement is missing; use it as a context manager.

    command: measures `latency` on another device in the place of this one. failures: the reasons of the last call's failures, each once.
    """

    def __init__(
        self,
        slot: Slot,
        input_shape: Shape,
        classes: int,
        store: Store | None = None,
        command: DeviceCommand | None = None,
    ) -> None:
        self.slot, self.input_shape, self.classes, self.command = slot, input_shape, classes, command
        self.store = store or Store()
        self.failures: tuple[str, ...] = ()
        self._measured: dict[str, float] = {}  # by this meter, also what is not stored
        self._executor: LocalExecutor | None = None

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker."""
        if self._executor:
            self._executor.close()
            self._executor = None

    def measure(self, candidates: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> list[dict[str, float]]:
        """Return each candidate's metrics, NaN where measuring failed, for example because memory ran out.

        Raises `ConstraintError` for a metric that cannot be measured here, `DataError` where the store cannot be written.
        """
        return self.measure_workloads([self.workload(c) for c in candidates], metrics)

    def workload(self, candidate: Mapping[str, Any]) -> Workload:
        """Return a candidate's blueprint and recipe."""
        return workload_of(candidate, self.input_shape, self.classes)

    def measure_workloads(self, workloads: Sequence[Workload], metrics: Sequence[str]) -> list[dict[str, float]]:
        """Return the metrics of networks with their recipes, as `measure` does; each is measured and stored once.

        What was measured while other programs took too much of the processor is returned but not stored.
        """
        check_metrics(metrics, self.slot.device)
        self.failures = ()
        if not metrics:
            return [{} for _ in workloads]
        keys = [{metric: self._key(metric, workload) for metric in metrics} for workload in workloads]
        stored = {**self.store.read({name for row in keys for name in row.values()}), **self._measured}
        if self.command is not None:
            stored |= self._on_device(workloads, keys, stored)
        requested: set[str] = set(stored)
        jobs: list[Job] = []
        measured: list[Workload] = []  # of the jobs: one for each measurement, so that a failure affects no other
        for workload, row in zip(workloads, keys, strict=True):
            missing = [m for m, name in row.items() if name not in requested and not self._is_remote(m)]
            requested.update(row.values())
            for together in TOGETHER:
                if some := [metric for metric in missing if metric in together]:
                    jobs.append(Job(len(jobs), payload_of(*workload, some)))
                    measured.append(workload)
        for event in self._workers().results(jobs) if jobs else ():
            if event.kind == "done":
                metrics_by_name, share = event.result["metrics"], event.result["cpu_share"]
                values = {
                    self._key(m, measured[event.number]): value
                    for m, value in metrics_by_name.items()
                    if not self._is_remote(m)
                }
                if share is None or share >= QUIET_CPU_SHARE:
                    self.store.write(values)
                self._measured.update(values)
                stored.update(values)
            elif event.kind == "failed":
                self.failures = tuple(dict.fromkeys([*self.failures, event.reason]))
        return [{metric: stored.get(name, math.nan) for metric, name in row.items()} for row in keys]

    def _is_remote(self, metric: str) -> bool:
        """Whether the command measures a metric."""
        return self.command is not None and metric == LATENCY

    def _key(self, metric: str, workload: Workload) -> str:
        """Return the key of a measurement in the store."""
        if self.command is not None and metric == LATENCY:
            return key(metric, *workload, {"command": self.command.identity})
        return key(metric, *workload, surroundings(self.slot))

    def _on_device(
        self, workloads: Sequence[Workload], keys: Sequence[Mapping[str, str]], stored: Mapping[str, float]
    ) -> dict[str, float]:
        """Return the latencies that are missing, as the command measures them, by their keys."""
        assert self.command is not None
        found: dict[str, float] = {}
        for workload, row in zip(workloads, keys, strict=True):
            name = row.get(LATENCY)
            if name is None or name in stored or name in found:
                continue
            try:
                found[name] = self.command.latency(*workload)
            except ConstraintError as error:
                self.failures = tuple(dict.fromkeys([*self.failures, str(error)]))
                continue
            self.store.write({name: found[name]})
        self._measured.update(found)
        return found

    def _workers(self) -> LocalExecutor:
        if self._executor is None:
            prepare = partial(prepare_measurements, self.input_shape, self.classes, self.slot.device)
            self._executor = LocalExecutor(prepare, replace(self.slot, workers=1), PATIENCE_SECONDS, WORKER_MODULES)
        return self._executor


def workload_of(candidate: Mapping[str, Any], input_shape: Shape, classes: int) -> Workload:
    """Return a candidate's blueprint and recipe."""
    return trained_blueprint(candidate, input_shape, classes), Recipe.from_knobs(candidate["recipe"])


def payload_of(blueprint: Blueprint, recipe: Recipe, metrics: Sequence[str]) -> dict[str, Any]:
    """Return the job of a worker of `prepare_measurements`: a network, its recipe, and metrics that are measured together."""
    return {"blueprint": blueprint.to_json(), "recipe": asdict(recipe), "metrics": metrics}
